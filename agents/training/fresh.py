"""The TD error of what was just played."""

from __future__ import annotations

from typing import Any

import torch

from agents.dqn import DQN
from replay import FrameReplay

FRESH = 64
"""Most newest transitions in the TD error of a row. Two rows never share a transition: the noise between rows would
look smaller than it is."""


def fresh_td_error(
    agent: DQN, replay: FrameReplay, count: int, returns: dict[str, Any], newest: int | None = None
) -> float | None:
    """Mean TD error of the newest transitions, which updates have sampled least; `returns` are `gather`'s options.

    At UTD 8 with 5,000 steps in the replay, each was sampled once or twice; with many more steps, hardly ever. None
    before the first update, or if there are too few transitions: among so many `newest` steps, or (None) among all.
    """
    legal, unfinished = replay.num_legal(returns["n_step"]), (returns["n_step"] - 1) * replay.num_envs
    legal = legal if newest is None else min(legal, newest - unfinished)
    if agent.updates == 0 or legal < count:
        return None
    end = (replay.head - returns["n_step"] + 1) * replay.num_envs
    batch = replay.gather(torch.arange(end - count, end, device=replay.device).unsqueeze(0), **returns)
    return float(agent.td_error(batch.squeeze(0)))
