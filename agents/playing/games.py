"""The games of an evaluation: which are counted, how long each was, whether it was cut, and which are the same."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from envs.vector_env import Step


class Game(NamedTuple):
    """One game that was played to its end, or to the limit."""

    score: float
    """Raw return."""
    steps: int
    """Agent steps."""
    cut: bool
    """Whether the time limit ended it."""
    actions: bytes
    """Digest of its actions."""
    score_wraps: int = 0
    """How often its score counter wrapped. Each wrap lowers the return by the counter's range."""


def different(games: Sequence[Game]) -> Counter[tuple[bytes, int, float]]:
    """How often each different game was played: games are the same if actions, length and return agree.

    The start of a game is not compared: if it changes neither the actions nor the return, the game is the same. The
    return is compared, since with sticky actions the same actions lead to many games.
    """
    return Counter((game.actions, game.steps, game.score) for game in games)


def effective_number(games: Sequence[Game]) -> float:
    """n² / Σ c² for n games, each different game played c times (Kish's effective sample size).

    The number is n if all games are different. If each was played equally often, it is the number of different games.
    """
    counts = different(games).values()
    return sum(counts) ** 2 / sum(count**2 for count in counts) if counts else 0.0


class Games:
    """The games that N environments play side by side, and those that ended.

    Each environment plays a fixed number of games: to take the first games that end would favour short ones. Further
    games of an environment do not count.
    """

    def __init__(self, num_envs: int, episodes: int, limit: int | None) -> None:
        self.episodes, self.limit = episodes, limit
        self.ended: list[Game] = []
        self.left = episodes // num_envs + (np.arange(num_envs) < episodes % num_envs)
        self.running = np.zeros(num_envs, np.int64)
        """Agent steps so far of each environment's game that counts."""
        self._wraps = np.zeros(num_envs, np.int64)
        self.time = 0
        """Steps that the environments took together."""
        self._hashes = [hashlib.blake2b(digest_size=16) for _ in range(num_envs)]

    @property
    def playing(self) -> bool:
        return bool(self.left.any())

    @property
    def steps(self) -> int:
        """Agent steps of all games that count."""
        return sum(game.steps for game in self.ended) + int(self.running.sum())

    @property
    def cut(self) -> int:
        """Games that the limit ended."""
        return sum(game.cut for game in self.ended)

    def follow(self, actions: np.ndarray, step: Step) -> None:
        """One step of all environments: the actions [N] and what they led to."""
        self.time += 1
        counted = self.left > 0
        self.running[counted] = step.episode_steps[counted]
        self._wraps += step.score_wrapped & counted
        for i in np.flatnonzero(counted).tolist():
            self._hashes[i].update(int(actions[i]).to_bytes(2, "little"))
        for i in np.flatnonzero(counted & step.ended).tolist():
            score, digest = float(step.episode_return[i]), self._hashes[i].digest()
            steps, wraps = int(step.episode_steps[i]), int(self._wraps[i])
            self.ended.append(Game(score, steps, bool(step.truncated[i]), digest, wraps))
            self._hashes[i] = hashlib.blake2b(digest_size=16)
            self.running[i] = self._wraps[i] = 0
            self.left[i] -= 1

    def begun(self) -> float:
        """The sum over running games of their length as a share of the limit; 0 without a limit."""
        return float(self.running.sum()) / self.limit if self.limit else 0.0

    def most_left(self) -> int | None:
        """Steps of the environments together until all games have ended, at most; None without a limit."""
        if self.limit is None:
            return None
        return int((self.left * self.limit - self.running).max())

    def likely_left(self) -> float | None:
        """Steps of the environments together, by the mean length of the games so far; None before one has ended.

        The mean is all steps divided by the games that ended, so that long running games count. A running game longer
        than the mean is expected to last as long again.
        """
        if not self.ended:
            return None
        mean = self.steps / len(self.ended)
        rest = np.where(self.running < mean, mean - self.running, mean)
        if self.limit is not None:
            mean = min(mean, self.limit)
            rest = np.minimum(rest, self.limit - self.running)
        return float(np.where(self.left > 0, (self.left - 1) * mean + rest, 0.0).max())
