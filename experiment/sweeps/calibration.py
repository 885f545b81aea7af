"""Estimates the cost of a sweep from a few hundred updates of each arm, measured now or earlier."""

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

from experiment.config import as_plain, dump_yaml
from experiment.fork_settings import unforked
from experiment.processor import processor
from experiment.setting import names_of
from experiment.storage.files import to_json, write_atomic
from experiment.sweeps.manifest import Entry
from experiment.sweeps.processes import ENVIRONMENT, child_setup, exit_on_signals
from experiment.sweeps.workload import RunKind, Workload
from experiment.values import counted, one_line

UPDATES = 200
"""Updates of a calibration; the second half of them is timed."""
HOW = f" (--calibrate measures it now: {UPDATES} updates of each arm)"


class Pace(NamedTuple):
    """Seconds of a cheap step and of a costly one (see `Workload`), and the source of the measurement."""

    cheap: float
    costly: float
    source: str

    def seconds(self, workload: Workload) -> float:
        """What a whole run trains."""
        begins = min(max(workload.start, workload.first), workload.budget)
        return self.cheap * (begins - min(workload.first, begins)) + self.costly * (workload.budget - begins)


def calibrate(kind: RunKind, entry: Entry, config: Any, slot: Mapping[str, str]) -> Pace:
    """Trains a short run like this one in a temporary folder.

    `slot`: environment variables of the process, such as its GPU. RuntimeError says why nothing could be measured.
    """
    with exit_on_signals(), tempfile.TemporaryDirectory() as folder:
        command = entry.command
        if entry.source is not None:  # a run from scratch with its settings costs the same
            settings = Path(folder) / "settings.yaml"
            settings.write_text(dump_yaml(unforked(config)))
            command = (*command[:5], "--config", str(settings))
        done = subprocess.run(
            [*command, *kind.short(config, UPDATES), "--root", folder, "--name", "calibration"],
            capture_output=True,
            text=True,
            env={**os.environ, **ENVIRONMENT, **slot},
            timeout=3600,
            preexec_fn=child_setup(),  # it must not outlive this process
        )
        if done.returncode:
            raise RuntimeError((done.stderr.strip() or "it printed nothing").splitlines()[-1])
        rows = map(json.loads, (Path(folder) / "calibration" / "metrics.jsonl").read_text().splitlines())
        times = {row[kind.step]: row["seconds"] for row in rows if "seconds" in row}
        return Pace(*paces(times), f"by {UPDATES} updates on {entry.task}")


def paces(seconds: Mapping[int, float]) -> tuple[float, float]:
    """Seconds of a step in the second quarter of a calibration, and in the last one, from the times at steps.

    The first costly steps compile and do not count.
    """
    part = max(seconds) // 4
    one, two, three, four = (seconds[part * quarter] for quarter in (1, 2, 3, 4))
    return (two - one) / part, (four - three) / part


class Memory:
    """The paces measured on this machine, in a file of the user's cache. The file may be deleted at any time."""

    def __init__(self, kind: RunKind, device: str) -> None:
        self.kind = kind
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        self.path = Path(home) / "rewarm" / "calibration.json"
        self.machine = processor() if device == "cpu" else f"{device} of {platform.node()}, {processor()}"

    def _key(self, config: Any) -> str:
        no_matter = names_of(type(config), "identity", "observing") | self.kind.axes | self.kind.lengths
        plain = {name: value for name, value in as_plain(config).items() if name not in no_matter}
        text = json.dumps([self.machine, plain], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _read(self) -> dict[str, Any]:
        try:
            known = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}

    def recall(self, config: Any) -> Pace | None:
        """The last measurement with such settings, if there is one."""
        try:
            cheap, costly, day = self._read()[self._key(config)]
            return Pace(float(cheap), float(costly), f"as measured on {day}")
        except (LookupError, TypeError, ValueError):
            return None

    def keep(self, config: Any, pace: Pace) -> None:
        """Writes a measurement to the file, if it is writable."""
        known = self._read() | {self._key(config): [pace.cheap, pace.costly, time.strftime("%Y-%m-%d")]}
        with contextlib.suppress(OSError):
            if self.path.is_absolute():  # it is not where the user has no home
                self.path.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(self.path, to_json(known, indent=0) + "\n")


def cost(
    kind: RunKind, runs: Iterable[Entry], processes: int | None, slot: Mapping[str, str], device: str, calibrating: bool
) -> Iterator[str]:
    """Lines with the time of a run of each arm, and the time of all runs.

    With `calibrating` each arm is measured once; otherwise its last measurement is used. `processes`: runs side by
    side, None if unknown. `slot`: see `calibrate`.
    """
    arms: dict[str, list[Entry]] = {}
    for run in runs:
        arms.setdefault(run.config_hash, []).append(run)
    memory, longest = Memory(kind, device), 0.0
    seconds: list[float] = []
    for same in arms.values():
        config = kind.settings(same[0])
        try:
            pace = calibrate(kind, same[0], config, slot) if calibrating else memory.recall(config)
        except (LookupError, OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
            yield f"arm {same[0].arm}: could not be calibrated: {one_line(error)}"
            continue
        if pace is None:
            yield f"arm {same[0].arm}: cost unknown, {counted(len(same), 'run')} to do"
            continue
        if calibrating:
            memory.keep(config, pace)
        each = pace.seconds(kind.workload(config))
        seconds.append(each * len(same))
        longest = max(longest, each)
        yield f"arm {same[0].arm}: {each:,.0f} s a run, {pace.source}; {len(same)} to do"
    yield _total(seconds, longest, len(arms), processes) + ("" if calibrating or len(seconds) == len(arms) else HOW)


def _total(seconds: list[float], longest: float, arms: int, processes: int | None) -> str:
    """The cost of all runs as text; `seconds` are those of the measured arms."""
    if not seconds:
        return "cost: unknown"
    hours = max(math.fsum(seconds) / (processes or 1), longest) / 3600
    less = f", without {counted(arms - len(seconds), 'arm')}" if len(seconds) < arms else ""
    side = f"with {processes} at a time" if processes else "one after the other (--processes says how many at a time)"
    return f"cost: {hours:,.2f} hours {side}{less}; compiling and evaluations come on top"
