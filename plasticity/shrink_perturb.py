"""Shrink and perturb (Ash & Adams 2020): weights move towards freshly drawn ones."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from plasticity.method import SEED, check_number
from plasticity.periodic import PeriodicDraw
from plasticity.timing import At


class ShrinkPerturb(PeriodicDraw):
    """θ ← (1 − strength)·θ + strength·θ_new every `period` updates, θ_new drawn as the network was at its start.

    Scales and offsets of norms are included; their fresh values are 1 and 0. The optimiser's state stays. target:
    "draw" moves the target network towards another draw, as in SR-SPR and BBF; "keep" does not change it.

    period: updates, inf for never. strength: 0 to 1, 0 for off. layers, until, at: as in `reset`; SR-SPR and BBF also
    re-initialise the head, which `reset:target=draw` of the same period does.
    Source: arXiv 1910.08475; the published Atari values are SR-SPR's (strength 0.2, every 40,000 updates) and BBF's
    (0.5, arXiv 2305.19452).
    """

    name = "shrink-perturb"

    def __init__(
        self,
        period: float = 40_000,
        strength: float = 0.2,
        layers: tuple[str, ...] = ("all",),
        until: float = math.inf,
        target: Literal["keep", "draw"] = "draw",
        seed: int = SEED,
        at: At = None,
    ):
        super().__init__(period, layers, until, target, seed, at)
        self.strength = check_number("shrink-perturb: strength", strength, high=1.0)

    def change(self, parameters: list[nn.Parameter], fresh: list[Tensor]) -> None:
        torch._foreach_lerp_(list[Tensor](parameters), fresh, self.strength)
