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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from experiment.config import as_plain, dump_yaml
from experiment.fork_settings import unforked
from experiment.processor import processor
from experiment.setting import names_of
from experiment.storage.files import to_json, write_atomic
from experiment.sweeps.manifest import Entry
from experiment.sweeps.processes import ENVIRONMENT, child_setup, exit_on_signals
from experiment.sweeps.workload import RunKind, Workload
from experiment.values import counted, one_line

if TYPE_CHECKING:
    from experiment.sweeps.packing import Packing

UPDATES = 200
"""Updates of a calibration; the second half of them is timed."""
HOW = f" (--calibrate measures it now: {UPDATES} updates of each arm)"


class Pace(NamedTuple):
    """Seconds of a cheap step and of a costly one (see `Workload`), and the source of the measurement.

    Of a run in a fleet they are its share; `members` is the number of runs in that fleet.
    """

    cheap: float
    costly: float
    source: str
    members: int = 1

    def seconds(self, workload: Workload) -> float:
        """What a whole run trains."""
        begins = min(max(workload.start, workload.first), workload.budget)
        return self.cheap * (begins - min(workload.first, begins)) + self.costly * (workload.budget - begins)


def calibrate(kind: RunKind, entry: Entry, config: Any, slot: Mapping[str, str], seeds: Sequence[int] = ()) -> Pace:
    """Trains a short run like this one in a temporary folder, or with `seeds` a fleet of them.

    `slot`: environment variables of the process, such as its GPU. RuntimeError says why nothing could be measured.
    """
    with exit_on_signals(), tempfile.TemporaryDirectory() as folder:
        command = entry.fleet_command(seeds) if seeds else entry.command
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
        name = f"calibration-s{seeds[0]}" if seeds else "calibration"
        rows = map(json.loads, (Path(folder) / name / "metrics.jsonl").read_text().splitlines())
        times = {row[kind.step]: row["seconds"] for row in rows if kind.is_timed(config, row)}
        return Pace(*paces(times), f"by {UPDATES} updates on {entry.task}", max(len(seeds), 1))


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
        self._kept: dict[str, Pace] = {}
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        self.path = Path(home) / "rewarm" / "calibration.json"
        self.machine = processor() if device == "cpu" else f"{device} of {platform.node()}, {processor()}"

    def _key(self, config: Any, fleet: bool = False) -> str:
        no_matter = names_of(type(config), "identity", "observing") | self.kind.axes | self.kind.lengths
        plain = {name: value for name, value in as_plain(config).items() if name not in no_matter}
        text = json.dumps([self.machine, plain, *["fleet"] * fleet], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _read(self) -> dict[str, Any]:
        try:
            known = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}

    def recall(self, config: Any, fleet: bool = False) -> Pace | None:
        """The last measurement with such settings, of a single run or in a fleet, if there is one."""
        key = self._key(config, fleet)
        if key in self._kept:
            return self._kept[key]
        try:
            cheap, costly, day, *members = self._read()[key]
            return Pace(float(cheap), float(costly), f"as measured on {day}", *map(int, members))
        except (LookupError, TypeError, ValueError):
            return None

    def keep(self, config: Any, pace: Pace) -> None:
        """Remembers a measurement, and writes it to the file, if that is writable."""
        members = [pace.members] if pace.members > 1 else []
        key = self._key(config, bool(members))
        self._kept[key] = pace
        known = self._read() | {key: [pace.cheap, pace.costly, time.strftime("%Y-%m-%d"), *members]}
        with contextlib.suppress(OSError):
            if self.path.is_absolute():  # it is not where the user has no home
                self.path.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(self.path, to_json(known, indent=0) + "\n")


def cost(
    packing: Packing, runs: Iterable[Entry], processes: int | None, slot: Mapping[str, str], calibrating: bool
) -> Iterator[str]:
    """Lines with the time of a run of each arm, and the time of all runs.

    With `calibrating` each arm is measured once, and a fleet of its seeds where one is possible; otherwise the last
    measurements are used. `processes`: jobs side by side, None if unknown. `slot`: see `calibrate`.
    """
    arms: dict[str, list[Entry]] = {}
    for run in runs:
        arms.setdefault(run.config_hash, []).append(run)
    kind, longest = packing.kind, 0.0
    seconds: list[float] = []
    for same in arms.values():
        config = kind.settings(same[0])
        if calibrating:
            try:
                packing.memory.keep(config, calibrate(kind, same[0], config, slot))
                if seeds := packing.seeds(same, processes):
                    packing.memory.keep(config, calibrate(kind, same[0], config, slot, seeds))
            except (LookupError, OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
                yield f"arm {same[0].arm}: could not be calibrated: {one_line(error)}"
                continue
        pace = packing.choice(same[0]).pace or packing.memory.recall(config)
        if pace is None:
            yield f"arm {same[0].arm}: cost unknown, {counted(len(same), 'run')} to do"
            continue
        each = pace.seconds(kind.workload(config))
        seconds.append(each * len(same))
        longest = max(longest, each * pace.members)
        where = f" in a fleet of {pace.members}" if pace.members > 1 else ""
        yield f"arm {same[0].arm}: {each:,.0f} s a run{where}, {pace.source}; {len(same)} to do"
    yield _total(seconds, longest, len(arms), processes) + ("" if calibrating or len(seconds) == len(arms) else HOW)


def _total(seconds: list[float], longest: float, arms: int, processes: int | None) -> str:
    """The cost of all runs as text; `seconds` are those of the measured arms."""
    if not seconds:
        return "cost: unknown"
    hours = max(math.fsum(seconds) / (processes or 1), longest) / 3600
    less = f", without {counted(arms - len(seconds), 'arm')}" if len(seconds) < arms else ""
    side = f"with {processes} at a time" if processes else "one after the other (--processes says how many at a time)"
    return f"cost: {hours:,.2f} hours {side}{less}; compiling and evaluations come on top"
