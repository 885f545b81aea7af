"""Where a frame table keeps the true last frames of truncated episodes."""

from typing import Any

import numpy as np


class LastFrames:
    """A few places of the frame table for each environment, taken in turn.

    `owner` [num_envs, places]: the ring's row that the frame of each place belongs to, counted from the first add; -1:
    none yet. `first` is the table's index of the first place.
    """

    def __init__(self, num_envs: int, places: int, first: int) -> None:
        self.owner = np.full((num_envs, places), -1, dtype=np.int64)
        self.first = first

    def take(self, env: int, row: int) -> int:
        """The table's index for the last frame of an episode that is truncated at `row`: the oldest place."""
        place = int(self.owner[env].argmin())
        self.owner[env, place] = row
        return self._index(env, place)

    def have_room(self, envs: np.ndarray, oldest: int) -> bool:
        """Whether each of the environments has a place whose row is older than the oldest stored."""
        return bool((self.owner[envs] < oldest).any(1).all())

    def _index(self, env: Any, place: Any) -> Any:
        return self.first + place * len(self.owner) + env

    def check(self, rows: np.ndarray, truncated: np.ndarray, ending: np.ndarray, oldest: int) -> None:
        """Raises AssertionError unless the places and the truncated steps [rows, num_envs] belong to each other."""
        env, place = np.nonzero(self.owner >= oldest)
        held = set(zip(self.owner[env, place].tolist(), env.tolist(), self._index(env, place).tolist(), strict=True))
        at, lane = np.nonzero(truncated)
        wanted = set(zip(rows[at].tolist(), lane.tolist(), ending[at, lane].tolist(), strict=True))
        assert len({index for _, _, index in wanted}) == len(wanted), "last frames: two truncated steps share one"
        assert held == wanted, "last frames: they and the truncated steps do not refer to each other"
