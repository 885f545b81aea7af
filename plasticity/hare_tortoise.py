"""Hare & Tortoise (Lee et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterator
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

    Who acts: in supervised learning the paper evaluates the tortoise, which `averaged` lends. An agent on this seam
    acts with the hare, and its target network keeps its own rule; how the paper's agents join tortoise and target is
    not known here.
    Source: arXiv 2406.02596; mu = 0.999 and a reset every 10 epochs are its code's for CIFAR. Values for Atari-100k
    were not found: the default period is of this project, 10 horizons 1/(1 − mu) of the average.
    """

    def __init__(self, mu: float = 0.999, period: float = 10_000):
        self.mu = check_number("hare-tortoise: mu", mu, high=1)
        self.period = check_period("hare-tortoise: period", period)
        self._hare: list[Tensor] = []
        self._tortoise: list[Tensor] = []

    def attach(self, network: nn.Module, target: nn.Module | None, optimizer: Optimizer) -> None:
        """Start both at the same place."""
        buffers = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
        self._hare = [parameter.detach() for parameter in network.parameters()] + buffers
        self._tortoise = [value.clone() for value in self._hare]

    @torch.no_grad()
    def after_update(self, update: int, features: Features | None = None) -> None:
        torch._foreach_lerp_(self._tortoise, self._hare, 1 - self.mu)
        if is_due(update, self.period):
            torch._foreach_copy_(self._hare, self._tortoise)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The network computes with the tortoise's weights inside, and has its own back, to the bit, outside.

        Train nothing inside. A copy of the network in another precision does not follow.
        """
        own = [value.clone() for value in self._hare]
        torch._foreach_copy_(self._hare, self._tortoise)
        try:
            yield
        finally:
            torch._foreach_copy_(self._hare, own)

    def state_dict(self) -> dict[str, Any]:
        return {"tortoise": self._tortoise}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for value, saved in zip(self._tortoise, state["tortoise"], strict=True):
            value.copy_(saved)
