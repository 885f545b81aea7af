"""What the methods share that draw fresh weights every so many updates."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from plasticity.layers import choose_drawn, draw_network
from plasticity.method import (
    EachMember,
    Features,
    Method,
    Whole,
    check_period,
    check_until,
    check_whole,
    is_due,
    make_generator,
)


class PeriodicDraw(Method):
    """A method that draws fresh values of the chosen layers every `period` updates, up to the update `until`.

    name: that of the method in messages. strength: 0 for off.
    """

    name: str
    strength: float = 1.0

    def __init__(self, period: float, layers: tuple[str, ...], until: float, target: str, seed: int):
        self.period = check_period(f"{self.name}: period", period)
        self.until = check_until(self.name, until)
        self.layers, self.target_mode = layers, target
        self.seed = check_whole(f"{self.name}: seed", seed)

    @property
    def is_off(self) -> bool:
        return not self.strength or self.period == math.inf or self.until < self.period

    def attach(self, network: nn.Module, target: nn.Module | None, optimizer: Optimizer) -> None:
        self.networks = [network] if target is None or self.target_mode == "keep" else [network, target]
        self.optimizer = optimizer
        self.generator = make_generator(network, self.seed)
        self.chosen = choose_drawn(network, self.layers, self.name)

    def stacked(self, members: Sequence[Method], whole: Whole) -> Method:
        return EachMember(members)

    @torch.no_grad()
    def after_update(self, update: int, features: Features | None = None) -> None:
        if self.strength and is_due(update, self.period) and update <= self.until:
            for network in self.networks:
                fresh = draw_network(network, self.chosen, self.generator)
                self.change([network.get_parameter(name) for name in fresh], list(fresh.values()))

    @abstractmethod
    def change(self, parameters: list[nn.Parameter], fresh: list[Tensor]) -> None:
        """Changes the parameters of a network in place, given fresh values of them."""

    def last_reset(self, update: int) -> int:
        """The last update, up to this one, after which layers were changed; 0 before the first."""
        return 0 if self.is_off else int(min(update, self.until) // self.period * self.period)

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"].cpu())
