"""The progress of a sweep, read only from its run directories, so that any terminal can show it."""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from experiment.progress import clock_time
from experiment.results import read_result
from experiment.storage.run_dir import RunDir
from experiment.sweeps.manifest import Entry
from experiment.sweeps.sweep import SweepState
from experiment.sweeps.workload import RunKind, Workload

Now = Literal["waiting", "running", "interrupted", "failed", "done"]
TAIL = 65_536
ROWS = 10
"""Rows of metrics over which the pace of a run is measured."""


@dataclass(frozen=True)
class RunStatus:
    """How far one run is: its steps, its score so far or at the end, and a measured time."""

    state: Now = "waiting"
    step: int = 0
    score: float | None = None
    seconds: float = 0.0
    """Seconds of training, from step `start` to `measured`. For an unfinished run these are costly steps only: earlier
    ones are cheap, and the first costly one compiles."""
    measured: int = 0
    reason: str = ""
    start: int = 0


def _seconds(row: Mapping[str, Any]) -> float:
    """Seconds of training, and of measuring if a run counts that apart."""
    return row["seconds"] + row.get("measuring_seconds", 0.0)


def _rows_from_the_end(metrics: Path) -> Iterable[dict[str, Any]]:
    try:
        with open(metrics, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL))
            lines = file.read().split(b"\n")
    except OSError:
        return
    for line in reversed(lines):
        try:
            row = json.loads(line)
        except ValueError:  # cut by the tail's start, or half written
            continue
        if isinstance(row, dict):
            yield row


@dataclass
class SweepStatus:
    """The status of every run of a sweep in ROOT; `look` reads what may have changed."""

    kind: RunKind
    root: Path
    entries: Sequence[Entry]
    statuses: dict[str, RunStatus] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.of = {entry.name: entry for entry in self.entries}
        self.workloads: dict[tuple[str, str], Workload] = {}

    def workload(self, entry: Entry) -> Workload:
        """What a run takes: as much as any run of its arm on its task."""
        key = (entry.arm, entry.config_hash)
        if key not in self.workloads:
            self.workloads[key] = self.kind.workload(self.kind.settings(entry))
        return self.workloads[key]

    def look(self, moment: SweepState | None = None) -> None:
        """Read the runs that are not known to be done. The state of a running sweep avoids reading most files."""
        there = {name for folder in (self.root, self.root / "logs") if folder.is_dir() for name in os.listdir(folder)}
        for name, entry in self.of.items():
            before = self.statuses.get(name)
            if before and before.state == "done":
                continue
            if moment is None or name in moment.finished:
                begun = name in there or f"{name}.log" in there
                self.statuses[name] = self._read(entry) if begun else RunStatus()
            elif name in moment.running or name in moment.elsewhere:
                self.statuses[name] = self._at(name, "running")
            elif name in moment.failed:
                self.statuses[name] = self._at(name, "failed", moment.failed[name])
            elif before is None or before.state != "waiting":
                self.statuses[name] = self._at(name, "waiting")

    def _at(self, name: str, state: Now, reason: str = "") -> RunStatus:
        return replace(self._unfinished(self.of[name]), state=state, reason=reason)

    def _read(self, entry: Entry) -> RunStatus:
        run, job = RunDir(self.root / entry.name), entry.job(self.root)
        if run.finished:
            return self._finished(entry)
        if job.is_running():
            return self._at(entry.name, "running")
        if reason := job.failure():
            return self._at(entry.name, "failed", reason)
        return self._at(entry.name, "interrupted" if run.has_checkpoint() else "waiting")

    def _finished(self, entry: Entry) -> RunStatus:
        """The status of a run that has its result; one that was not scored has the score of its last row."""
        try:
            score, steps, seconds = self.kind.outcome(read_result(RunDir(self.root / entry.name)) or {})
            score = self._unfinished(entry).score if score is None else score
            return RunStatus("done", steps, score, seconds, steps)
        except (ValueError, LookupError, TypeError, OverflowError):
            return RunStatus("done", reason="its result.json cannot be read")

    def _unfinished(self, entry: Entry) -> RunStatus:
        """The last rows of a run's metrics; a time only once there are two of costly steps."""
        key, step, rows = self.kind.step, 0, []
        for row in _rows_from_the_end(RunDir(self.root / entry.name).metrics):
            step = step or row.get(key, 0)
            if "seconds" in row:
                rows.append(row)
            if len(rows) == ROWS or (rows and rows[-1].get(key, 0) <= self.workload(entry).start):
                break
        score = rows[0].get(self.kind.metric) if rows else None
        learned = [row for row in rows if row.get(key, 0) > self.workload(entry).start]
        if len(learned) < 2:
            return RunStatus("waiting", step, score)
        last, first = learned[0], learned[-1]
        return RunStatus("waiting", step, score, _seconds(last) - _seconds(first), last[key], start=first[key])

    def named(self, *states: Now) -> list[Entry]:
        """The runs that are in one of these states, in order."""
        return [entry for entry in self.entries if self.statuses[entry.name].state in states]

    def side_by_side(self) -> int:
        """The number of processes that work on running runs: a fleet is one."""
        running = (RunDir(self.root / entry.name) for entry in self.named("running"))
        return len({tuple(each.path.name for each in run.fellows()) or run.path.name for run in running})

    def unreadable(self) -> list[Entry]:
        """Finished runs whose result cannot be read."""
        return [entry for entry in self.named("done") if self.statuses[entry.name].reason]

    def fraction(self, entry: Entry) -> float:
        """The share of a run's work that is done, 0 to 1."""
        status = self.statuses[entry.name]
        if status.state == "done":
            return 1.0
        workload = self.workload(entry)
        return min(workload.work(status.step) / workload.work(workload.budget), 1.0)

    def done(self) -> float:
        """Runs that are done, each running one by its share."""
        return math.fsum(self.fraction(entry) for entry in self.entries)

    def seconds_left(self, processes: int) -> float | None:
        """Seconds until all runs except failed ones are trained, `processes` at a time; None before a measurement.

        Each arm counts at its own measured pace, or at the mean pace if it was not measured.
        """
        seconds, units = defaultdict[str, float](float), defaultdict[str, float](float)
        for entry in self.entries:
            status = self.statuses[entry.name]
            if status.measured:
                work = self.workload(entry).work
                for key in (entry.config_hash, ""):
                    seconds[key] += status.seconds
                    units[key] += work(status.measured) - work(status.start)
        if not units[""]:
            return None
        open_runs = self.named("waiting", "running", "interrupted")
        left = [0.0]
        for entry in open_runs:
            key = entry.config_hash if units[entry.config_hash] else ""
            workload = self.workload(entry)
            whole = workload.work(workload.budget) * seconds[key] / units[key]
            left.append(whole * (1 - self.fraction(entry)))
        return max(math.fsum(left) / max(processes, 1), *left)

    def ends(self) -> dict[str, str]:
        """The best and the worst run so far, as text; empty before there is one."""
        scores = [
            (rank, entry.name)
            for entry in self.entries
            if (score := self.statuses[entry.name].score) is not None
            and (rank := self.kind.rank(entry, score)) is not None
        ]
        if not scores:
            return {}
        (high, best), (low, worst) = max(scores), min(scores)
        return {"best": f"{high:.3f} {best}", "worst": f"{low:.3f} {worst}"}

    def metrics(self) -> dict[str, str]:
        """The number of runs in each state, and the best and worst of them."""
        counts = {state: str(len(self.named(state))) for state in ("waiting", "running", "done", "failed")}
        if interrupted := len(self.named("interrupted")):
            counts["interrupted"] = str(interrupted)
        return counts | self.ends()

    def share(self) -> str:
        """ "12% 3.1/26 runs": running ones count by their share."""
        done, total = self.done(), len(self.entries)
        return f"{int(100 * done / total)}% {done:.{0 if done == int(done) else 1}f}/{total} runs"

    def remaining(self, processes: int) -> str:
        """The time left, as text."""
        left = self.seconds_left(processes)
        if left is None:
            return "time left unknown"
        return f"about {clock_time(left)} of training left" if left else "no training left"
