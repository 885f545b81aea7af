"""How many updates are due."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class UpdateScheduler:
    """Exactly floor(utd · agent steps after `start`) updates, for any rational utd and any number of environments.

    `made`: updates made by `start`, where a fork went on with another utd.

    The number follows from two counters that every checkpoint holds, so no fraction is lost or counted twice.
    """

    utd: Fraction
    start: int
    made: int = 0

    def due(self, agent_step: int, updates: int) -> int:
        """Updates to make now, `updates` having been made so far."""
        return self.total(agent_step) - updates

    def total(self, agent_step: int) -> int:
        """Updates of a run of `agent_step` steps."""
        return self.made + int(self.utd * max(agent_step - self.start, 0))
