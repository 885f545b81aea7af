"""Shows how far a run is: a live view on a terminal, plain lines elsewhere."""

import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

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


class Progress:
    """Shows done / total, rate, elapsed and remaining time and the caller's figures. A context manager.

    On a terminal it redraws a few lines twice a second; elsewhere it prints one line soon after the start and then
    every `interval` seconds. A terminal that goes away silences it; nothing here raises.

    Args:
        total: how many units the run takes.
        unit: what they are, in the plural, as "agent steps".
        start: how many were done before, in a run that is resumed.
        console: a rich Console or a text stream in place of stdout.
    """

    def __init__(
        self,
        total: int,
        unit: str,
        console: "Console | TextIO | None" = None,
        *,
        start: int = 0,
        interval: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total, self._unit, self._done = total, unit, start
        self._interval, self._clock = interval, clock
        self._began = clock()
        self._rate = Rate()
        self._rate.add(self._began, start)
        self._due = self._began
        self._lines = 0
        self._figures: Figures = {}
        self._view = _live_view(console)
        self._stream = None if self._view else (console or sys.stdout)
        self._gone = False

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, done: int, figures: Figures | None = None) -> None:
        """Tells how many units are done; `figures` are label: text, or a function of none that is only called to draw."""
        self._done = done
        if figures is not None:
            self._figures = figures
        now = self._clock()
        if now >= self._due:
            self._draw(now)

    def close(self) -> None:
        """Draws the last state and gives the terminal back."""
        self._draw(self._clock())
        if self._view:
            self._guard(self._view.stop)
        self._gone = True

    def _draw(self, now: float) -> None:
        self._rate.add(now, self._done)
        if self._gone:
            self._due = float("inf")
            return
        figures = self._figures() if callable(self._figures) else self._figures
        status = _Status(self._done, self._total, self._unit, now - self._began, self._rate.value())
        if self._view:
            view = self._view
            self._due = now + 0.5
            self._guard(lambda: view.update(_table(status, figures, view.console.width), refresh=True))
        else:
            self._due = now + (min(2.0, self._interval) if self._lines == 0 else self._interval)
            self._lines += 1
            self._guard(lambda: print(_line(status, figures), file=self._stream, flush=True))  # type: ignore[arg-type]

    def _guard(self, draw: Callable[[], object]) -> None:
        try:
            draw()
        except (OSError, ValueError):  # a closed stream is a ValueError
            self._gone = True
