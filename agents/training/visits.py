"""The visits of a run that plays games in sequence: which one it is in, and what each brought."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from agents.tasks import Tasks, Visit

LAST = 0.1
"""Part of a visit at its end, whose games tell how well it was learned."""


@dataclass
class Account:
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

    def row(self, visit: Visit, updates: int, seconds: float) -> dict[str, Any]:
        """The visit in numbers, for result.json; `updates` and `seconds` of the run are those at its end.

        "area" is the area under the curve of returns, divided by the visit's length: the mean over agent steps of the
        return of the game that a step belongs to. Over the games that ended; None if none did.
        """
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
            "score": self.scores.get(visit.game),
            "scores": {game: found["mean"] for game, found in self.scores.items()},
            "seconds": seconds - self.seconds_before,
        }


class Visits:
    """The visit that a run is in, and the accounts of all so far; a run of one game is one visit.

    Attributes:
        now: the present visit. accounts: one for each visit that has begun, in order.
    """

    def __init__(self, tasks: Tasks) -> None:
        self.tasks, self.now, self.accounts = tasks, tasks[0], [Account()]

    @property
    def account(self) -> Account:
        """That of the present visit."""
        return self.accounts[-1]

    def begin(self, updates: int, seconds: float) -> Visit:
        """Begin the next visit, after so many updates and seconds of the run."""
        self.now = self.tasks[self.now.number + 1]
        self.accounts.append(Account(updates, seconds))
        return self.now

    def add_game(self, agent_step: int, score: float, length: int) -> None:
        """Count a game that ended with this agent step of the run."""
        account, visit = self.account, self.now
        account.episodes += 1
        account.episode_steps += length
        account.weighted_return += score * length
        if agent_step > visit.stop - LAST * (visit.stop - visit.start):
            account.last_episodes += 1
            account.last_return += score

    def rows(self, updates: int, seconds: float) -> list[dict[str, Any]]:
        """The visits so far in numbers, the run having made so many updates in so many seconds."""
        ends = [(later.updates_before, later.seconds_before) for later in self.accounts[1:]]
        pairs = zip(self.accounts, [*ends, (updates, seconds)], strict=True)
        return [account.row(self.tasks[number], *end) for number, (account, end) in enumerate(pairs)]

    def state_dict(self) -> list[dict[str, Any]]:
        return [asdict(account) for account in self.accounts]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        self.accounts = [Account(**account) for account in state]
        self.now = self.tasks[len(state) - 1]
