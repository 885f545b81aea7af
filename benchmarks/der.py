"""Whole updates of DER on its small network, sampling and priorities with them, against two peers.

`python -m benchmarks.der` measures this project in its precisions, with and without NaP, at blocks of 8 and 1
minibatches, a careful script (`benchmarks.speed.der_recipe`) and Tianshou's Rainbow given the same network where it is
installed, in strict alternation, and prints updates/s and ratios to the peers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from experiment.config import ConfigError, exit_on_bad_input, parse_cli
from experiment.interrupt import cli_session
from experiment.processor import available_cores

if TYPE_CHECKING:
    from agents.config import DQNConfig
    from benchmarks.speed.alternate import Contestant, Run, Series

ACTIONS = 6
STEPS = 5_000  # filled; pixels of 35 MB, more than the caches of a core
TASK = "update of der-small at batch 32"
RECIPE, TIANSHOU = "a careful script, compiled", "Tianshou 2 Rainbow"


@dataclass(frozen=True)
class Settings:
    """What is measured, and for how long."""

    rounds: int = 7
    """Rounds; in each everyone runs once."""
    seconds: float = 1.0
    """Time of one contestant in one round, about."""
    threads: int = 0
    """CPU threads of torch; 0: all cores."""
    compile: bool = True
    """Compile ours and the script."""

    def resolved(self) -> Settings:
        """These settings with the machine's cores filled in; a fault raises ConfigError."""
        if self.rounds < 1 or self.threads < 0 or self.seconds <= 0:
            raise ConfigError("--rounds has to be at least 1, --threads at least 0 and --seconds above 0")
        return replace(self, threads=self.threads or available_cores())


def der_config(settings: Settings, *words: str) -> DQNConfig:
    """The settings of the preset, for so many threads."""
    from agents.cli import settings as agent_settings

    common = ["--config=small", "--env=Pong", f"--threads={settings.threads}", "--probe-interval=0"]
    return agent_settings("der", [*common, f"--compile={str(settings.compile).lower()}", *words])


def contestants(settings: Settings) -> list[Contestant]:
    """Ours, and the peers that are installed."""
    from benchmarks.speed.alternate import Contestant
    from benchmarks.speed.der_recipe import recipe_run

    field = []
    for precision in ("fp32", "bf16"):
        for label, words in (("", []), (", NaP", ["--nap"])):
            config = der_config(settings, f"--precision={precision}", *words)
            for block in (8, 1):
                setup = partial(ours, config, block)
                field.append(Contestant(TASK, f"{precision}{label}, {block} a call", "updates/s", setup, work=block))
    plain = der_config(settings)
    recipe = partial(recipe_run, plain, ACTIONS, STEPS, settings.compile)
    field.append(Contestant(TASK, RECIPE, "updates/s", recipe, "peer"))
    if find_spec("tianshou") is not None:
        field.append(Contestant(TASK, TIANSHOU, "updates/s", partial(tianshou, plain), "peer"))
    return field


def ours(config: DQNConfig, block: int) -> Run:
    """Blocks of updates as the trainer makes them."""
    import torch

    from agents.build import build_agent
    from agents.training.monitor import Monitor
    from benchmarks.speed.replays import FRAME_SHAPE, add_run
    from replay import PrioritisedReplay

    agent = build_agent(config, FRAME_SHAPE, ACTIONS, seed=0)
    monitor = Monitor(agent)
    replay = PrioritisedReplay(STEPS, 1, FRAME_SHAPE, alpha=config.priority_alpha, epsilon=config.priority_epsilon)
    add_run(replay)(replay.max_rows)

    def run(blocks: int) -> None:
        for _ in range(blocks):
            drawn = replay.sample(config.batch_size, block, n_step=config.n_step, gamma=config.gamma, clip_reward=1.0)
            batches = agent.bootstrap(drawn)
            for batch in batches:
                monitor.before_update()
                monitor.after_update(batch, agent.update(batch))
                if agent.updates % config.target_period == 0:
                    agent.sync_target()
            replay.update(drawn["index"], torch.stack([batch["losses"] for batch in batches]))
            if agent.updates % config.steps_per_row < block:
                monitor.report()

    return run


def tianshou(config: DQNConfig) -> Run:
    """Its Rainbow with its own replay and noisy layers, its convolutions and widths those of der-small."""
    import gymnasium as gym
    from tianshou.algorithm.algorithm_base import policy_within_training_step
    from tianshou.algorithm.modelfree.c51 import C51Policy
    from tianshou.algorithm.modelfree.rainbow import RainbowDQN
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.data import PrioritizedReplayBuffer

    from agents.config import STACK
    from benchmarks.speed.peers import tianshou_add_run

    policy = C51Policy(
        model=tianshou_network(config),
        action_space=gym.spaces.Discrete(ACTIONS),
        num_atoms=config.atoms,
        v_min=config.v_min,
        v_max=config.v_max,
    )
    algorithm = RainbowDQN(
        policy=policy,
        optim=AdamOptimizerFactory(lr=config.lr, eps=config.adam_eps),
        gamma=config.gamma,
        n_step_return_horizon=config.n_step,
        target_update_freq=config.target_period,
    )
    buffer = PrioritizedReplayBuffer(
        STEPS, stack_num=STACK, ignore_obs_next=True, save_only_last_obs=True, alpha=config.priority_alpha, beta=0.5
    )
    tianshou_add_run(buffer)(STEPS)

    def run(count: int) -> None:
        with policy_within_training_step(policy):
            for _ in range(count):
                algorithm.update(buffer=buffer, sample_size=config.batch_size)

    return run


def tianshou_network(config: DQNConfig) -> Any:
    """What its policy wants: pixels to probabilities [B, A, atoms], and a state."""
    import torch
    from tianshou.utils.net.discrete import NoisyLinear
    from torch import Tensor, nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            relu = nn.ReLU(inplace=True)
            self.features = nn.Sequential(nn.Conv2d(4, 32, 5, 5), relu, nn.Conv2d(32, 64, 5, 5), relu, nn.Flatten())
            linear = partial(NoisyLinear, noisy_std=config.noisy_sigma)
            self.q = nn.Sequential(linear(576, 256), relu, linear(256, ACTIONS * config.atoms))
            self.v = nn.Sequential(linear(576, 256), relu, linear(256, config.atoms))

        def forward(self, obs: Any, state: Any = None, info: Any = None) -> tuple[Tensor, Any]:
            x = self.features(torch.as_tensor(obs, dtype=torch.float32) / 255)
            advantage = self.q(x).view(-1, ACTIONS, config.atoms)
            value = self.v(x).view(-1, 1, config.atoms)
            return (value + advantage - advantage.mean(1, keepdim=True)).softmax(2), state

    return Net()


def lines(field: Sequence[Series]) -> list[str]:
    """A table: updates/s with best and worst round, milliseconds, and ratios to each peer round by round."""
    from benchmarks.speed.alternate import ratio

    peers = [each for each in field if each.role == "peer"]
    rows = [
        f"{TASK:34}{'updates/s':>10}{'range':>14}{'ms':>8}" + "".join(f"{'× ' + p.name.split()[0]:>12}" for p in peers)
    ]
    for each in field:
        low, high = each.range
        ratios = "".join(f"{ratio(each, peer):12.2f}" for peer in peers)
        rows.append(f"{each.name:34}{each.median:10.1f}{f'{low:.1f}-{high:.1f}':>14}{1e3 / each.median:8.2f}{ratios}")
    return rows


@cli_session()
def main(argv: Sequence[str] | None = None) -> int:
    """Parse, measure and print; the exit code."""
    with exit_on_bad_input():
        settings = parse_cli(
            Settings, argv, prog="python -m benchmarks.der", description="Measure DER's update.", presets={}
        ).resolved()
        if settings.compile:
            from experiment.compiler import check_compiler

            check_compiler("cpu")
    import torch

    from benchmarks.speed.alternate import alternate
    from experiment.determinism import configure

    configure(settings.threads, seed=0)
    torch._dynamo.config.recompile_limit = 64
    print("\n".join(lines(alternate(contestants(settings), settings.rounds, settings.seconds))))
    if find_spec("tianshou") is None:
        print("Tianshou is not installed: pip install -e .[bench]")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
