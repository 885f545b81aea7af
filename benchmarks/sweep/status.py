"""How far a sweep is, read from its run directories alone so that any terminal can tell: live view and --status."""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from agents.config import DQNConfig
from benchmarks.sweep.manifest import Entry
from benchmarks.sweep.suites import job, settings_of
from envs.games import human_normalized, reference_scores
from experiment.progress import Progress, clock_time
from experiment.storage.run_dir import RunDir
from experiment.sweeps.sweep import SweepState

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.table import Table
    from rich.text import Text

Now = Literal["waiting", "running", "interrupted", "failed", "done"]
UPDATE = 10
"""Agent steps that take as long as one update, about: only to foretell arms of which nothing was measured yet."""
TAIL = 65_536
ROWS = 10
"""Rows of metrics over which the pace of a run is measured."""


@dataclass(frozen=True)
class RunStatus:
    """How far one run is: agent steps, return (final score, or mean of the last games), and a measured time."""

    state: Now = "waiting"
    step: int = 0
    score: float | None = None
    seconds: float = 0.0
    """Of training, from agent step `start` to `measured`. Of a run that is not finished they are steps with updates:
    those before are cheap, and the first update compiles."""
    measured: int = 0
    reason: str = ""
    start: int = 0


def work(config: DQNConfig, step: int) -> float:
    """What the first `step` agent steps of a run cost, in agent steps without updates."""
    return step + UPDATE * float(config.utd) * max(step - config.update_start, 0)


def finished(run: RunDir) -> RunStatus:
    """The status of a run that has its result; without an evaluation its score is that of the last games."""
    try:
        result = json.loads(run.result.read_text(encoding="utf-8"))
        score = float(result["score"]["mean"]) if result["score"] else unfinished(run).score
        step, seconds = int(result["agent_steps"]), float(result["training_seconds"])
        return RunStatus("done", step, score, seconds, step)
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return RunStatus("done", reason="its result.json cannot be read")


def unfinished(run: RunDir) -> RunStatus:
    """The last rows of a run's metrics; a time only once there are two with updates."""
    step, rows = 0, []
    for row in _rows_from_the_end(run.metrics):
        step = step or row.get("agent_step", 0)
        if "seconds" in row:
            rows.append(row)
        if len(rows) == ROWS or (rows and not rows[-1].get("updates")):
            break
    score = rows[0].get("mean_return") if rows else None
    learned = [row for row in rows if row.get("updates")]
    if len(learned) < 2:
        return RunStatus("waiting", step, score)
    last, first = learned[0], learned[-1]
    seconds, start = last["seconds"] - first["seconds"], first.get("agent_step", 0)
    return RunStatus("waiting", step, score, seconds, last.get("agent_step", 0), start=start)


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


def normalized(game: str, score: float | None) -> float | None:
    """The human-normalised score, where the game has a reference."""
    if score is None or game not in reference_scores():
        return None
    return human_normalized(game, score)


@dataclass
class SweepStatus:
    """The status of every run of a sweep in ROOT; `look` reads what may have changed."""

    root: Path
    entries: Sequence[Entry]
    statuses: dict[str, RunStatus] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.of = {entry.name: entry for entry in self.entries}
        self.configs: dict[tuple[str, str], DQNConfig] = {}

    def config(self, entry: Entry) -> DQNConfig:
        """The settings of a run, but for game and seed: those of one run of its arm."""
        key = (entry.arm, entry.config_hash)
        if key not in self.configs:
            self.configs[key] = settings_of(entry)
        return self.configs[key]

    def look(self, moment: SweepState | None = None) -> None:
        """Read what is not known to be done; a sweep's moment tells the states, so that few files have to be read."""
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
        return replace(unfinished(RunDir(self.root / name)), state=state, reason=reason)

    def _read(self, entry: Entry) -> RunStatus:
        run, work = RunDir(self.root / entry.name), job(entry, self.root)
        if run.finished:
            return finished(run)
        if work.is_running():
            return self._at(entry.name, "running")
        if reason := work.failure():
            return self._at(entry.name, "failed", reason)
        return self._at(entry.name, "interrupted" if run.has_checkpoint() else "waiting")

    def named(self, *states: Now) -> list[Entry]:
        """The runs that are in one of these states, in order."""
        return [entry for entry in self.entries if self.statuses[entry.name].state in states]

    def unreadable(self) -> list[Entry]:
        """Finished runs whose result cannot be read."""
        return [entry for entry in self.named("done") if self.statuses[entry.name].reason]

    def fraction(self, entry: Entry) -> float:
        """The share of a run's work that is done, 0 to 1."""
        status = self.statuses[entry.name]
        if status.state == "done":
            return 1.0
        config = self.config(entry)
        return min(work(config, status.step) / work(config, config.budget), 1.0)

    def done(self) -> float:
        """Runs that are done, each running one by its share."""
        return math.fsum(self.fraction(entry) for entry in self.entries)

    def seconds_left(self, processes: int) -> float | None:
        """Until all is trained but for what failed, `processes` at a time; None as long as no updates were measured.

        Each arm at its own pace so far, and one that was not measured at that of all.
        """
        seconds, units = defaultdict[str, float](float), defaultdict[str, float](float)
        for entry in self.entries:
            status = self.statuses[entry.name]
            if status.measured:
                for key in (entry.config_hash, ""):
                    seconds[key] += status.seconds
                    units[key] += work(self.config(entry), status.measured) - work(self.config(entry), status.start)
        if not units[""]:
            return None
        open_runs = self.named("waiting", "running", "interrupted")
        left = [0.0]
        for entry in open_runs:
            key = entry.config_hash if units[entry.config_hash] else ""
            whole = work(self.config(entry), self.config(entry).budget) * seconds[key] / units[key]
            left.append(whole * (1 - self.fraction(entry)))
        return max(math.fsum(left) / max(processes, 1), *left)

    def ends(self) -> dict[str, str]:
        """The best and the worst run so far by human-normalised score, in words; nothing as long as there is none."""
        scores = [
            (score, entry.name)
            for entry in self.entries
            if (score := normalized(entry.game, self.statuses[entry.name].score)) is not None
        ]
        if not scores:
            return {}
        (high, best), (low, worst) = max(scores), min(scores)
        return {"best": f"{high:.3f} {best}", "worst": f"{low:.3f} {worst}"}

    def figures(self) -> dict[str, str]:
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
        """The time left, in words."""
        left = self.seconds_left(processes)
        if left is None:
            return "time left unknown"
        return f"about {clock_time(left)} of training left" if left else "no training left"


def as_line(sweep: SweepStatus, processes: int) -> str:
    """Everything in one line, for a log."""
    figures = ", ".join(f"{label} {text}" for label, text in sweep.figures().items())
    return f"{sweep.share()}, {sweep.remaining(processes)}, {figures}"


def as_panel(sweep: SweepStatus, processes: int, height: int, before: str = "", failures: bool = True) -> Group:
    """The live view: how far the whole is, the counts, best and worst, each run that runs, and those that failed."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    bar = Table.grid(padding=(0, 1), expand=True)
    bar.add_column(ratio=1)
    bar.add_column(no_wrap=True)
    bar.add_row(ProgressBar(total=len(sweep.entries), completed=sweep.done()), sweep.share())
    figures = sweep.figures()
    best, worst = figures.pop("best", ""), figures.pop("worst", "")
    counts = "   ".join(f"{label} {text}" for label, text in figures.items())
    lines = [Text(f"{before}{sweep.remaining(processes)}", style="dim"), Text(counts)]
    if best:
        lines.append(Text(f"human-normalised, best {best}   worst {worst}"))
    room = max(height - 8, 4)
    return Group(bar, *lines, _running(sweep, room), *(_failed(sweep, max(room // 3, 2)) if failures else []))


def _running(sweep: SweepStatus, room: int) -> Table:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(ratio=2, no_wrap=True, overflow="ellipsis")
    table.add_column(ratio=1)
    for _ in range(2):
        table.add_column(justify="right", no_wrap=True)
    running = sweep.named("running")
    for entry in running[:room]:
        status, budget = sweep.statuses[entry.name], sweep.config(entry).budget
        score = "" if status.score is None else f"return {status.score:,.1f}"
        bar = ProgressBar(total=1.0, completed=sweep.fraction(entry))
        steps = f"{status.step:,}/{budget:,}" if status.step else "begins"
        steps = "plays its evaluation" if status.step >= budget else steps
        table.add_row(Text(entry.name), bar, steps, score)
    if len(running) > room:
        table.add_row(Text(f"and {len(running) - room} more", style="dim"))
    return table


def _failed(sweep: SweepStatus, room: int) -> list[Text]:
    from rich.text import Text

    failed = [*sweep.named("failed"), *sweep.unreadable()]
    states = [sweep.statuses[entry.name] for entry in failed[:room]]
    lines = [
        Text(f"{status.state}: {entry.name}: {status.reason}", overflow="ellipsis", no_wrap=True)
        for entry, status in zip(failed, states, strict=False)
    ]
    more = [Text(f"and {len(failed) - room} more failed")] if len(failed) > room else []
    return [*lines, *more]


class SweepView(Progress):
    """The sweep as a view of a sweep that runs: live on a terminal, a line every half minute elsewhere."""

    def __init__(self, sweep: SweepStatus, processes: int, console: Console):
        self._sweep, self._processes = sweep, processes
        self._moment: SweepState | None = None
        super().__init__(len(sweep.entries), "runs", console, ticking=False)

    def show(self, moment: SweepState) -> None:
        self._moment = moment
        self.update(len(tuple(moment.finished)))

    def _draw(self, now: float) -> None:
        if self._moment is None:
            return
        self._sweep.look(self._moment)
        if self._live:
            elapsed = f"{clock_time(now - self._began)} elapsed, "
            goes_on = bool(self._moment.waiting or self._moment.running)  # at its end the sweep names what failed
            panel = as_panel(self._sweep, self._processes, self._console.height, elapsed, failures=goes_on)
            self._guard(partial(self._live.update, panel, refresh=True))
            self._due = now + max(0.5, 20 * (self._clock() - now))  # a view of thousands takes no time from the runs
        else:
            line = as_line(self._sweep, self._processes)
            self._due = now + (min(2.0, self._interval) if self._lines == 0 else self._interval)
            self._lines += 1
            self._guard(lambda: print(line, file=self._console.file, flush=True))
        if self._gone:
            self._due = float("inf")


def print_status(sweep: SweepStatus, console: Console) -> None:
    """What the live view shows, from any terminal; the runs that run say how many go at a time."""
    sweep.look()
    processes = max(len(sweep.named("running")), 1)
    if console.is_terminal:
        console.print(as_panel(sweep, processes, console.height))
        return
    print(as_line(sweep, processes), file=console.file)
    for entry in [*sweep.named("running", "interrupted", "failed"), *sweep.unreadable()]:
        status = sweep.statuses[entry.name]
        score = "" if status.score is None else f", return {status.score:,.1f}"
        steps = f"{status.step:,}/{sweep.config(entry).budget:,} agent steps{score}"
        print(f"{status.state}: {entry.name}: {status.reason or steps}", file=console.file)
