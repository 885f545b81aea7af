"""Slots of a frame table for the true last frames of truncated episodes."""

from typing import Any

import numpy as np


class LastFrames:
    """A few slots of the frame table for each environment, used in turn.

    `owner` [num_envs, slots]: the ring row of each slot's frame, counted from the first add; -1: none yet. `first` is
    the table's index of the first slot.
    """

    def __init__(self, num_envs: int, slots: int, first: int) -> None:
        self.owner = np.full((num_envs, slots), -1, dtype=np.int64)
        self.first = first

    def take(self, env: int, row: int) -> int:
        """The table's index for the last frame of an episode that is truncated at `row`: the oldest slot."""
        slot = int(self.owner[env].argmin())
        self.owner[env, slot] = row
        return self._index(env, slot)

    def have_room(self, envs: np.ndarray, oldest: int) -> bool:
        """Whether each of the environments has a slot whose row is older than the oldest stored."""
        return bool((self.owner[envs] < oldest).any(1).all())

    def _index(self, env: Any, slot: Any) -> Any:
        return self.first + slot * len(self.owner) + env

    def check(self, rows: np.ndarray, truncated: np.ndarray, ending: np.ndarray, oldest: int) -> None:
        """Raises AssertionError unless the slots and the truncated steps [rows, num_envs] belong to each other."""
        env, slot = np.nonzero(self.owner >= oldest)
        held = set(zip(self.owner[env, slot].tolist(), env.tolist(), self._index(env, slot).tolist(), strict=True))
        at, column = np.nonzero(truncated)
        wanted = set(zip(rows[at].tolist(), column.tolist(), ending[at, column].tolist(), strict=True))
        assert len({index for _, _, index in wanted}) == len(wanted), "last frames: two truncated steps share one"
        assert held == wanted, "last frames: they and the truncated steps do not refer to each other"
