"""What the methods share that draw fresh weights at some updates."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from plasticity.layers import choose_drawn, draw_network
from plasticity.method import EachMember, Features, Method, StackedNetworks, check_whole, make_generator
from plasticity.timing import At, Timing


class PeriodicDraw(Method):
    """A method that draws fresh values of the chosen layers, at the updates of its `Timing`.

    name: that of the method in messages. strength: 0 for off.
    """

    name: str
    strength: float = 1.0

    def __init__(self, period: float, layers: tuple[str, ...], until: float, target: str, seed: int, at: At = None):
        self.timing = Timing(self.name, period, at, until)
        self.layers, self.target_mode = layers, target
        self.seed = check_whole(f"{self.name}: seed", seed)

    @property
    def is_off(self) -> bool:
        return not self.strength or self.timing.is_off

    def attach(self, network: nn.Module, target: nn.Module | None, optimizer: Optimizer) -> None:
        self.networks = [network] if target is None or self.target_mode == "keep" else [network, target]
        self.optimizer = optimizer
        self.generator = make_generator(network, self.seed)
        self.chosen = choose_drawn(network, self.layers, self.name)

    def stacked(self, members: Sequence[Method], networks: StackedNetworks) -> Method:
        return EachMember(members)

    def after_update(self, update: int, features: Features | None = None) -> None:
        if self.strength and self.timing.due(update):
            self.apply()

    def task_changed(self, update: int) -> None:
        if self.strength and self.timing.due_at_task(update):
            self.apply()

    @torch.no_grad()
    def apply(self) -> None:
        """Draw and change now, for example at a change of data."""
        for network in self.networks:
            fresh = draw_network(network, self.chosen, self.generator)
            self.change([network.get_parameter(name) for name in fresh], list(fresh.values()))

    @abstractmethod
    def change(self, parameters: list[nn.Parameter], fresh: list[Tensor]) -> None:
        """Changes the parameters of a network in place, given fresh values of them."""

    def last_reset(self, update: int) -> int:
        """The last update, up to this one, after which layers were changed; 0 before the first."""
        return self.timing.last(update) if self.strength else 0

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state(), **self.timing.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"].cpu())
        self.timing.load_state_dict(state)
