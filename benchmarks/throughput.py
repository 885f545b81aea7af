"""How fast learner, replay, environment and training loop are, against their peers and the machine's own limits.

`python -m benchmarks.throughput` measures everything in one process and in strict alternation, prints a table with
ratios, and writes throughput.json and roofline.png.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from envs.games import resolve_game
from experiment.config import ConfigError, exit_on_bad_input, near, parse_cli
from experiment.interrupt import cli_session
from experiment.processor import available_cores

GROUPS = ("learner", "replay", "environment", "loop", "limits")
NETWORKS = ("nature", "small")


@dataclass(frozen=True)
class Settings:
    """What is measured, and for how long."""

    rounds: int = 5
    """Rounds; in each everything runs once. Figures are medians over rounds."""
    seconds: float = 1.0
    """Time of one contestant in one round, about."""
    threads: int = 0
    """CPU threads of torch; 0: all cores."""
    device: str = "cpu"
    """Device of networks and replay: cpu, cuda."""
    only: tuple[str, ...] = GROUPS
    """Groups to measure: learner, replay, environment, loop, limits. Without limits no ratio to them is shown."""
    networks: tuple[str, ...] = NETWORKS
    """Networks of the learner: nature, small."""
    compile: bool = True
    """Measure compiled learners too."""
    peers: bool = True
    """Measure Stable-Baselines3 and Tianshou too, where they are installed."""
    capacity: int = 100_000
    """Agent steps that the measured replay buffers hold; the peers' take 3.5 GB at 100,000."""
    game: str = "Breakout"
    """Game of environment and loop."""
    out: str = "run/throughput"
    """Folder for throughput.json and roofline.png."""

    def resolved(self) -> Settings:
        """These settings with the machine's cores filled in; a fault raises ConfigError."""
        for field, low in {"rounds": 1, "threads": 0, "capacity": 300}.items():
            if getattr(self, field) < low:
                raise ConfigError(f"--{field} is {getattr(self, field)}: it has to be at least {low}")
        if self.seconds <= 0:
            raise ConfigError(f"--seconds is {self.seconds}: it has to be above 0")
        _check_names("only", self.only, GROUPS)
        _check_names("networks", self.networks, NETWORKS)
        return replace(self, game=resolve_game(self.game), threads=self.threads or available_cores())


def _check_names(field: str, names: Sequence[str], known: Sequence[str]) -> None:
    if not names:
        raise ConfigError(f"--{field} needs at least one of {', '.join(known)}")
    for name in names:
        if name not in known:
            raise ConfigError(f"--{field}: {name!r} is none of {', '.join(known)}{near(name, known)}")


@cli_session()
def main(argv: Sequence[str] | None = None) -> int:
    """Parse, measure, print and write; the exit code."""
    with exit_on_bad_input():
        settings = parse_cli(
            Settings,
            argv,
            prog="python -m benchmarks.throughput",
            description="Measure learner, replay, environment and loop against peers and the machine's limits.",
            presets={},
        ).resolved()
        from benchmarks.speed.measure import measure
        from experiment.compiler import check_compiler
        from experiment.determinism import device_of

        device = device_of(settings.device)
        if settings.compile:
            check_compiler(device)
    from benchmarks.speed.measured import show, write

    results = measure(settings)
    show(results)
    write(results, settings.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
