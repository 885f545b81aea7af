"""Learner contestants: this project's double DQN as its trainer drives it, and a plain PyTorch loop as a baseline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from tensordict import TensorDict
from torch import Tensor, nn

from agents.build import build_agent
from agents.config import DQNConfig
from agents.dqn import DQN
from agents.names import STACK
from agents.training.monitor import Monitor
from benchmarks.speed.alternate import Contestant, Run, Series, ratio, repeated
from benchmarks.speed.replays import FRAME_SHAPE, filled_replay
from benchmarks.speed.settings import Settings
from replay import FrameReplay

NUM_ACTIONS = 4
BATCH = 32
BLOCK = 8
TARGET_PERIOD = 1_000
STEPS = 5_000  # filled; pixels of 35 MB, more than the caches of a core

Precision = Literal["fp32", "bf16"]
Network = Literal["nature", "small"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")


def agent_config(
    settings: Settings, network: str, precision: Precision = "fp32", compile: bool = False, nap: bool = False
) -> DQNConfig:
    config = DQNConfig(
        network=network,
        precision=precision,
        compile="true" if compile else "false",
        nap=nap,
        device=settings.device,
        threads=settings.threads,
        block=BLOCK,
    )
    return config.resolved()


def limit_name(precision: str) -> str:
    return f"arithmetic of an update at the 2048³ rate, {precision}"


def contestants(settings: Settings) -> list[Contestant]:
    """Ours in every precision, compiled and eager, with and without NaP; the plain loop for the Nature network."""
    found = []
    for network in settings.networks:
        for precision in PRECISIONS:
            for compile in (False, True) if settings.compile else (False,):
                found += [_ours(settings, network, precision, compile, nap) for nap in (False, True)]
            found.append(_ours(settings, network, precision, settings.compile, False, sampled=True))
            if settings.device.startswith("cuda"):
                found += [_graphed(settings, network, precision, nap) for nap in (False, True)]
    if "nature" in settings.networks:
        name = "plain loop (ours, in the style of CleanRL), without sampling"
        run = lambda: plain_run(settings)  # noqa: E731
        found.append(Contestant("learner nature", name, "updates/s", run, "peer", limit=limit_name("fp32")))
    return found


def _ours(
    settings: Settings, network: str, precision: Precision, compile: bool, nap: bool, sampled: bool = False
) -> Contestant:
    config = agent_config(settings, network, precision, compile, nap)
    parts = [precision, "compiled" if compile else "eager", "NaP" if nap else "plain"]
    name = ", ".join(parts) + (", with sampling" if sampled else "")
    run = lambda: block_run(config, sampled)  # noqa: E731
    return Contestant(f"learner {network}", name, "updates/s", run, work=BLOCK, limit=limit_name(precision))


def block_run(config: DQNConfig, sampled: bool = False) -> Run:
    """Blocks of updates as the trainer makes them; with NaP under the monitor, which reports once a log interval."""
    agent = build_agent(config, FRAME_SHAPE, NUM_ACTIONS, seed=0)
    monitor = Monitor(agent) if config.nap else None
    replay = learner_replay(config.device)
    fixed = replay.sample(BATCH, BLOCK)

    def run(blocks: int) -> None:
        for _ in range(blocks):
            for batch in agent.bootstrap(replay.sample(BATCH, BLOCK) if sampled else fixed):
                if monitor is None:
                    agent.update(batch)
                else:
                    monitor.before_update()
                    monitor.after_update(batch, agent.update(batch))
                    if monitor.count == config.steps_per_row:
                        monitor.report()
                if agent.updates % TARGET_PERIOD == 0:
                    agent.sync_target()

    return run


@cache
def learner_replay(device: str) -> FrameReplay:
    """One replay for all learners. They also share its sample buffer, so their pixels differ from those they drew."""
    return filled_replay(STEPS, 1, device)


def _graphed(settings: Settings, network: str, precision: Precision, nap: bool) -> Contestant:
    """One CUDA graph of a block: what is left when launching kernels costs nothing."""

    def setup() -> Run:
        agent = build_agent(agent_config(settings, network, precision, nap=nap), FRAME_SHAPE, NUM_ACTIONS, seed=0)
        replay = captured(agent, learner_replay(settings.device).sample(BATCH, BLOCK))
        return repeated(replay)

    name = f"{precision}, eager in a CUDA graph, {'NaP' if nap else 'plain'}"
    return Contestant(f"learner {network}", name, "updates/s", setup, work=BLOCK, limit=limit_name(precision))


def captured(agent: DQN, block: TensorDict) -> Callable[[], None]:
    """A call that makes the updates of a block, on the same pixels each time, as one CUDA graph.

    They are made once before the capture, eagerly, which makes the optimiser's state; the capture makes none.
    """
    for group in agent.optimizer.param_groups:
        group["capturable"] = True
    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        update_block(agent, block)
    torch.cuda.current_stream().wait_stream(side)
    graph.register_generator_state(agent.generator)
    with torch.cuda.graph(graph):
        update_block(agent, block)
    return graph.replay


def update_block(agent: DQN, block: TensorDict) -> None:
    for batch in agent.bootstrap(block):
        agent.update(batch)


def nap_costs(series: Sequence[Series]) -> dict[str, str]:
    """What NaP adds to the time of an update, as the median over rounds."""
    by_name = {(each.task, each.name): each for each in series}
    facts = {}
    for (task, name), each in by_name.items():
        projected = by_name.get((task, name.removesuffix("plain") + "NaP"))
        if name.endswith(", plain") and projected:
            facts[f"NaP adds, {task}, {name.removesuffix(', plain')}"] = f"{100 * (ratio(each, projected) - 1):.1f}%"
    return facts


class PlainNetwork(nn.Module):
    """The Nature network as usually written: default layout, pixels divided before the first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(STACK, 32, 8, stride=4), nn.ReLU(), nn.Conv2d(32, 64, 4, stride=2), nn.ReLU(),
            nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, NUM_ACTIONS),
        )  # fmt: skip

    def forward(self, pixels: Tensor) -> Tensor:
        return self.layers(pixels / 255.0)


def plain_run(settings: Settings) -> Run:
    """Double-DQN updates as a plain script makes them: eager, default Adam, one minibatch at a time."""
    torch.manual_seed(0)
    network = PlainNetwork().to(settings.device)
    target = deepcopy(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    batch = learner_replay(settings.device).sample(BATCH)[0].contiguous()
    updates = 0

    def update() -> None:
        with torch.no_grad():
            best = network(batch["next_obs"]).argmax(1, keepdim=True)
            targets = batch["reward"] + batch["discount"] * target(batch["next_obs"]).gather(1, best).squeeze(1)
        values = network(batch["obs"]).gather(1, batch["action"].unsqueeze(1)).squeeze(1)
        loss = F.mse_loss(values, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def run(count: int) -> None:
        nonlocal updates
        for _ in range(count):
            update()
            updates += 1
            if updates % TARGET_PERIOD == 0:
                target.load_state_dict(network.state_dict())

    return run
