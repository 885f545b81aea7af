"""Frames with more channels than a game has, so that one network sees several games."""

from typing import Any

import numpy as np

from envs.vector_env import Progress, Step, VectorEnv


class PaddedVectorEnv(VectorEnv):
    """An environment whose frames [C, H, W] get channels of zeros behind their own, `channels` in all."""

    def __init__(self, env: VectorEnv, channels: int) -> None:
        self.env = env
        self.num_envs, self.num_actions, self.stack = env.num_envs, env.num_actions, env.stack
        self.time_limit, self.exact_resume = env.time_limit, env.exact_resume
        own, *sides = env.frame_shape
        self.frame_shape = (channels, *sides)
        self._missing = ((0, 0), (0, channels - own), *[(0, 0)] * len(sides))

    @property
    def earliest_truncation(self) -> int | None:
        return self.env.earliest_truncation

    def reset(self) -> np.ndarray:
        return self._padded(self.env.reset())

    def send(self, actions: np.ndarray) -> None:
        self.env.send(actions)

    def recv(self) -> Step:
        step = self.env.recv()
        frame = self._padded(step.frame)
        first = self._padded(step.first_frame) if step.ended.any() else frame
        return step._replace(frame=frame, first_frame=first)

    def close(self) -> None:
        self.env.close()

    def describe(self) -> str:
        return f"{self.env.describe()}, {self.frame_shape[0]} channels"

    def state_dict(self) -> dict[str, Any]:
        return self.env.state_dict()

    def load_state_dict(self, state: dict[str, Any], progress: Progress = lambda done, total: None) -> np.ndarray:
        return self._padded(self.env.load_state_dict(state, progress))

    def _padded(self, frames: np.ndarray) -> np.ndarray:
        return np.pad(frames, self._missing)
