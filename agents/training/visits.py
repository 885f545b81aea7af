"""What each visit to a game of a sequence brought."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from agents.tasks import Visit

LAST = 0.1
"""Part of a visit at its end, whose games tell how well it was learned."""


@dataclass
class VisitAccount:
    """Sums over the games that ended in a visit; a game that a change cut is not among them.

    updates_before, seconds_before: what the run had taken when the visit began.
    """

    updates_before: int = 0
    seconds_before: float = 0.0
    steps: int = 0
    episodes: int = 0
    episode_steps: int = 0
    weighted_return: float = 0.0
    last_episodes: int = 0
    last_return: float = 0.0
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Summaries of the evaluation at its end, by game."""

    def add(self, visit: Visit, agent_step: int, score: float, length: int) -> None:
        """Count a game that ended after so many agent steps of the run."""
        self.episodes += 1
        self.episode_steps += length
        self.weighted_return += score * length
        if agent_step > visit.stop - LAST * (visit.stop - visit.start):
            self.last_episodes += 1
            self.last_return += score

    def row(self, visit: Visit, updates: int, seconds: float) -> dict[str, Any]:
        """The visit in numbers, for result.json; `updates` and `seconds` of the run are those at its end.

        "area" is the area under the curve of returns, divided by the visit's length: the mean over agent steps of the
        return of the game that a step belongs to. Over the games that ended; None if none did.
        """
        own = self.scores.get(visit.game)
        return {
            "number": visit.number + 1,
            "game": visit.game,
            "visit": visit.visit,
            "start": visit.start,
            "steps": self.steps,
            "updates": updates - self.updates_before,
            "episodes": self.episodes,
            "area": self.weighted_return / self.episode_steps if self.episode_steps else None,
            "last_tenth": self.last_return / self.last_episodes if self.last_episodes else None,
            "score": own,
            "scores": {game: found["mean"] for game, found in self.scores.items()},
            "seconds": seconds - self.seconds_before,
        }

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)
