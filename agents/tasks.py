"""Games in sequence: which game a run plays at which step. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Visit:
    """One stay in a game of a sequence; a run of a single game is one visit.

    number: of all visits of the run, from 0. visit: of those to this game, from 1. The agent steps that follow `start`
    others belong to it, up to `stop`.
    """

    number: int
    game: str
    visit: int
    start: int
    stop: int


@dataclass(frozen=True)
class Tasks:
    """The games of a run, each played for `task_steps` agent steps, and the list of them `visits` times."""

    games: tuple[str, ...]
    task_steps: int
    visits: int = 1

    def __len__(self) -> int:
        return len(self.games) * self.visits

    def __getitem__(self, number: int) -> Visit:
        if not 0 <= number < len(self):
            raise IndexError(f"visit {number} of {len(self)}")
        start, game = number * self.task_steps, self.games[number % len(self.games)]
        return Visit(number, game, number // len(self.games) + 1, start, start + self.task_steps)

    def after(self, agent_step: int) -> Visit:
        """The visit that the last of so many agent steps belongs to."""
        return self[min(max(agent_step - 1, 0) // self.task_steps, len(self) - 1)]

    def goes_on(self, agent_step: int) -> bool:
        """Whether a visit begins after so many agent steps."""
        return self.after(agent_step).stop < self.steps

    @property
    def steps(self) -> int:
        """Agent steps of the whole run."""
        return len(self) * self.task_steps
