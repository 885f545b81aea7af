"""The first score counter of a run that wraps."""

from __future__ import annotations

import warnings

from envs.vector_env import Step


def warn_of_wrap(agent_step: int, step: Step, clips_rewards: bool) -> None:
    """Warn that a score counter wrapped in a step, and say what the agent learned from."""
    points = float(step.reward[step.score_wrapped][0])
    learned = "-1, its rewards being clipped" if clips_rewards else f"{points:,.0f}"
    warnings.warn(
        f"agent step {agent_step:,}: the game's score counter went past its last number and began again, "
        f"a reward of {points:,.0f}. The score stays the raw sum; the agent learned from {learned}. "
        "score_wraps in the metrics counts how often",
        stacklevel=3,
    )
