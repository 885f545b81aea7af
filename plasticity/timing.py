"""When a method acts: at the end of each period, or once."""

from __future__ import annotations

import math
from typing import Any, Literal

from plasticity.method import check_period, check_until

At = float | Literal["now"] | None
"""The one update after which a method acts; "now": its first; None: it acts periodically."""


class Timing:
    """Whether a method acts after an update: every `period` updates up to the update `until`, or once, `at` an update.

    method: its name in messages. `at` replaces the period. With "now" the method acts after its first update, also in
    a run that goes on from a checkpoint of another one.
    """

    def __init__(self, method: str, period: float, at: At = None, until: float = math.inf):
        self.period = check_period(f"{method}: period", period)
        self.until = check_until(method, until)
        self.at: At = at if at is None or at == "now" else check_period(f"{method}: at", at)
        self.acted = 0
        """With "now": the update after which the method acted, or 0."""

    @property
    def is_off(self) -> bool:
        """Whether the method never acts."""
        return self.until < self.period or self.period == math.inf if self.at is None else self.at == math.inf

    def due(self, update: int) -> bool:
        """Whether the method acts after this update."""
        if self.at == "now":
            self.acted = self.acted or update
        return update == self.last(update)

    def last(self, update: int) -> int:
        """The last update, up to this one, after which the method acted; 0 before the first."""
        if self.is_off:
            return 0
        if self.at is None:
            return int(min(update, self.until) // self.period * self.period)
        once = self.acted if self.at == "now" else int(self.at)
        return once if once <= update else 0

    def is_over(self, update: int) -> bool:
        """Whether the method, which is not off, acts after no update that follows this one."""
        if self.is_off or self.at == "now":
            return False
        if self.at is not None:
            return self.at <= update
        return (update // self.period + 1) * self.period > self.until

    def state_dict(self) -> dict[str, Any]:
        return {"acted": self.acted}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.acted = state.get("acted", 0)  # methods could not act "now" at first
