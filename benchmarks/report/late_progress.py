"""Progress of work that is fast for most reports but takes a minute for large ones."""

from __future__ import annotations

import time
from typing import Self

from experiment.progress import Progress


class LateProgress:
    """Shows progress on stderr once the work has taken `after` seconds; before, nothing. A context manager."""

    def __init__(self, total: int, unit: str, after: float = 3.0) -> None:
        self._total, self._unit = total, unit
        self._due = time.monotonic() + after
        self._shown: Progress | None = None

    def update(self, done: int) -> None:
        """Says how many units are done."""
        if self._shown is None and time.monotonic() >= self._due:
            from rich.console import Console

            self._shown = Progress(self._total, self._unit, Console(stderr=True), start=done, interval=10.0)
        if self._shown is not None:
            self._shown.update(done)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown is not None:
            self._shown.update(self._total)
            self._shown.close()
