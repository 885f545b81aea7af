"""Scoring an agent: whole games under the protocol's rules, raw returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from agents.acting import EpsilonGreedy, FrameStack
from agents.build import build_env
from agents.config import DQNConfig
from agents.dqn import DQN
from envs.games import human_normalized, reference_scores
from envs.vector_env import VectorEnv
from experiment.determinism import device_of
from experiment.progress import Progress

if TYPE_CHECKING:
    from agents.video import Recorder

NUM_ENVS = 10


def play_episodes(
    policy: Callable[[Tensor], Tensor],
    env: VectorEnv,
    episodes: int,
    epsilon: float,
    seed: int,
    device: torch.device,
    recorder: Recorder | None = None,
) -> Iterator[float | None]:
    """Raw returns of `episodes` whole games as they end, and None after every step in which none ended.

    Every environment plays a number of games that is fixed beforehand: to take the first games that end, of several
    played side by side, would favour short ones.
    """
    act = EpsilonGreedy(policy, env.num_actions, seed)
    stack = FrameStack(env.num_envs, env.stack, env.frame_shape, device)
    left = episodes // env.num_envs + (np.arange(env.num_envs) < episodes % env.num_envs)
    first = env.reset()
    if recorder is not None:
        recorder.begin(env, first)
    obs = stack.push(first, np.ones(env.num_envs, bool))
    while left.any():
        actions = act(obs, epsilon)
        step = env.step(actions)
        if recorder is not None:
            recorder.follow(actions, step)
        counted = np.flatnonzero(step.ended & (left > 0))
        left[counted] -= 1
        yield from step.episode_return[counted].tolist() or [None]
        obs = stack.push(step.first_frame, step.ended)


def evaluated_policy(config: DQNConfig, agent: DQN) -> Callable[[Tensor], Tensor]:
    """How the agent acts in an evaluation: without noise on its weights, unless its published rule keeps it."""
    return agent.act if config.eval_noise else agent.act_without_noise


def evaluation_epsilon(config: DQNConfig) -> float:
    """The share of random actions in an evaluation."""
    return config.rules.evaluation_epsilon if config.eval_epsilon is None else config.eval_epsilon


def rules_played(config: DQNConfig, episodes: int) -> dict[str, Any]:
    """The protocol, with the random actions, the number of games (0 for no evaluation) and the clipping of this run."""
    played = {"evaluation_epsilon": evaluation_epsilon(config), "evaluation_episodes": episodes}
    return asdict(config.rules) | played | {"clip_rewards": config.clips_rewards}


def score(
    config: DQNConfig,
    policy: Callable[[Tensor], Tensor],
    episodes: int,
    seed: int,
    stopped: Callable[[], bool] = lambda: False,
    recorder: Recorder | None = None,
) -> list[float]:
    """Returns of that many games, with progress; fewer if `stopped`. The first are filmed by a `recorder`."""
    env = build_env(config, min(episodes, NUM_ENVS), seed)
    scores: list[float] = []
    epsilon, device = evaluation_epsilon(config), device_of(config.device)
    with Progress(episodes, "evaluation games") as progress:
        for ended in play_episodes(policy, env, episodes, epsilon, seed, device, recorder):
            if stopped():
                break
            if ended is not None:
                scores.append(ended)
            progress.update(len(scores), lambda: {"mean score": f"{np.mean(scores):.1f}" if scores else "-"})
    env.close()
    return scores


def most_filmed(episodes: int) -> int:
    """The games of an evaluation that one environment plays, the first."""
    return -(-episodes // NUM_ENVS)


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


def verdict(config: DQNConfig, scores: list[float]) -> str:
    """The score in one line, with the rules that it was obtained under."""
    figures = summary(config.env, scores)
    normalized = figures["human_normalized"]
    human = "" if normalized is None else f", human-normalised {normalized:.3f}"
    return (
        f"{config.env}: mean {figures['mean']:.1f}, median {figures['median']:.1f} over {len(scores)} whole games"
        f" ({config.protocol}, epsilon {evaluation_epsilon(config):g}){human}"
    )
