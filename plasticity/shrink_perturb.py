"""Shrink and perturb (Ash & Adams 2020): weights move towards freshly drawn ones."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from plasticity.layers import choose_drawn, draw_network
from plasticity.method import (
    SEED,
    Features,
    Method,
    check_number,
    check_period,
    check_until,
    check_whole,
    is_due,
    make_generator,
)


class ShrinkPerturb(Method):
    """θ ← (1 − strength)·θ + strength·θ_new every `period` updates, θ_new drawn as the network was at its start.

    Scales and offsets of norms are included; their fresh values are 1 and 0. The optimiser's state stays. target:
    "draw" moves the target network towards another draw, as in SR-SPR and BBF; "keep" does not change it.

    period: updates, inf for never. strength: 0 to 1, 0 for off. layers, until: as in `reset`; SR-SPR and BBF also
    re-initialise the head, which `reset:target=draw` of the same period does.
    Source: arXiv 1910.08475; the published Atari values are SR-SPR's (strength 0.2, every 40,000 updates) and BBF's
    (0.5, arXiv 2305.19452).
    """

    def __init__(
        self,
        period: float = 40_000,
        strength: float = 0.2,
        layers: tuple[str, ...] = ("all",),
        until: float = math.inf,
        target: Literal["keep", "draw"] = "draw",
        seed: int = SEED,
    ):
        self.period = check_period("shrink-perturb: period", period)
        self.strength = check_number("shrink-perturb: strength", strength, high=1.0)
        self.until = check_until("shrink-perturb", until)
        self.layers, self.target_mode = layers, target
        self.seed = check_whole("shrink-perturb: seed", seed)

    @property
    def is_off(self) -> bool:
        return not self.strength or self.period == math.inf or self.until < self.period

    def attach(self, network: nn.Module, target: nn.Module | None, optimizer: Optimizer) -> None:
        self.networks = [network] if target is None or self.target_mode == "keep" else [network, target]
        self.generator = make_generator(network, self.seed)
        self.chosen = choose_drawn(network, self.layers, "shrink-perturb")

    @torch.no_grad()
    def after_update(self, update: int, features: Features | None = None) -> None:
        if not self.strength or not is_due(update, self.period) or update > self.until:
            return
        for network in self.networks:
            fresh = draw_network(network, self.chosen, self.generator)
            parameters: list[Tensor] = [network.get_parameter(name) for name in fresh]
            torch._foreach_lerp_(parameters, list(fresh.values()), self.strength)

    def last_reset(self, update: int) -> int:
        """The last update, up to this one, after which layers were moved; 0 before the first."""
        return 0 if self.is_off else int(min(update, self.until) // self.period * self.period)

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"].cpu())
