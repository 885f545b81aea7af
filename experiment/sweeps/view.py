"""The view of a sweep: live on a terminal, lines elsewhere, and `--status`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from experiment.progress import Progress, clock_time
from experiment.sweeps.manifest import Entry
from experiment.sweeps.status import SweepStatus
from experiment.sweeps.sweep import SweepState

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.table import Table
    from rich.text import Text


def as_line(sweep: SweepStatus, processes: int) -> str:
    """Everything in one line, for a log."""
    metrics = ", ".join(f"{label} {text}" for label, text in sweep.metrics().items())
    return f"{sweep.share()}, {sweep.remaining(processes)}, {metrics}"


def as_panel(sweep: SweepStatus, processes: int, height: int, before: str = "", failures: bool = True) -> Group:
    """The live view: progress, counts, best and worst, each running run, and those that failed."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    bar = Table.grid(padding=(0, 1), expand=True)
    bar.add_column(ratio=1)
    bar.add_column(no_wrap=True)
    bar.add_row(ProgressBar(total=len(sweep.entries), completed=sweep.done()), sweep.share())
    metrics = sweep.metrics()
    best, worst = metrics.pop("best", ""), metrics.pop("worst", "")
    counts = "   ".join(f"{label} {text}" for label, text in metrics.items())
    lines = [Text(f"{before}{sweep.remaining(processes)}", style="dim"), Text(counts)]
    if best:
        lines.append(Text(f"{sweep.kind.scale}, best {best}   worst {worst}"))
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
        status, budget = sweep.statuses[entry.name], sweep.workload(entry).budget
        bar = ProgressBar(total=1.0, completed=sweep.fraction(entry))
        steps = f"{status.step:,}/{budget:,}" if status.step else "begins"
        steps = "evaluates or ends" if status.step >= budget else steps
        table.add_row(Text(entry.name), bar, steps, _score(sweep, entry))
    if len(running) > room:
        table.add_row(Text(f"and {len(running) - room} more", style="dim"))
    return table


def _score(sweep: SweepStatus, entry: Entry) -> str:
    """The score of a run so far, as "return 21.5" or "test accuracy 0.921", or ""."""
    score = sweep.statuses[entry.name].score
    return "" if score is None else f"{sweep.kind.score} {score:,.{1 if abs(score) >= 10 else 3}f}"


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
    """The live view's content, from any terminal. What is running now is taken as the number of processes."""
    sweep.look()
    processes = max(sweep.side_by_side(), 1)
    if console.is_terminal:
        console.print(as_panel(sweep, processes, console.height))
        return
    print(as_line(sweep, processes), file=console.file)
    for entry in [*sweep.named("running", "interrupted", "failed"), *sweep.unreadable()]:
        status = sweep.statuses[entry.name]
        steps = f"{status.step:,}/{sweep.workload(entry).budget:,} {sweep.kind.step.replace('_', ' ')}s"
        how_far = ", ".join(filter(None, (steps, _score(sweep, entry))))
        print(f"{status.state}: {entry.name}: {status.reason or how_far}", file=console.file)
