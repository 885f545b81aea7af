"""Scoring a policy: whole games under the protocol's rules, raw returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.acting import EpsilonGreedy, FrameStack
from envs.games import human_normalized, reference_scores
from envs.vector_env import VectorEnv


def play_episodes(
    policy: Callable[[Tensor], Tensor],
    env: VectorEnv,
    episodes: int,
    *,
    stack: int,
    epsilon: float,
    seed: int,
    device: torch.device,
) -> Iterator[float]:
    """Raw returns of `episodes` whole games, as they end.

    Every environment plays a number of games that is fixed beforehand: to take the first games that end, of several
    played side by side, would favour short ones.
    """
    act = EpsilonGreedy(policy, env.num_actions, seed)
    frames = FrameStack(env.num_envs, stack, env.frame_shape, device)
    left = episodes // env.num_envs + (np.arange(env.num_envs) < episodes % env.num_envs)
    obs = frames.push(env.reset(), np.ones(env.num_envs, bool))
    while left.any():
        step = env.step(act(obs, epsilon))
        for i in np.flatnonzero(step.ended & (left > 0)):
            left[i] -= 1
            yield float(step.episode_return[i])
        obs = frames.push(step.first_frame, step.ended)


def summary(game: str, scores: list[float]) -> dict[str, Any]:
    """Mean, median, deviation and all scores; the mean also as human-normalised score where a reference is known."""
    mean = float(np.mean(scores))
    return {
        "episodes": len(scores),
        "mean": mean,
        "median": float(np.median(scores)),
        "std": float(np.std(scores)),
        "human_normalized": human_normalized(game, mean) if game in reference_scores() else None,
        "scores": scores,
    }
