"""This checkout against another one: whole training loops, a process for each, in strict alternation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.speed.alternate import Contestant, Run, Series, alternate, ratio
from benchmarks.speed.settings import LOOPS, Settings
from experiment.config import ConfigError

HERE = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("training_process.py")
COMMON = (
    "--update-start 400 --steps 1000000 --replay-capacity 10000 --epsilon-steps 1 --probe-interval 0 --eval-episodes 0"
)


class TrainingProcess:
    """The other end of `training_process.py`."""

    def __init__(self, checkout: Path, argv: Sequence[str]) -> None:
        environment = os.environ | {"PYTHONPATH": str(checkout)}
        command = [sys.executable, "-c", SCRIPT.read_text() + "\nmain(*sys.argv[1:])", *argv]
        pipe = subprocess.PIPE
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            command, cwd=checkout, env=environment, stdin=pipe, stdout=pipe, stderr=self._errors, text=True
        )
        self.checkout = checkout
        self.peak_bytes = 0

    def begin(self) -> None:
        """Wait for the first updates, which compile."""
        self._answer()

    def run(self, updates: int) -> float:
        """Make so many updates; how many a second they were."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{updates}\n")
        self._process.stdin.flush()
        answer = self._answer()
        return answer["updates"] / answer["seconds"]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._errors.close()

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ConfigError(f"{self.checkout} cannot run it: {self._last_error()}")
        answer = json.loads(line)
        self.peak_bytes = answer["peak_bytes"]
        return answer

    def _last_error(self) -> str:
        """The last line that the process wrote to its standard error."""
        self._process.wait()
        self._errors.seek(0)
        return ([line for line in map(str.strip, self._errors) if line] or ["without a word"])[-1]


@contextmanager
def processes(checkout: Path, argv: Sequence[str]) -> Iterator[tuple[TrainingProcess, TrainingProcess]]:
    """The same training loop of this checkout and of the other one."""
    with ExitStack() as stack:
        pair = []
        for folder in (HERE, checkout):
            pair.append(process := TrainingProcess(folder, argv))
            stack.callback(process.close)
            process.begin()
        yield pair[0], pair[1]


def compare(settings: Settings) -> Iterator[str]:
    """A line for each training loop: updates a second of both checkouts, the rounds' ratio, peak memory.

    A loop that one of the checkouts cannot run is skipped, and its line says why. Raises ConfigError if all are.
    """
    assert settings.against is not None
    measured = False
    for name in settings.loops:
        argv = [*LOOPS[name].split(), *COMMON.split(), "--threads", str(settings.threads)]
        try:
            with processes(Path(settings.against).resolve(), argv) as pair:
                yield _line(name, _measured(name, pair, settings), pair)
            measured = True
        except ConfigError as error:
            yield f"{name:<14} skipped: {error}"
    if not measured:
        raise ConfigError(f"--against {settings.against!r}: no loop can be run by both checkouts")


def _measured(name: str, pair: Sequence[TrainingProcess], settings: Settings) -> list[Series]:
    labels = ("this checkout", "the other")
    field = [Contestant(name, label, "updates/s", _setup(process)) for label, process in zip(labels, pair, strict=True)]
    return alternate(field, settings.rounds, settings.seconds)


def _setup(process: TrainingProcess) -> Callable[[], Run]:
    return lambda: process.run


def _line(name: str, series: Sequence[Series], pair: Sequence[TrainingProcess]) -> str:
    here, there = series
    rates = f"{here.median:6.1f} and {there.median:6.1f} updates/s, ratio {ratio(here, there):.2f}"
    memory = ", ".join(f"{process.peak_bytes / 1e9:.2f}" for process in pair)
    return f"{name:<14} {rates}; peak memory {memory} GB"
