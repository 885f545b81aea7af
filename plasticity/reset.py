"""Periodic resets (Nikishin et al. 2022): the last layers are re-initialised."""

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
    check_period,
    check_until,
    check_whole,
    is_due,
    make_generator,
    zero_moments,
)


class Reset(Method):
    """Re-initialises the chosen layers every `period` updates; their moments and step counts in the optimiser are 0.

    period: updates, inf for never. layers: "output" (the output layers), "all", or names of modules, with `*` as a
    wildcard. until: no reset after this update, so that the last one leaves time to learn. target: "keep" does not
    change the target network, as in the authors' code for Atari; "draw" re-initialises the same layers there, from
    another draw. Source: arXiv 2205.07802; on Atari-100k only the head, every 40,000 updates (20,000 agent steps at 2
    updates each), 4 times (until=160000).
    """

    def __init__(
        self,
        period: float = 40_000,
        layers: tuple[str, ...] = ("output",),
        until: float = math.inf,
        target: Literal["keep", "draw"] = "keep",
        seed: int = SEED,
    ):
        self.period = check_period("reset: period", period)
        self.until = check_until("reset", until)
        self.layers, self.target_mode = layers, target
        self.seed = check_whole("reset: seed", seed)

    @property
    def is_off(self) -> bool:
        return self.period == math.inf or self.until < self.period

    def attach(self, network: nn.Module, target: nn.Module | None, optimizer: Optimizer) -> None:
        self.network, self.optimizer = network, optimizer
        self.target = target if self.target_mode == "draw" else None
        self.generator = make_generator(network, self.seed)
        self.chosen = choose_drawn(network, self.layers, "reset")

    def after_update(self, update: int, features: Features | None = None) -> None:
        if is_due(update, self.period) and update <= self.until:
            self.reset()

    def last_reset(self, update: int) -> int:
        """The last update, up to this one, after which layers were re-initialised; 0 before the first."""
        return 0 if self.is_off else int(min(update, self.until) // self.period * self.period)

    @torch.no_grad()
    def reset(self) -> None:
        """Re-initialise the chosen layers now."""
        for network in filter(None, (self.network, self.target)):
            fresh = draw_network(network, self.chosen, self.generator)
            parameters = [network.get_parameter(name) for name in fresh]
            torch._foreach_copy_(list[Tensor](parameters), list(fresh.values()))
            zero_moments(self.optimizer, parameters, step=True)

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"].cpu())
