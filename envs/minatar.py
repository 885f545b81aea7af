"""MinAtar (Young & Tian 2019, arXiv 1903.03176): five games on a 10×10 grid, whose state is shown whole.

The games are the package MinAtar's, which is under the GPL-3 and therefore an extra that is imported, never copied.
"""

from importlib.metadata import version
from typing import Any

import numpy as np
from minatar import Environment

from envs.atari import Emulated, SeededVectorEnv
from envs.games import MINATAR
from envs.protocol import PROTOCOLS, Protocol

MODULES = dict(zip(MINATAR, ("asterix", "breakout", "freeway", "seaquest", "space_invaders"), strict=True))
"""The package's names of the games."""


class MinAtarVectorEnv(SeededVectorEnv):
    """One game of MinAtar: frames [C, 10, 10], 255 where an object of a channel's kind is, 0 elsewhere; no stacks.

    The difficulty rises within an episode, as in the paper; Freeway's end after 2,501 steps is a termination. Every
    episode is a new game object: the package's sticky actions would repeat the last action of the previous episode.
    There are no lives, no-ops and skipped frames: ValueError for a protocol that has some. The games keep the package's
    faults: see envs.games.SCORE_NOTES.
    """

    rules = PROTOCOLS["minatar"]
    network = "minatar"
    stack = 1

    def __init__(self, game: str, protocol: Protocol, num_envs: int = 1, seed: int = 0, num_threads: int = 1) -> None:
        super().__init__(game, protocol, num_envs, seed, num_threads)
        if protocol.frame_skip > 1 or protocol.noop_max or protocol.fire_reset:
            raise ValueError(
                f"{self.game} has one frame per step, no no-ops and no fire reset: not protocol "
                f"{protocol.name!r}, but 'minatar'"
            )
        self._games = [self._new_game() for _ in range(num_envs)]
        height, width, channels = self._games[0].state_shape()
        self.frame_shape = (channels, height, width)
        all_actions = range(self._games[0].num_actions())
        self._codes = list(all_actions if protocol.full_action_set else self._games[0].minimal_action_set())
        self.num_actions = len(self._codes)

    def _new_game(self) -> Environment:
        return Environment(MODULES[self.game], sticky_action_prob=self.protocol.sticky_actions)

    def _begin_seeded(self, mask: np.ndarray, seeds: list[int]) -> tuple[np.ndarray, np.ndarray]:
        begun = [self._new_game() for _ in seeds]
        for env, game, seed in zip(np.flatnonzero(mask), begun, seeds, strict=True):
            game.seed(seed)
            game.reset()
            self._games[env] = game
        return _frames(begun), np.zeros(len(begun), np.int32)

    def _act(self, actions: np.ndarray) -> None:
        self._sent_actions = actions.tolist()

    def _recv(self) -> Emulated:
        played = [game.act(self._codes[action]) for game, action in zip(self._games, self._sent_actions, strict=True)]
        reward, over = (np.array(column) for column in zip(*played, strict=True))
        limit = self.time_limit or np.inf
        truncated = self._steps + 1 >= limit
        return Emulated(_frames(self._games), reward, over, truncated, np.zeros(self.num_envs, np.int32))

    def _identity(self) -> dict[str, Any]:
        return {"MinAtar": version("MinAtar")} | super()._identity()

    def describe(self) -> str:
        return self._describe(f"MinAtar {version('MinAtar')}")


def _frames(games: list[Environment]) -> np.ndarray:
    """What games show: uint8 [games, C, 10, 10]."""
    states = np.stack([game.state() for game in games])
    return np.multiply(states.transpose(0, 3, 1, 2), 255, dtype=np.uint8)
