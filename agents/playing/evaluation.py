"""Scoring an agent: games under the protocol's rules, raw returns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from agents.build import build_env
from agents.config import DQNConfig
from agents.dqn import DQN
from agents.playing.games import Games, different, effective_number
from agents.tasks import Visit
from agents.training.acting import EpsilonGreedy, FrameStack
from envs.games import human_normalized, reference_scores
from envs.protocol import Protocol
from envs.vector_env import VectorEnv
from experiment.determinism import device_of, seeds
from experiment.progress import Progress, Rate, clock_time
from experiment.values import ConfigError, counted

if TYPE_CHECKING:
    from agents.playing.video import Recorder

NUM_ENVS = 10
LONGEST = 108_000
"""Agent steps of a game after which an environment that sets no limit is taken to end no episodes."""


def play_episodes(
    policy: Callable[[Tensor], Tensor],
    env: VectorEnv,
    games: Games,
    epsilon: float,
    seed: int,
    device: torch.device,
    recorder: Recorder | None = None,
) -> Iterator[None]:
    """Play `games`, which take in every step before it is yielded."""
    act = EpsilonGreedy(policy, env.num_actions, seed)
    stack = FrameStack(env.num_envs, env.stack, env.frame_shape, device)
    first = env.reset()
    if recorder is not None:
        recorder.begin(env, first)
    obs = stack.push(first, np.ones(env.num_envs, bool))
    while games.playing:
        actions = act(obs, epsilon)
        step = env.step(actions)
        if recorder is not None:
            recorder.follow(actions, step)
        games.follow(actions, step)
        yield
        obs = stack.push(step.first_frame, step.ended)


def evaluated_policy(config: DQNConfig, agent: DQN) -> Callable[[Tensor], Tensor]:
    """How the agent acts in an evaluation: without noise on its weights, unless its published rule keeps it."""
    return agent.act if config.eval_noise else agent.act_without_noise


def evaluation_epsilon(config: DQNConfig) -> float:
    """The share of random actions in an evaluation."""
    return config.rules.evaluation_epsilon if config.eval_epsilon is None else config.eval_epsilon


def evaluation_seed(config: DQNConfig, visit: Visit, game: str) -> int:
    """The seed of the run's own evaluation: of games in sequence, that at the end of the visit, on the game."""
    name = f"evaluation of visit {visit.number} on {game}" if config.is_sequence else "evaluation"
    return seeds(config.seed, name)[name]


def rules_of(config: DQNConfig, limit: int | None) -> Protocol:
    """The protocol; where it sets no limit, with the environment's own `limit` of a game, in agent steps."""
    rules = config.rules
    return rules if limit is None or rules.max_frames else replace(rules, max_frames=limit * rules.frame_skip)


def rules_played(config: DQNConfig, episodes: int, limit: int | None) -> dict[str, Any]:
    """`rules_of`, with the random actions, the number of games (0 for no evaluation) and the clipping of this run."""
    played = {"evaluation_epsilon": evaluation_epsilon(config), "evaluation_episodes": episodes}
    return asdict(rules_of(config, limit)) | played | {"clip_rewards": config.clips_rewards}


def score(
    config: DQNConfig,
    policy: Callable[[Tensor], Tensor],
    episodes: int,
    seed: int,
    stopped: Callable[[], bool] = lambda: False,
    recorder: Recorder | None = None,
    game: str | None = None,
    show: bool = True,
) -> Games:
    """That many games, fewer if `stopped`. The first are filmed by a `recorder`.

    game: one of a run that plays games in sequence. show: whether there is progress to see.
    Raises ConfigError if a game goes on past the limit of its environment or rules, and past `LONGEST`.
    """
    epsilon, device = evaluation_epsilon(config), device_of(config.device)
    rate = Rate()  # from the end of the first step on, before which the emulators start
    with closing(build_env(config, min(episodes, NUM_ENVS), seed, game)) as env:
        games = Games(env.num_envs, episodes, env.time_limit)
        longest = max(LONGEST, env.time_limit or 0, config.rules.time_limit or 0)
        pace = lambda: time_left(games, rate.value())  # noqa: E731
        with Progress(episodes, "evaluation games", pace=pace) if show else nullcontext() as progress:
            for _ in play_episodes(policy, env, games, epsilon, seed, device, recorder):
                if stopped():
                    break
                if games.running.max() > longest:
                    fault = f"a game has not ended after {longest:,} agent steps"
                    advice = "its episodes have to end (longer ones need a time_limit)"
                    raise ConfigError(f"{game or config.env}: {fault}: {advice}")
                rate.add(time.monotonic(), games.time)
                if progress is not None:
                    progress.update(len(games.ended), lambda: live_metrics(games), begun=games.begun())
    return games


def time_left(games: Games, rate: float) -> str:
    """The time left at a rate of environment steps a second, as text: an estimate, and an upper bound."""
    most, likely = games.most_left(), games.likely_left()
    if not games.playing:
        return f"{clock_time(0)} left"
    if not rate or (most is None and likely is None):
        return "time left unknown"
    upper = "" if most is None else f"at most {clock_time(most / rate)}"
    if likely is None or likely == most:
        return f"{upper} left"
    return ", ".join(filter(None, [f"about {clock_time(likely / rate)} left", upper]))


def live_metrics(games: Games) -> dict[str, str]:
    """What the live view shows of an evaluation."""
    limit = "none" if games.limit is None else f"{games.limit:,}"
    scores = [game.score for game in games.ended]
    return {
        "steps played": f"{games.steps:,}",
        "longest running": f"{games.running.max():,}",
        "limit of a game": limit,
        "cut at the limit": f"{games.cut:,}",
        "mean score": f"{np.mean(scores):.1f}" if scores else "-",
    }


def most_filmed(episodes: int) -> int:
    """How many games of an evaluation the first environment plays."""
    return -(-episodes // NUM_ENVS)


def summary(game: str, games: Games) -> dict[str, Any]:
    """Mean, median, deviation, number of games, and each game; human-normalised where a reference is known."""
    scores = [each.score for each in games.ended]
    mean = float(np.mean(scores))
    return {
        "episodes": len(scores),
        "mean": mean,
        "median": float(np.median(scores)),
        "std": float(np.std(scores)),
        "human_normalized": human_normalized(game, mean) if game in reference_scores() else None,
        "limit_steps": games.limit,
        "cut_games": games.cut,
        "different_games": len(different(games.ended)),
        "effective_games": effective_number(games.ended),
        "score_wraps": sum(each.score_wraps for each in games.ended),
        "scores": scores,
        "steps": [each.steps for each in games.ended],
        "cut": [each.cut for each in games.ended],
    }


def format_score(config: DQNConfig, game: str, games: Games) -> str:
    """The score in one line, with its games and rules."""
    found = summary(game, games)
    normalized = found["human_normalized"]
    human = "" if normalized is None else f", human-normalised {normalized:.3f}"
    return (
        f"{game}: mean {found['mean']:.1f}, median {found['median']:.1f} over {describe_games(found)}"
        f" ({config.rules.name}, epsilon {evaluation_epsilon(config):g}){human}"
    )


def describe_games(found: Mapping[str, Any]) -> str:
    """The games of a summary as text: "100 games, 12 of 100 cut at the limit of 27,000 steps, 9 different games ...".

    They are whole only where none was cut.
    """
    count, cut, kinds = found["episodes"], found["cut_games"], found["different_games"]
    parts = [f"{count} {'' if cut else 'whole '}{_games(count)}"]
    if cut:
        limit = found["limit_steps"]
        parts.append(f"{cut} of {count} cut" + ("" if limit is None else f" at the limit of {limit:,} steps"))
    if kinds == count > 1:
        parts.append("all different")
    elif kinds < count:
        parts.append(f"{kinds} different {_games(kinds)} (effective number {found['effective_games']:.3g})")
    if wraps := found["score_wraps"]:
        parts.append(f"score counters wrapped {counted(wraps, 'time')}, so the scores are too low")
    return ", ".join(parts)


def _games(count: int) -> str:
    return "game" if count == 1 else "games"
