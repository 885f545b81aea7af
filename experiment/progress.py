"""Shows how far a run is: a live view on a terminal, plain lines elsewhere."""

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from experiment.terminal import without_echo

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.live import Live

Metrics = Mapping[str, str] | Callable[[], Mapping[str, str]]
REDRAW = 0.5
"""Seconds between drawings of the live view."""


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
    """How far a run is.

    Attributes:
        begun: what is done of the units that are not done yet, in units.
        elapsed: in seconds.
        pace: the time left and the rate, as text.
        activity: work that completes no unit, such as "compiling"; empty if there is none.
    """

    done: int
    begun: float
    total: int
    unit: str
    elapsed: float
    pace: str
    activity: str = ""

    def counts(self) -> str:
        """Returns "12% 12,000/100,000 agent steps"."""
        percent = int(100 * (self.done + self.begun) // self.total) if self.total else 100
        return f"{percent}% {self.done:,}/{self.total:,} {self.unit}"

    def times(self) -> str:
        """Returns what is being done, elapsed time, remaining time and rate."""
        return ", ".join(filter(None, [self.activity, f"{clock_time(self.elapsed)} elapsed", self.pace]))


def per_second(rate: float) -> str:
    """A rate as "1,234/s" or "3.1/s"."""
    return f"{rate:,.{0 if rate >= 100 else 1}f}/s"


def clock_time(seconds: float) -> str:
    """Seconds as "3:05:09", or "2d 3:05:09"."""
    minutes, second = divmod(max(round(seconds), 0), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{days}d {hour}:{minute:02}:{second:02}" if days else f"{hour}:{minute:02}:{second:02}"


def _line(status: Status, metrics: Mapping[str, str]) -> str:
    return ", ".join([status.counts(), status.times(), *(f"{label} {text}" for label, text in metrics.items())])


def _panel(status: Status, metrics: Mapping[str, str], width: int) -> "Group":
    """The live view: a bar, the times, and the metrics in as many columns as fit."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    bar = Table.grid(padding=(0, 1), expand=True)
    bar.add_column(ratio=1)
    bar.add_column(no_wrap=True)
    moving = bool(status.activity)  # nothing else would show that the program goes on
    done = status.done + status.begun
    bar.add_row(ProgressBar(total=max(status.total, 1), completed=done, pulse=moving), status.counts())
    cell = 3 + max((len(label) + len(text) + 1 for label, text in metrics.items()), default=0)
    columns = max(min(width // cell, 4), 1)
    table = Table.grid(padding=(0, 1), expand=True)
    for _ in range(columns):
        table.add_column(style="dim", no_wrap=True)
        table.add_column(ratio=1, no_wrap=True)
    items = list(metrics.items())
    for row in range(-(-len(items) // columns)):
        pairs = items[row * columns : (row + 1) * columns]
        table.add_row(*(Text(text) for pair in pairs for text in pair))
    return Group(bar, Text(status.times(), style="dim"), table)


class Progress:
    """Shows done / total, elapsed and remaining time, rate, and the caller's metrics. A context manager.

    On a terminal it redraws a few lines twice a second; a thread does so while the caller is busy, from the metrics of
    the last call. Elsewhere it prints one line soon after the start and then every `interval` seconds. A terminal that
    goes away silences it; drawing never raises.

    Args:
        total: how many units the run takes.
        unit: what they are, in the plural, as "agent steps".
        console: a rich Console in place of one on stdout.
        start: how many were done before, in a run that is resumed.
        interval: seconds between lines where there is no terminal.
        pace: returns the time left and the rate as text, if they do not follow from the recent rate of units.
        ticking: whether a thread redraws; off for a caller that updates often enough, or that forks.
    """

    def __init__(
        self,
        total: int,
        unit: str,
        console: "Console | None" = None,
        *,
        start: int = 0,
        interval: float = 30.0,
        pace: Callable[[], str] | None = None,
        ticking: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        from rich.console import Console

        self._total, self._unit, self._done, self._begun = total, unit, start, 0.0
        self._interval, self._clock = interval, clock
        self._began = self._due = self._drawn = clock()
        self._restart_rate()
        self._pace = pace or self._pace_of_units
        self._words = self._pace()
        self._activity: str | Callable[[], str] = ""
        self._metrics: Metrics = {}
        self._shown: Mapping[str, str] = {}
        self._console = console or Console()
        self._live: Live | None = None
        self._lines = 0
        self._gone = False
        self._closed = threading.Event()
        self._ticker: threading.Thread | None = None
        self._restore = contextlib.ExitStack()
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._guard(self._start_live)
            if ticking and not self._gone:
                self._ticker = threading.Thread(target=self._tick, name="progress", daemon=True)
                self._ticker.start()

    def _start_live(self) -> None:
        from rich.live import Live

        self._restore.enter_context(without_echo(self._console.file))
        self._live = Live(console=self._console, auto_refresh=False)
        self._live.start()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, done: int, metrics: Metrics | None = None, *, begun: float = 0.0) -> None:
        """Sets how many units are done, and how much of further units has begun.

        `metrics` are label: text, or a function that is only called to draw them.
        """
        self._done, self._begun = done, begun
        if metrics is not None:
            self._metrics = metrics
        now = self._clock()
        if now >= self._due:
            self._draw(now)

    def busy(self, activity: str | Callable[[], str]) -> None:
        """Shows work that completes no unit, such as "compiling"; "" ends it. Its time does not count in the rate."""
        self._activity = activity
        if not activity:
            self._restart_rate()

    def say(self, line: str) -> None:
        """Prints a line that stays, above the view."""
        if not self._gone:
            self._guard(lambda: self._console.print(line, markup=False, highlight=False, soft_wrap=True))

    def close(self) -> None:
        """Draws the last state and gives the terminal back."""
        self._closed.set()
        with self._restore:
            if self._ticker is not None:
                self._ticker.join()
            self._activity = ""
            if not self._gone:
                self._draw(self._clock())
            if self._live:
                self._guard(self._live.stop)
        self._gone, self._due = True, float("inf")

    def _restart_rate(self) -> None:
        self._rate = Rate()
        self._rate.add(self._clock(), self._done)

    def _pace_of_units(self) -> str:
        rate = self._rate.value()
        if not rate:
            return "time left unknown"
        return f"{clock_time((self._total - self._done) / rate)} left, {per_second(rate)}"

    def _tick(self) -> None:
        """Redraws between updates, so that the clock goes on. Does not call the caller's functions."""
        while not self._closed.wait(REDRAW):
            now = self._clock()
            if now - self._drawn >= REDRAW and not self._gone:
                self._redraw(now)

    def _status(self, now: float) -> Status:
        activity = self._activity() if callable(self._activity) else self._activity
        elapsed = now - self._began
        return Status(self._done, self._begun, self._total, self._unit, elapsed, self._words, activity)

    def _draw(self, now: float) -> None:
        self._rate.add(now, self._done)
        self._shown = self._metrics() if callable(self._metrics) else self._metrics
        self._words = self._pace()
        if self._live:
            self._due = now + REDRAW
            self._redraw(now)
        else:
            self._due = now + (min(2.0, self._interval) if self._lines == 0 else self._interval)
            self._lines += 1
            line = _line(self._status(now), self._shown)
            self._guard(lambda: print(line, file=self._console.file, flush=True))
        if self._gone:
            self._due = float("inf")

    def _redraw(self, now: float) -> None:
        live, self._drawn = self._live, now
        if live is not None:
            panel = _panel(self._status(now), self._shown, self._console.width)
            self._guard(lambda: live.update(panel, refresh=True))

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
