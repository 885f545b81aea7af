"""What the speed commands measure, and for how long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from envs.registry import resolve_game
from experiment.config import ConfigError, suggest
from experiment.processor import available_cores
from experiment.setting import check_ranges, setting

GROUPS = ("learner", "replay", "environment", "loop", "memory", "limits")
NETWORKS = ("nature", "small")
LOOPS = {
    "dqn-small": "dqn --env Pong --utd 8",
    "dqn-small-nap": "dqn --env Pong --utd 8 --nap --schedule constant",
    "dqn-nature": "dqn --env Pong --utd 8 --network nature",
    "der-small": "der --config small --env Pong --utd 8",
    "minatar-nap": "dqn --env MinAtar/Breakout --n-step 1 --no-double-q --nap --schedule constant",
}
"""The training loops of --against by name: the command lines of their agents. A preset that an older checkout lacks is
spelled out: MinAtar's DQN is not double and has no n-step returns."""


@dataclass(frozen=True)
class Timing:
    """How long a command measures, and on how many threads."""

    rounds: int = setting(5, at_least=1)
    """Rounds; in each every contestant runs once. Results are medians over rounds."""
    seconds: float = setting(1.0, above=0, at_most=3600)
    """Time of one contestant in one round, about."""
    threads: int = setting(0, at_least=0)
    """CPU threads of torch; 0: all cores."""
    compile: bool = True
    """Compile losses; benchmarks.throughput measures eager ones as well."""

    def resolved(self) -> Self:
        """These settings with the machine's cores filled in; a fault raises ConfigError."""
        check_ranges(self)
        return replace(self, threads=self.threads or available_cores())


@dataclass(frozen=True)
class Settings(Timing):
    """What is measured, and for how long."""

    device: str = "cpu"
    """Device of networks and replay: cpu, cuda."""
    only: tuple[str, ...] = GROUPS
    """Groups to measure: learner, replay, environment, loop, memory, limits. Ratios to limits need limits."""
    networks: tuple[str, ...] = NETWORKS
    """Networks of the learner: nature, small."""
    peers: bool = True
    """Measure Stable-Baselines3 and Tianshou too, where they are installed."""
    capacity: int = setting(100_000, at_least=300)
    """Agent steps that the replay buffers of replay and memory hold; the peers' take 3.5 GB at 100,000."""
    game: str = "Breakout"
    """Game of environment and loop."""
    against: str | None = setting(None, metavar="CHECKOUT")
    """Folder of another checkout of the project: measure whole training loops of both in alternation, and nothing
    else."""
    loops: tuple[str, ...] = tuple(LOOPS)
    """--against: the training loops, by name."""
    out: str = "run/throughput"
    """Folder for throughput.json."""

    def resolved(self) -> Settings:
        """These settings with the machine's cores filled in; a fault raises ConfigError."""
        _check_names("only", self.only, GROUPS)
        _check_names("networks", self.networks, NETWORKS)
        _check_names("loops", self.loops, tuple(LOOPS))
        if self.against is not None and not (Path(self.against) / "agents" / "run.py").is_file():
            raise ConfigError(f"--against {self.against!r} is no checkout of this project: it has no agents/run.py")
        return replace(super().resolved(), game=resolve_game(self.game))


def _check_names(field: str, names: Sequence[str], known: Sequence[str]) -> None:
    if not names:
        raise ConfigError(f"--{field} needs at least one of {', '.join(known)}")
    for name in names:
        if name not in known:
            raise ConfigError(f"--{field}: {name!r} is none of {', '.join(known)}{suggest(name, known)}")
