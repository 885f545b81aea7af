"""Two runs side by side with a thread each, against two runs one after another with every thread.

`python -m benchmarks.launcher` starts both as real sweeps of `benchmarks.atari` in turns, and prints updates/s.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from experiment.config import ConfigError, exit_on_bad_input, parse_cli
from experiment.interrupt import cli_session
from experiment.processor import available_cores
from experiment.values import counted

START = 200
"""Agent steps before the first update."""
ROW = 100
"""Agent steps between rows, of which the first is left out: it holds the compilation."""


@dataclass(frozen=True)
class Settings:
    """What is measured, and for how long."""

    preset: str = "small"
    """Preset of DER."""
    game: str = "Pong"
    """Game of all runs."""
    updates: int = 1_000
    """Updates of each run that are timed."""
    rounds: int = 3
    """Rounds; both ways take turns in each."""
    precision: str = "fp32"
    """fp32 or bf16."""
    compile: bool = True
    """Compile the runs' losses."""
    cores: int = 0
    """Runs side by side, and threads of each of those that come one after another; 0: all cores."""

    def resolved(self) -> Settings:
        """These settings with the machine's cores filled in; a fault raises ConfigError."""
        if self.updates < ROW or self.rounds < 1 or self.cores < 0:
            raise ConfigError(f"--updates has to be at least {ROW}, --rounds at least 1 and --cores at least 0")
        if self.precision not in ("fp32", "bf16"):
            raise ConfigError(f"--precision is {self.precision!r}: it has to be fp32 or bf16")
        return replace(self, cores=self.cores or available_cores())


def measured(settings: Settings, processes: int, threads: int) -> float:
    """Updates/s of a sweep of as many runs as there are cores: those side by side add up, the others take turns.

    Raises ConfigError for settings that the sweep refuses, RuntimeError for one that failed.
    """
    words = ["--suite", settings.game, "--agent", "der", "--config", settings.preset, "--seeds", str(settings.cores)]
    words += ["--processes", str(processes), "--arm", f"all:--threads {threads} --precision {settings.precision}"]
    run = {
        "steps": START + ROW + settings.updates, "update-start": START, "log-interval": ROW, "probe-interval": 0,
        "checkpoint-interval": 0, "eval-episodes": 0, "compile": str(settings.compile).lower(),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        options = [word for name, value in run.items() for word in (f"--{name}", str(value))]
        command = [sys.executable, "-m", "benchmarks.atari", *words, "--root", folder, "--", *options]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr or done.stdout or "it printed nothing").strip().splitlines()[-1]
            raise (ConfigError if done.returncode == 2 else RuntimeError)(last.removeprefix("error: "))
        rates = [rate(path.read_text()) for path in sorted(Path(folder).glob("*/metrics.jsonl"))]
    if len(rates) != settings.cores:
        raise RuntimeError(f"{len(rates)} of {settings.cores} runs left metrics")
    return combined(rates, processes > 1)


def combined(rates: Sequence[float], side_by_side: bool) -> float:
    """Updates/s of all runs: those that go side by side add up, those in turn share the time (equal updates each)."""
    return math.fsum(rates) if side_by_side else len(rates) / math.fsum(1 / each for each in rates)


def rate(metrics: str) -> float:
    """Updates/s of a run by its metrics.jsonl, play included, from the first row with updates to the last."""
    rows = [row for row in map(json.loads, metrics.splitlines()) if row.get("updates") and "seconds" in row]
    first, last = rows[0], rows[-1]
    return (last["updates"] - first["updates"]) / (last["seconds"] - first["seconds"])


@cli_session()
def main(argv: Sequence[str] | None = None) -> int:
    """Parse, measure and print; the exit code."""
    with exit_on_bad_input():
        settings = parse_cli(
            Settings,
            argv,
            prog="python -m benchmarks.launcher",
            description="Measure runs side by side against runs one after another.",
            presets={},
        ).resolved()
    runs = counted(settings.cores, "run")
    print(f"DER, preset {settings.preset}, {settings.precision}: updates/s of {runs}, play included")
    alone = f"in turn, {counted(settings.cores, 'thread')}"
    print(f"{'':8}{'side by side, 1 thread each':>30}{alone:>24}{'ratio':>8}")
    ratios = []
    for number in range(1, settings.rounds + 1):
        try:
            with exit_on_bad_input():
                together, in_turn = measured(settings, settings.cores, 1), measured(settings, 1, settings.cores)
        except RuntimeError as error:
            print(f"a sweep failed: {error}", file=sys.stderr)
            return 1
        ratios.append(together / in_turn)
        print(f"round {number:<2}{together:>30.1f}{in_turn:>24.1f}{ratios[-1]:>8.2f}", flush=True)
    print(f"median ratio {median(ratios):.2f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
