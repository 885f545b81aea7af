"""Catch, the smallest pixel game that needs more than one step of foresight (Osband et al. 2020, bsuite)."""

from __future__ import annotations

from typing import Any

import numpy as np

from envs.protocol import PROTOCOLS
from envs.vector_env import Progress, Step, VectorEnv

SIZE = 10
CELL, OFFSET, FRAME = 7, 4, 84  # drawn where the last layers of every network still see the paddle


class Catch(VectorEnv):
    """A ball falls from a random column; a paddle in the last row moves left, stays, or moves right.

    An episode has nine steps. The last one gives reward +1 for a caught ball and -1 for a lost one. Frames are 84×84
    like Atari's or, without `enlarged`, 10×10 with one pixel per cell.
    """

    rules = PROTOCOLS["catch"]
    num_actions = 3
    exact_resume = True

    def __init__(self, num_envs: int = 1, seed: int = 0, enlarged: bool = True):
        self.num_envs, self.enlarged = num_envs, enlarged
        self.frame_shape = (FRAME, FRAME) if enlarged else (SIZE, SIZE)
        self.rng = np.random.default_rng(seed)

    def reset(self) -> np.ndarray:
        self.row = np.zeros(self.num_envs, np.int64)
        self.ball = self.rng.integers(SIZE, size=self.num_envs)
        self.paddle = np.full(self.num_envs, SIZE // 2)
        return self._draw()

    def _draw(self) -> np.ndarray:
        frame = np.zeros((self.num_envs, SIZE, SIZE), np.uint8)
        envs = np.arange(self.num_envs)
        frame[envs, self.row, self.ball] = 255
        frame[envs, SIZE - 1, self.paddle] = 255
        if not self.enlarged:
            return frame
        rest = FRAME - OFFSET - SIZE * CELL
        return np.pad(frame.repeat(CELL, 1).repeat(CELL, 2), ((0, 0), (OFFSET, rest), (OFFSET, rest)))

    def recv(self) -> Step:
        self.row += 1
        self.paddle = np.clip(self.paddle + self.actions - 1, 0, SIZE - 1)
        terminated = self.row == SIZE - 1
        reward = np.where(terminated, np.where(self.paddle == self.ball, 1.0, -1.0), 0.0).astype(np.float32)
        frame, steps = self._draw(), self.row.copy()
        self.row[terminated] = 0
        self.ball[terminated] = self.rng.integers(SIZE, size=self.num_envs)[terminated]
        self.paddle[terminated] = SIZE // 2
        never = np.zeros(self.num_envs, bool)
        first = np.where(terminated[:, None, None], self._draw(), frame)
        return Step(frame, reward, terminated, never, never, reward.astype(np.float64), steps, first)

    def state_dict(self) -> dict[str, Any]:
        state = {name: getattr(self, name).tolist() for name in ("row", "ball", "paddle")}
        return state | {"rng": self.rng.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any], progress: Progress = lambda done, total: None) -> np.ndarray:
        if len(state["row"]) != self.num_envs:
            raise ValueError(f"the saved environments have num_envs {len(state['row'])}, these have {self.num_envs}")
        for name in ("row", "ball", "paddle"):
            setattr(self, name, np.array(state[name], np.int64))
        self.rng.bit_generator.state = state["rng"]
        return self._draw()
