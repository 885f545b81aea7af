"""How many updates are due."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class UpdateScheduler:
    """Exactly floor(utd · earning steps) updates, for any rational utd and any number of environments.

    Steps earn after the first `start`, with a `period` after the first `start` of each: there the replay begins empty.
    `since`, `made`: the agent step at which a fork went on with other settings, and the updates made by then.

    The number follows from two counters that every checkpoint holds, so no fraction is lost or counted twice.
    """

    utd: Fraction
    start: int
    since: int = 0
    made: int = 0
    period: int | None = None

    def due(self, agent_step: int, updates: int) -> int:
        """Updates to make now, `updates` having been made so far."""
        return self.total(agent_step) - updates

    def total(self, agent_step: int) -> int:
        """Updates of a run of `agent_step` steps."""
        return self.made + int(self.utd * max(self._earning(agent_step) - self._earning(self.since), 0))

    def _earning(self, agent_step: int) -> int:
        """How many of the first `agent_step` steps earn updates."""
        if self.period is None:
            return max(agent_step - self.start, 0)
        whole, rest = divmod(agent_step, self.period)
        return whole * (self.period - self.start) + max(rest - self.start, 0)
