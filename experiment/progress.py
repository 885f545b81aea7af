"""Shows how far a run is: a live view on a terminal, plain lines elsewhere."""

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.live import Live

Figures = Mapping[str, str] | Callable[[], Mapping[str, str]]


class Rate:
    """Measures units per second over the last `window` seconds, so that a slow start is soon forgotten."""

    def __init__(self, window: float = 60.0) -> None:
        self._window = window
        self._samples: deque[tuple[float, float]] = deque()

    def add(self, now: float, done: float) -> None:
        """Notes that `done` units were done at `now` seconds; samples closer than a second replace one another."""
        if len(self._samples) > 1 and now - self._samples[-2][0] < 1.0:
            self._samples.pop()
        self._samples.append((now, done))
        while len(self._samples) > 2 and now - self._samples[1][0] >= self._window:
            self._samples.popleft()

    def value(self) -> float:
        """Returns units per second; 0 while it is not known."""
        if len(self._samples) < 2:
            return 0.0
        (start, before), (now, done) = self._samples[0], self._samples[-1]
        return max(done - before, 0.0) / (now - start) if now > start else 0.0


class Status(NamedTuple):
    """One moment of a run; times in seconds."""

    done: int
    total: int
    unit: str
    elapsed: float
    rate: float

    def counts(self) -> str:
        """Returns "12% 12,000/100,000 agent steps"."""
        percent = 100 * self.done // self.total if self.total else 100
        return f"{percent}% {self.done:,}/{self.total:,} {self.unit}"

    def times(self) -> str:
        """Returns elapsed time, remaining time and rate."""
        left = f"{clock_time((self.total - self.done) / self.rate)} left" if self.rate else "time left unknown"
        return f"{clock_time(self.elapsed)} elapsed, {left}, {self.rate:,.{0 if self.rate >= 100 else 1}f}/s"


def clock_time(seconds: float) -> str:
    """Seconds as "3:05:09", or "2d 3:05:09"."""
    minutes, second = divmod(max(round(seconds), 0), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{days}d {hour}:{minute:02}:{second:02}" if days else f"{hour}:{minute:02}:{second:02}"


def _line(status: Status, figures: Mapping[str, str]) -> str:
    return ", ".join([status.counts(), status.times(), *(f"{label} {text}" for label, text in figures.items())])


def _panel(status: Status, figures: Mapping[str, str], width: int) -> "Group":
    """The live view: a bar, the times, and the figures in as many columns as fit."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    bar = Table.grid(padding=(0, 1), expand=True)
    bar.add_column(ratio=1)
    bar.add_column(no_wrap=True)
    bar.add_row(ProgressBar(total=max(status.total, 1), completed=status.done), status.counts())
    cell = 3 + max((len(label) + len(text) + 1 for label, text in figures.items()), default=0)
    columns = max(min(width // cell, 4), 1)
    table = Table.grid(padding=(0, 1), expand=True)
    for _ in range(columns):
        table.add_column(style="dim", no_wrap=True)
        table.add_column(ratio=1, no_wrap=True)
    items = list(figures.items())
    for row in range(-(-len(items) // columns)):
        pairs = items[row * columns : (row + 1) * columns]
        table.add_row(*(Text(text) for pair in pairs for text in pair))
    return Group(bar, Text(status.times(), style="dim", no_wrap=True), table)


class Progress:
    """Shows done / total, elapsed and remaining time, rate, and the caller's figures. A context manager.

    On a terminal it redraws a few lines twice a second; elsewhere it prints one line soon after the start and then
    every `interval` seconds. A terminal that goes away silences it; drawing never raises.

    Args:
        total: how many units the run takes.
        unit: what they are, in the plural, as "agent steps".
        console: a rich Console in place of one on stdout.
        start: how many were done before, in a run that is resumed.
        interval: seconds between lines where there is no terminal.
    """

    def __init__(
        self,
        total: int,
        unit: str,
        console: "Console | None" = None,
        *,
        start: int = 0,
        interval: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        from rich.console import Console

        self._total, self._unit, self._done = total, unit, start
        self._interval, self._clock = interval, clock
        self._began = self._due = clock()
        self._rate = Rate()
        self._rate.add(self._began, start)
        self._figures: Figures = {}
        self._console = console or Console()
        self._live: Live | None = None
        self._lines = 0
        self._gone = False
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._guard(self._start_live)

    def _start_live(self) -> None:
        from rich.live import Live

        self._live = Live(console=self._console, auto_refresh=False)
        self._live.start()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, done: int, figures: Figures | None = None) -> None:
        """Says how many units are done; `figures` are label: text, or a function that is only called to draw them."""
        self._done = done
        if figures is not None:
            self._figures = figures
        now = self._clock()
        if now >= self._due:
            self._draw(now)

    def close(self) -> None:
        """Draws the last state and gives the terminal back."""
        if not self._gone:
            self._draw(self._clock())
        if self._live:
            self._guard(self._live.stop)
        self._gone, self._due = True, float("inf")

    def _draw(self, now: float) -> None:
        self._rate.add(now, self._done)
        figures = self._figures() if callable(self._figures) else self._figures
        status = Status(self._done, self._total, self._unit, now - self._began, self._rate.value())
        if self._live:
            live = self._live
            self._due = now + 0.5
            self._guard(lambda: live.update(_panel(status, figures, self._console.width), refresh=True))
        else:
            self._due = now + (min(2.0, self._interval) if self._lines == 0 else self._interval)
            self._lines += 1
            self._guard(lambda: print(_line(status, figures), file=self._console.file, flush=True))
        if self._gone:
            self._due = float("inf")

    def _guard(self, draw: Callable[[], object]) -> None:
        """Draws, and notices the terminal that went away: rich raises SystemExit then, a closed stream ValueError."""
        try:
            draw()
        except (OSError, ValueError, SystemExit):
            self._gone = True
            with contextlib.suppress(OSError, ValueError):  # else Python fails to flush the stream when it ends
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._console.file.fileno())
                os.close(null)
