"""What a sweep will cost, estimated from a few hundred updates of each arm, now or the last time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from agents.config import STACK, DQNConfig
from benchmarks.sweep.manifest import Entry
from benchmarks.sweep.suites import AXES, settings_of
from experiment.config import as_plain
from experiment.processor import processor
from experiment.setting import names_of
from experiment.storage.files import to_json, write_atomic
from experiment.sweeps.processes import ENVIRONMENT, child_setup, exit_on_signals
from experiment.values import counted, one_line

UPDATES = 200
"""Updates of a calibration; the second half of them is timed."""
NO_MATTER = {*names_of(DQNConfig, "identity", "observing"), *AXES, "steps", "frames", "update_start"}
"""Settings that say how long a run is, or change nothing of what its steps cost."""
HOW = f" (--calibrate measures it now: {UPDATES} updates of each arm)"


class Pace(NamedTuple):
    """Seconds that an agent step takes before updates begin, and with its share of them; and who measured that."""

    play: float
    learn: float
    source: str

    def seconds(self, config: DQNConfig) -> float:
        """What a whole run trains, without its evaluation."""
        before = min(config.update_start, config.budget)
        return self.play * before + self.learn * (config.budget - before)


def calibrate(entry: Entry, config: DQNConfig, place: Mapping[str, str]) -> Pace:
    """Trains a short run like this one in a temporary folder.

    `place`: environment variables that say where it runs. RuntimeError says why it could not be measured.
    """
    part = part_length(config)
    short = {
        "steps": 4 * part, "frames": "none", "update-start": 2 * part, "log-interval": part, "schedule": "constant",
        "probe-interval": 0, "checkpoint-interval": 0, "eval-episodes": 0, "name": "calibration",
    }  # fmt: skip
    with exit_on_signals(), tempfile.TemporaryDirectory() as folder:
        options = [word for name, value in (short | {"root": folder}).items() for word in (f"--{name}", str(value))]
        words = [*entry.command, *options]
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            env={**os.environ, **ENVIRONMENT, **place},
            timeout=3600,
            preexec_fn=child_setup(),  # it must not outlive this process
        )
        if done.returncode:
            raise RuntimeError((done.stderr.strip() or "it printed nothing").splitlines()[-1])
        rows = map(json.loads, (Path(folder) / "calibration" / "metrics.jsonl").read_text().splitlines())
        times = {row["agent_step"]: row["seconds"] for row in rows if "seconds" in row}
        return Pace(*paces(times), f"by {UPDATES} updates on {entry.game}")


def part_length(config: DQNConfig) -> int:
    """Agent steps in each quarter of a calibration: two of play alone, and two that share the updates."""
    window = max(config.n_step, config.n_step_final or 0) + STACK + 1
    rows = math.ceil(UPDATES / 2 / config.utd / config.num_envs)
    ready = math.ceil((window + math.ceil(config.batch_size / config.num_envs)) / 2)
    return config.num_envs * max(rows, ready)


def paces(seconds: Mapping[int, float]) -> tuple[float, float]:
    """Seconds of an agent step of play and of learning, from the times at the ends of the quarters.

    The first updates compile and do not count.
    """
    one, two, three, four = sorted(seconds)
    return (seconds[two] - seconds[one]) / (two - one), (seconds[four] - seconds[three]) / (four - three)


class Memory:
    """The paces that were measured on this machine, in a file of the user's cache; a lost file is no loss."""

    def __init__(self, device: str) -> None:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        self.path = Path(home) / "rewarm" / "calibration.json"
        self.machine = processor() if device == "cpu" else f"{device} of {platform.node()}, {processor()}"

    def _key(self, config: DQNConfig) -> str:
        plain = {name: value for name, value in as_plain(config).items() if name not in NO_MATTER}
        text = json.dumps([self.machine, plain], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _read(self) -> dict[str, Any]:
        try:
            known = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}

    def recall(self, config: DQNConfig) -> Pace | None:
        """The last measurement with such settings, if there is one."""
        try:
            play, learn, day = self._read()[self._key(config)]
            return Pace(float(play), float(learn), f"as measured on {day}")
        except (LookupError, TypeError, ValueError):
            return None

    def keep(self, config: DQNConfig, pace: Pace) -> None:
        """Puts a measurement into the file, where that can be written."""
        known = self._read() | {self._key(config): [pace.play, pace.learn, time.strftime("%Y-%m-%d")]}
        with contextlib.suppress(OSError):
            if self.path.is_absolute():  # it is not where the user has no home
                self.path.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(self.path, to_json(known, indent=0) + "\n")


def cost(
    entries: Iterable[Entry], processes: int | None, place: Mapping[str, str], device: str, calibrating: bool
) -> Iterator[str]:
    """Lines that say what a run of each arm takes, and how long all of these runs do.

    Each arm is measured once if `calibrating`, else it is known from the last time that it was. `processes`: runs side
    by side, None if that is not known. `place`: see `calibrate`.
    """
    arms: dict[str, list[Entry]] = {}
    for entry in entries:
        arms.setdefault(entry.config_hash, []).append(entry)
    memory, longest = Memory(device), 0.0
    seconds: list[float] = []
    for runs in arms.values():
        config = settings_of(runs[0])
        try:
            pace = _measured(runs[0], config, place, memory) if calibrating else memory.recall(config)
        except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
            yield f"arm {runs[0].arm}: could not be calibrated: {one_line(error)}"
            continue
        if pace is None:
            yield f"arm {runs[0].arm}: cost unknown, {counted(len(runs), 'run')} to do"
            continue
        each = pace.seconds(config)
        seconds.append(each * len(runs))
        longest = max(longest, each)
        yield f"arm {runs[0].arm}: {each:,.0f} s a run, {pace.source}; {len(runs)} to do"
    how = HOW if not calibrating and len(seconds) < len(arms) else ""
    yield _total(seconds, longest, len(arms), processes) + how


def _measured(entry: Entry, config: DQNConfig, place: Mapping[str, str], memory: Memory) -> Pace:
    pace = calibrate(entry, config, place)
    memory.keep(config, pace)
    return pace


def _total(seconds: list[float], longest: float, arms: int, processes: int | None) -> str:
    """The cost of all runs in words; `seconds` are those of the arms that are known."""
    if not seconds:
        return "cost: unknown"
    hours = max(math.fsum(seconds) / (processes or 1), longest) / 3600
    less = f", without {counted(arms - len(seconds), 'arm')}" if len(seconds) < arms else ""
    side = (
        "one after the other (--processes says how many at a time)"
        if processes is None
        else f"with {processes} at a time"
    )
    return f"cost: {hours:,.2f} hours {side}{less}; games of the evaluations come on top"
