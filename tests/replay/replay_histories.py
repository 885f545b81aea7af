"""Random histories of several environments, with frames that are all different."""

from collections.abc import Iterator

import numpy as np

PLAIN, TERMINATED, TRUNCATED, LIFE_LOST, LAST_LIFE, BOTH, LIFE_LOST_AND_TRUNCATED = range(7)
KINDS = 12  # the kinds from 7 on are plain too


class History:
    """Turns small integers, one per environment and step, into what an environment would give."""

    def __init__(self, num_envs: int, time_limit: int | None, seed: int = 0) -> None:
        self.num_envs, self.time_limit = num_envs, time_limit
        self.random = np.random.default_rng(seed)
        self.made = 0
        self.length = np.zeros(num_envs, dtype=int)

    def frames(self) -> np.ndarray:
        numbers = np.arange(self.made, self.made + self.num_envs) + 1
        self.made += self.num_envs
        digits = [numbers % 256, numbers // 256 % 256, numbers // 65536, np.full(self.num_envs, 255)]
        return np.stack(digits, 1).astype(np.uint8).reshape(self.num_envs, 2, 2)

    def step(self, kinds: list[int]) -> tuple[np.ndarray, ...]:
        kind = np.array(kinds)
        self.length += 1
        terminated = np.isin(kind, [TERMINATED, LAST_LIFE, BOTH])
        may_truncate = self.length >= (self.time_limit or np.inf)
        truncated = np.isin(kind, [TRUNCATED, BOTH, LIFE_LOST_AND_TRUNCATED]) & may_truncate
        life_lost = np.isin(kind, [LIFE_LOST, LAST_LIFE, LIFE_LOST_AND_TRUNCATED])
        ended = terminated | truncated
        self.length[ended] = 0
        frame, first = self.frames(), self.frames()
        next_frame = np.where(ended[:, None, None], first, frame)
        action = self.random.integers(0, 18, self.num_envs)
        reward = self.random.integers(-3, 4, self.num_envs).astype(np.float32)
        return action, reward, terminated, truncated, life_lost, frame, next_frame

    def steps(self, count: int) -> Iterator[tuple[np.ndarray, ...]]:
        for _ in range(count):
            yield self.step(self.random.integers(0, KINDS, self.num_envs).tolist())
