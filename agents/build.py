"""Builds every part of a run from its settings. The parts themselves read no settings of other parts."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from copy import deepcopy
from functools import cache, partial
from typing import Any

import torch
from torch import nn

import envs
import nap
from agents.checks import check_side
from agents.config import DQNConfig
from agents.dqn import DQN
from agents.names import CLOSED_LOOP, EARLY_CYCLE, NETWORKS, STACK, is_own
from agents.networks.augmentation import drq
from agents.networks.encoders import Encoder, make_network
from agents.tasks import Visit
from agents.training.acting import EpsilonGreedy, FrameStack
from agents.training.adamw import FusedAdamW
from agents.training.fitting import FitProbe
from agents.training.monitor import StateProbe
from agents.training.trainer import Trainer
from agents.values import Categorical, Quantiles, Scalar, Values
from envs.padded import PaddedVectorEnv
from envs.protocol import Protocol
from envs.vector_env import VectorEnv
from experiment.config import ConfigError
from experiment.determinism import device_of, seeds
from experiment.guard import SkipNonFinite
from experiment.layout import memory_format
from experiment.part import as_mistake, build_part, own_part
from plasticity.joining import attach_later, method_names
from plasticity.method import Method
from plasticity.nap import NaP
from plasticity.registry import make
from replay import FrameReplay, PrioritisedReplay


def build_env(config: DQNConfig, num_envs: int, seed: int, game: str | None = None) -> VectorEnv:
    """The vector of environments of a game, the first of the run if none is given, as the run's network sees it.

    They have as many threads as the learner: emulators play while it waits. With overlap both work at once, and the
    emulators have one thread.
    """
    threads = 1 if config.overlap else min(num_envs, config.threads)
    channels = common_channels(config.games, config.rules, config.backend) if config.is_sequence else None
    game = game or config.games[0]
    with _installed():
        env = envs.make(game, config.rules, num_envs, seed, config.backend, threads, background=config.overlap)
    return env if channels in (None, env.frame_shape[0]) else PaddedVectorEnv(env, channels)


@contextmanager
def _installed() -> Iterator[None]:
    """Says in one line what is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigError(str(error)) from None


@cache
def common_channels(games: tuple[str, ...], rules: Protocol, backend: str) -> int | None:
    """The most channels that the frames of some games have; None if frames have no channels.

    Each game is made once. Raises ConfigError for games that one network cannot play.
    """
    shapes: dict[tuple[int, tuple[int, ...]], str] = {}
    channels = None
    for game in games:
        with _installed(), closing(envs.make(game, rules, 1, 0, backend)) as env:
            *own, height, width = env.frame_shape
            channels = max([channels or 0, *own]) or None
            shapes.setdefault((env.num_actions, (height, width)), game)
    if len(shapes) > 1:
        (first, (one, _)), (second, (two, _)) = ((game, shape) for shape, game in list(shapes.items())[:2])
        raise ConfigError(f"{first} has {one} actions and {second} {two}: one network cannot play both")
    return channels


def build_replay(config: DQNConfig, env: VectorEnv, seed: int) -> FrameReplay:
    """The replay; no larger than the whole run."""
    capacity = config.replay_steps
    check_memory(config, capacity, env.stack, env.frame_shape)
    kind = partial(PrioritisedReplay, **_priority_options(config)) if config.prioritised else FrameReplay
    device = device_of(config.device)
    try:
        shape, cut = env.frame_shape, env.earliest_truncation
        changes = config.tasks.task_steps // env.num_envs if config.is_sequence else None
        return kind(capacity, env.num_envs, shape, env.stack, cut, changes, device=device, seed=seed)
    except (RuntimeError, MemoryError):  # what torch and NumPy raise
        size = capacity * math.prod(env.frame_shape) / 1e9
        raise ConfigError(f"--replay-capacity: {capacity} steps need {size:,.1f} GB, which no room for them") from None


def _priority_options(config: DQNConfig) -> dict[str, Any]:
    betas = {"beta": config.priority_beta, "beta_final": config.priority_beta_final, "beta_steps": config.budget}
    return {"alpha": config.priority_alpha, "epsilon": config.priority_epsilon} | betas


def check_memory(config: DQNConfig, capacity: int, stack: int, frame_shape: tuple[int, ...]) -> None:
    """ConfigError if the replay and a block of minibatches are larger than all of the device's memory.

    An allocator may grant memory that does not exist. The run would then be killed when its replay fills.
    """
    device = device_of(config.device)
    total = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else _main_memory()
    replay = capacity * math.prod(frame_shape)
    augmented = 1 if config.augment == "none" else 5  # in float32 in addition to the bytes
    block = augmented * config.block * config.batch_size * 2 * stack * math.prod(frame_shape)
    there = f"{device} has {total / 1e9:,.1f} GB"
    if replay > total:
        raise ConfigError(f"--replay-capacity: {capacity} steps need {replay / 1e9:,.1f} GB, and {there}")
    if replay + block > total:
        sizes = f"--batch-size {config.batch_size} in blocks of {config.block} (--block)"
        raise ConfigError(f"{sizes} needs {block / 1e9:,.1f} GB, the replay {replay / 1e9:,.1f} GB, and {there}")


def _main_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def build_methods(config: DQNConfig, joining: Collection[str] = ()) -> list[Method]:
    """Plasticity methods in their order, each with a seed of its own; projection is last.

    joining: the names of those that join a run under way.
    """
    methods = make(config.plasticity, config.seed)
    if config.nap:
        methods.append(NaP(config.nap_norm, config.nap_axes, config.nap_every, config.nap_affine))
    attach_later(method_names(config), methods, joining)
    return methods


def build_schedule(config: DQNConfig, optimizer: torch.optim.Optimizer) -> nap.Schedule:
    """The learning rate over the agent steps in which updates are made; its peak is the optimiser's rate."""
    steps = config.schedule_steps
    if ":" in config.schedule:
        own = build_part("schedule", config.schedule, nap.Schedule, optimizer, steps)
        if config.task_schedule == "restart" and own.signal is not None:
            raise ConfigError(f"--task-schedule restart: {config.schedule} listens to a signal: leave one of them out")
        return own
    options: dict[str, Any] = {}
    if config.schedule != "constant":
        options["floor"] = config.lr_floor
    if config.schedule in ("cyclic", *EARLY_CYCLE):
        options["cycles"] = config.cycles
    if config.schedule == "cyclic":
        options["warmup"] = config.lr_warmup
    if config.schedule in EARLY_CYCLE:
        options |= {"cycle_fraction": config.cycle_fraction, "anneal": config.anneal}
    if config.schedule in EARLY_CYCLE[1:]:
        options["patience"] = config.cycle_patience
    if config.schedule == "early-cycle-cusum":  # of transitions that updates have seen least
        options["signal"] = "fresh_td_error"
    if config.schedule == "delayed-cosine":
        options |= {"delay": config.lr_delay, "warmup": config.lr_warmup}
    if config.schedule in CLOSED_LOOP:  # one sample per --log-interval: a run has 100 or so
        options |= {"cycle_steps": max(steps // config.cycles, 1), "warmup": config.lr_warmup}
        options |= {"threshold": config.rewarm_threshold, "min_samples": 10, "time_constant": 100}
        options["signal"] = "td_error"
    return nap.make_schedule(config.schedule, optimizer, steps, **options)


def build_probe(config: DQNConfig, agent: DQN, seed: int) -> StateProbe:
    """The probe of the agent's network. Raises ConfigError for a network whose features cannot be watched."""
    try:
        return StateProbe(agent, seed, on=config.steps_per_probe > 0)
    except ValueError as error:
        raise ConfigError(f"{error}; or switch the probe off: --probe-interval 0") from None


def build_values(config: DQNConfig) -> Values:
    """What the outputs of the settings' network mean."""
    if config.distribution == "c51":
        return Categorical(config.atoms, config.v_min, config.v_max, device_of(config.device))
    return Quantiles(config.quantiles) if config.distribution == "quantile" else Scalar()


def head_options(config: DQNConfig) -> dict[str, Any]:
    """The keyword arguments of `QNetwork` that the settings ask for."""
    size = {"none": None, "c51": config.atoms, "quantile": config.quantiles}[config.distribution]
    noise = {"noisy": config.noisy, "sigma0": config.noisy_sigma}
    return {"pool": config.pool == "gap", "size": size, "dueling": config.dueling, "streams": config.streams, **noise}


def check_own_parts(config: DQNConfig) -> None:
    """ConfigError unless a network or schedule of the user's can be imported and has the options that it is given."""
    for option, path, base in (("network", config.network, Encoder), ("schedule", config.schedule, nap.Schedule)):
        if ":" in path:
            own_part(option, path, base, 2, NETWORKS if option == "network" else None)


def build_agent(
    config: DQNConfig,
    frame_shape: tuple[int, ...],
    num_actions: int,
    seed: int,
    stack: int = STACK,
    joining: Collection[str] = (),
) -> DQN:
    """The agent that the settings describe, its network drawn from `seed`; `joining` as in `build_methods`."""
    check_side(config, min(frame_shape[-2:]))
    torch.manual_seed(seed)
    network = make_network(config.network, stack, frame_shape, num_actions, **head_options(config))
    agent = build_learner(config, network, joining)
    if is_own(config.network):
        _check_pass(config, agent, (stack, *frame_shape))
    return agent


def _check_pass(config: DQNConfig, agent: DQN, shape: tuple[int, ...]) -> None:
    """ConfigError unless a network of the user's runs in the precision of the settings, and compiled if they say so.

    Without this check the first update would end the run. A compiled network is only traced here: that takes a second.
    """
    pixels = torch.zeros(2, *shape, dtype=torch.uint8 if config.augment == "none" else torch.float32)
    pixels = pixels.to(device_of(config.device))
    with torch.no_grad(), as_mistake(f"--network {config.network}, with --precision {config.precision}"):
        agent.act_without_noise(pixels)
    if config.compile == "true":
        with as_mistake(f"--network {config.network}, with --compile true"):
            torch.compile(deepcopy(agent.online), fullgraph=True, backend="eager")(pixels)


def prepare(config: DQNConfig, network: nn.Module, joining: Collection[str] = ()) -> list[Method]:
    """The methods, which give the network its structure; ConfigError for methods that refuse it."""
    with as_mistake("--plasticity"):
        methods = build_methods(config, joining)
        for method in methods:
            method.prepare(network)
    if not config.is_sequence:
        _check_untold(config, methods)
    return methods


def _check_untold(config: DQNConfig, methods: list[Method]) -> None:
    """ConfigError for a method that acts at a change of game, where there is none."""
    for name, method in zip(method_names(config), methods, strict=True):
        if getattr(getattr(method, "timing", None), "at", None) == "task":
            one = f"{name}: at=task: the run has one game, and the method would never act"
            raise ConfigError(f"--plasticity: {one}: give --sequence, or another time")


def build_fit_probe(config: DQNConfig, env: VectorEnv, **options: Any) -> FitProbe:
    """The probe that compares a run's network with fresh ones, which have the structure that the methods give."""

    def fresh() -> nn.Module:
        shape, actions = env.frame_shape, env.num_actions
        network = make_network(config.network, env.stack, shape, actions, **head_options(config))
        prepare(config, network)
        return network

    return FitProbe(fresh, seeds(config.seed, "fit probe")["fit probe"], **options)


def build_learner(config: DQNConfig, network: nn.Module, joining: Collection[str] = ()) -> DQN:
    """The agent that owns network, optimiser, schedule and methods; ConfigError for methods that refuse the network."""
    methods = prepare(config, network, joining)
    device = device_of(config.device)
    network.to(device)
    network.to(memory_format=memory_format(network))  # type: ignore[call-overload]
    lr = torch.tensor(config.lr, device=device)
    optimizer = FusedAdamW(network.parameters(), lr, eps=config.adam_eps, weight_decay=config.weight_decay)
    kind: Callable[..., DQN] = DQN
    if config.agent is not None and ":" in config.agent:
        kind = partial(build_part, "agent", config.agent, DQN)
    schedule, values = build_schedule(config, optimizer), build_values(config)
    with as_mistake("--plasticity"):  # an agent attaches its methods
        return kind(
            network,
            optimizer,
            schedule,
            methods,
            values=values,
            augment=drq if config.augment == "drq" else None,
            generator=torch.Generator(device).manual_seed(seeds(config.seed, "noise")["noise"]),
            max_grad_norm=config.max_grad_norm,
            double_q=config.double_q,
            dtype={"fp32": torch.float32, "bf16": torch.bfloat16}[config.precision],
            compile=config.compile == "true",
            skip=SkipNonFinite(optimizer) if config.on_nonfinite == "skip" else None,
        )


def build_trainer(config: DQNConfig, agent_step: int = 0, joining: Collection[str] = ()) -> Trainer:
    """All parts of a run at their start. Emulators that begin again at `agent_step` draw other games.

    joining: the names of methods that join a run under way.
    """
    seed = seeds(config.seed, "network", "exploration", "replay", "probe")
    play = partial(build_play, config, agent_step)
    env = play(config.tasks[0])
    agent = build_agent(config, env.frame_shape, env.num_actions, seed["network"], env.stack, joining)
    replay = build_replay(config, env, seed["replay"])
    policy = EpsilonGreedy(agent.act, env.num_actions, seed["exploration"])
    stack = FrameStack(env.num_envs, env.stack, env.frame_shape, replay.device)
    probes = build_probe(config, agent, seed["probe"]), build_fit_probe(config, env)
    return Trainer(config, env, replay, agent, policy, stack, *probes, play)


def build_play(config: DQNConfig, agent_step: int, visit: Visit) -> VectorEnv:
    """The environments of a visit. Those that cannot be brought back draw other games where they begin again."""

    def begun(step: int) -> VectorEnv:
        name = f"play from {step}"
        return build_env(config, config.num_envs, seeds(config.seed, name)[name], visit.game)

    env = begun(visit.start)
    if agent_step > visit.start and not env.exact_resume:
        env.close()
        return begun(agent_step)
    return env
