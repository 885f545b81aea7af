"""Choosing actions: frame stacks, the exploration rate, the greedy-or-random choice."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


class FrameStack:
    """Each environment's newest frames, on the device: uint8 [N, stack, *frame_shape], zeros before an episode."""

    def __init__(self, num_envs: int, stack: int, frame_shape: tuple[int, ...], device: torch.device):
        self.frames = torch.zeros(num_envs, stack, *frame_shape, dtype=torch.uint8, device=device)

    def push(self, frame: np.ndarray, starts: np.ndarray) -> Tensor:
        """New stacks with `frame` [N, *frame_shape] behind the older frames, or alone where an episode `starts` [N]."""
        device, older = self.frames.device, self.frames[:, 1:]
        if not older.shape[1]:  # the environment may write to its array again
            self.frames = torch.from_numpy(frame).unsqueeze(1).to(device, copy=True)
            return self.frames
        if starts.any():
            older = older.masked_fill(torch.from_numpy(starts).to(device).view(-1, *[1] * (older.ndim - 1)), 0)
        newest = torch.from_numpy(frame).to(device, non_blocking=True).unsqueeze(1)
        self.frames = torch.cat([older, newest], dim=1)
        return self.frames

    def state_dict(self) -> dict[str, Tensor]:
        return {"frames": self.frames}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.frames = state["frames"].to(self.frames.device, copy=True)


def linear_epsilon(step: int, final: float, steps: int) -> float:
    """Exploration rate at an agent step: from 1 to `final` over `steps`."""
    return final if step >= steps else 1 + (final - 1) * step / steps


class EpsilonGreedy:
    """Random actions with probability epsilon, else the policy's. Has its own generator."""

    def __init__(self, policy: Callable[[Tensor], Tensor], num_actions: int, seed: int):
        self.policy, self.num_actions = policy, num_actions
        self.rng = np.random.default_rng(seed)

    def __call__(self, obs: Tensor, epsilon: float) -> np.ndarray:
        """Actions int64 [N] for stacks [N, stack, H, W]."""
        explore, actions = self.draw(len(obs), epsilon)
        if explore.all():
            return actions
        return np.where(explore, actions, self.policy(obs).cpu().numpy())

    def draw(self, count: int, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
        """Which of `count` environments explore, bool [count], and a random action for each, int64 [count]."""
        explore = self.rng.random(count) < epsilon
        return explore, self.rng.integers(self.num_actions, size=count)

    def state_dict(self) -> dict:
        return {"rng": self.rng.bit_generator.state}

    def load_state_dict(self, state: dict) -> None:
        self.rng.bit_generator.state = state["rng"]
