"""Periodic resets (Nikishin et al. 2022): the last layers are re-initialised."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from plasticity.method import SEED, zero_moments
from plasticity.periodic import PeriodicDraw
from plasticity.timing import At


class Reset(PeriodicDraw):
    """Re-initialises the chosen layers every `period` updates; their moments and step counts in the optimiser are 0.

    period: updates, inf for never. layers: "output" (the output layers), "all", or names of modules, with `*` as a
    wildcard. until: no reset after this update, so that the last one leaves time to learn. at: once instead, after this
    update, or "now": after the first one that is made with the method, as in a fork; "task": at each change of task.
    target: "keep" does not change the target network, as in the authors' code for Atari; "draw" re-initialises the same
    layers there, from another draw.
    Source: arXiv 2205.07802; on Atari-100k only the head, every 40,000 updates (20,000 agent steps at 2 updates each),
    4 times (until=160000).
    """

    name = "reset"

    def __init__(
        self,
        period: float = 40_000,
        layers: tuple[str, ...] = ("output",),
        until: float = math.inf,
        target: Literal["keep", "draw"] = "keep",
        seed: int = SEED,
        at: At = None,
    ):
        super().__init__(period, layers, until, target, seed, at)

    def change(self, parameters: list[nn.Parameter], fresh: list[Tensor]) -> None:
        torch._foreach_copy_(list[Tensor](parameters), fresh)
        zero_moments(self.optimizer, parameters, step=True)
