"""Hare & Tortoise (Lee et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from plasticity.method import Features, Method, check_number, check_period, is_due


class HareTortoise(Method):
    """Reset fast weights to their slow average.

    The network that learns is the hare. After each update tortoise ← mu·tortoise + (1 − mu)·hare, and every `period`
    updates hare ← tortoise, both in place, over parameters and floating-point buffers; moments stay. Period infinity
    only averages.

    Difference to the authors' supervised code: there the reset aliases both networks (`fast.data = slow.data`), and
    both hare and tortoise are evaluated. Here they stay two networks, and `averaged` lends the tortoise's weights for
    an evaluation. Possible difference to the authors' agents, whose code is not public: an agent here acts, bootstraps
    and is evaluated as without the method, with the hare and the usual target network. The one public DQN with the
    method that we found (a third party's) uses its target network as the tortoise, averaged at each update; it also
    acts with the hare, and restarts the optimiser at a reset.

    The average has a horizon of 1/(1 − mu) updates. A reset within some horizons undoes a part of what another method
    wrote; a reset at the same update undoes all of it, so this method must be given before the other.
    Source: arXiv 2406.02596; mu = 0.999 and a reset every 10 epochs are its code's for CIFAR. We found no values for
    Atari-100k: the default period, 10 horizons, is this project's.
    """

    def __init__(self, mu: float = 0.999, period: float = 10_000):
        self.mu = check_number("hare-tortoise: mu", mu, high=1)
        self.period = check_period("hare-tortoise: period", period)
        self._hare: list[Tensor] = []
        self._tortoise: list[Tensor] = []

    @property
    def is_off(self) -> bool:
        return self.period == math.inf

    def attach(self, network: nn.Module, target: nn.Module | None, optimizer: Optimizer) -> None:
        """Start the average at the present weights."""
        buffers = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
        self._hare = [parameter.detach() for parameter in network.parameters()] + buffers
        self._tortoise = [value.clone() for value in self._hare]

    @torch.no_grad()
    def after_update(self, update: int, features: Features | None = None) -> None:
        torch._foreach_lerp_(self._tortoise, self._hare, 1 - self.mu)
        if is_due(update, self.period):
            torch._foreach_copy_(self._hare, self._tortoise)

    @contextmanager
    def averaged(self, refresh: Callable[[], object] | None = None) -> Iterator[None]:
        """A context in which the network has the tortoise's weights. At its end the old weights return bit for bit.

        Do not train inside. refresh: updates what computes in the network's place, such as an agent's bf16 copy; called
        after both changes of the weights.
        """
        refresh = refresh or (lambda: None)
        own = [value.clone() for value in self._hare]
        torch._foreach_copy_(self._hare, self._tortoise)
        try:
            refresh()
            yield
        finally:
            torch._foreach_copy_(self._hare, own)
            refresh()

    def state_dict(self) -> dict[str, Any]:
        return {"tortoise": self._tortoise}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for value, saved in zip(self._tortoise, state["tortoise"], strict=True):
            value.copy_(saved)
