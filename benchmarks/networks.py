"""What an update of each network costs: `python -m benchmarks.networks`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from agents.config import DQNConfig
from benchmarks.methods import WARM_UP, update_run
from benchmarks.speed.settings import Timing
from experiment.config import exit_on_bad_input, parse_cli
from experiment.interrupt import cli_session
from experiment.setting import setting
from experiment.tables import markdown_table
from experiment.values import counted

if TYPE_CHECKING:
    from benchmarks.speed.alternate import Run, Series

POOLS = ("none", "gap")


@dataclass(frozen=True)
class NetworksConfig(Timing):
    """What is measured, and for how long."""

    env: str = "Breakout"
    """Game of the minibatches."""
    networks: tuple[str, ...] = ("small", "nature", "impala:width=0.25", "impala:width=0.5", "impala")
    """Networks, as --network takes them."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the agent."""
    threads: int = setting(1, at_least=0)
    """CPU threads of torch; 0: all cores."""


def agent_config(config: NetworksConfig, network: str, pool: str) -> DQNConfig:
    """The settings of plain DQN with a network; ConfigError for one that there is not."""
    return DQNConfig(
        env=config.env,
        network=network,
        pool=pool,  # type: ignore[arg-type]
        precision=config.precision,
        compile="true" if config.compile else "false",
        threads=config.threads,
        schedule="constant",
        update_start=WARM_UP,
        steps=WARM_UP + 1,
    ).resolved()


def parameters(config: DQNConfig) -> int:
    """Parameters of an agent's network."""
    from agents.run import bare_agent

    return sum(parameter.numel() for parameter in bare_agent(config).network.parameters())


def name_of(agent: DQNConfig) -> str:
    return f"{agent.network}, pool {agent.pool}"


def run_of(agent: DQNConfig) -> Callable[[], Run]:
    """Builds the agent when it is measured first."""
    return lambda: update_run(agent)


def measure(config: NetworksConfig, agents: Sequence[DQNConfig]) -> list[Series]:
    """Updates a second of each agent."""
    from benchmarks.speed.alternate import Contestant, alternate
    from experiment.determinism import configure

    configure(config.threads, seed=0)
    contestants = [Contestant("update", name_of(agent), "updates/s", run_of(agent), work=8) for agent in agents]
    return alternate(contestants, config.rounds, config.seconds, lambda line: print(line, file=sys.stderr))


@cli_session()
def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, print; the exit code."""
    with exit_on_bad_input():
        config = parse_cli(
            NetworksConfig,
            argv,
            prog="python -m benchmarks.networks",
            description="The cost of an update of plain DQN with each network, with and without --pool gap.",
        ).resolved()
        agents = [agent_config(config, network, pool) for network in config.networks for pool in POOLS]
        weights = [parameters(agent) for agent in agents[:: len(POOLS)]]
        if config.compile:
            from experiment.compiler import check_compiler

            check_compiler("cpu")
    found = iter(measure(config, agents))
    how = f"{config.precision}, {'compiled' if config.compile else 'eager'}, {counted(config.threads, 'thread')}"
    print(f"{config.env}, {how}; updates/s, medians of {counted(config.rounds, 'round')} in alternation\n")
    cells = [
        (network, f"{count / 1e6:.2f} M", *(f"{next(found).median:.1f}" for _ in POOLS))
        for network, count in zip(config.networks, weights, strict=True)
    ]
    print(markdown_table(("network", "weights", "updates/s", "with --pool gap"), cells), end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
