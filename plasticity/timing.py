"""When a method acts: at the end of each period, once, or at each change of task."""

from __future__ import annotations

import math
from typing import Any, Literal

from plasticity.method import check_period, check_until

At = float | Literal["now", "task"] | None
"""The one update after which a method acts; "now": its first; "task": at each change of task; None: periodically."""


class Timing:
    """Whether a method acts after an update: every `period` updates up to the update `until`, or once, `at` an update.

    method: its name in messages. `at` replaces the period. With "now" the method acts after its first update, also in
    a run that goes on from a checkpoint of another one; with "task" after no update, but whenever the learner says that
    another task begins (`Method.task_changed`).
    """

    def __init__(self, method: str, period: float, at: At = None, until: float = math.inf):
        self.period = check_period(f"{method}: period", period)
        self.until = check_until(method, until)
        self.at: At = at if at is None or at == "now" or at == "task" else check_period(f"{method}: at", at)
        self.acted = 0
        """With "now" and "task": the update after which the method acted last, or 0."""

    @property
    def is_off(self) -> bool:
        """Whether the method never acts."""
        return self.until < self.period or self.period == math.inf if self.at is None else self.at == math.inf

    def due(self, update: int) -> bool:
        """Whether the method acts after this update."""
        if self.at == "task":
            return False
        if self.at == "now":
            self.acted = self.acted or update
        return update == self.last(update)

    def due_at_task(self, update: int) -> bool:
        """Whether the method acts now, as another task begins after this update."""
        if self.at == "task":
            self.acted = update
        return self.at == "task"

    def last(self, update: int) -> int:
        """The last update, up to this one, after which the method acted; 0 before the first."""
        if self.is_off:
            return 0
        if self.at is None:
            return int(min(update, self.until) // self.period * self.period)
        once = self.acted if self.at in ("now", "task") else int(self.at)
        return once if once <= update else 0

    def is_over(self, update: int) -> bool:
        """Whether the method, which is not off, acts after no update that follows this one."""
        if self.is_off or self.at == "now" or self.at == "task":
            return False
        if self.at is not None:
            return self.at <= update
        return (update // self.period + 1) * self.period > self.until

    def state_dict(self) -> dict[str, Any]:
        return {"acted": self.acted}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.acted = state.get("acted", 0)  # methods could not act "now" at first
