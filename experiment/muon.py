"""Muon for a network's inner matrices and Adam for all other parameters, as one optimiser."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the polynomial of Newton-Schulz iteration; they bring singular values near 1 in five steps, not exactly to it."""
STEPS = 5
MOMENTUM = 0.95
MULTIPLE = 10.0
"""Muon's rate as a multiple of Adam's."""


class Muon(torch.optim.Optimizer):
    """Muon on the groups with `muon=True`, AdamW (0.9, 0.95) on the others; the groups' decay is decoupled.

    Muon turns the momentum of a matrix into the nearest matrix with equal singular values, about, and steps along it.
    A convolution is the matrix [out, in · height · width]. torch's own `Muon` takes two-dimensional parameters alone
    and iterates in bfloat16, which many CPUs have no instructions for; this one stays in the parameter's dtype.
    Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float | Tensor) -> None:
        super().__init__(groups, {"lr": lr, "muon": False, "weight_decay": 0.0})
        self.adam = torch.optim.AdamW(self.param_groups, lr, betas=(0.9, 0.95), fused=True)
        self._share()

    def _share(self) -> None:
        """Adam works on this optimiser's own groups and state, so schedules and methods find everything here."""
        self.adam.param_groups = [group for group in self.param_groups if not group["muon"]]
        self.adam.state = self.state

    def __getstate__(self) -> dict[str, Any]:
        """For a copy: torch's own has the groups and the state alone."""
        return super().__getstate__() | {"adam": self.adam}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step on the present gradients. A `closure` is called first to compute them; returns what it returns."""
        loss = self.adam.step(closure)
        for group in self.param_groups:
            for parameter in group["params"] if group["muon"] else ():
                if parameter.grad is not None:
                    self._turn(parameter, parameter.grad, group)
        return loss

    def _turn(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        step = orthogonalized(gradient.lerp(momentum, MOMENTUM).flatten(1))  # Nesterov's look ahead
        rows, columns = step.shape
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.sub_(step.view(parameter.shape) * (group["lr"] * max(1.0, rows / columns) ** 0.5))


def orthogonalized(matrix: Tensor) -> Tensor:
    """A matrix [rows, columns] with its singular vectors, and singular values of about 1 (0.7 to 1.2)."""
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


def with_muon(groups: Iterable[dict[str, Any]], network: nn.Module, output: str = "head") -> list[dict[str, Any]]:
    """Adam's groups for `Muon`: it has the weights of linear and convolution layers, the `output` layer excepted.

    They are in groups of their own with `MULTIPLE` times the rate.
    """
    inner = {
        id(layer.weight)
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and name != output
    }
    split = []
    for group in groups:
        for muon in (True, False):
            if members := [p for p in group["params"] if (id(p) in inner) == muon]:
                lr = group["lr"] * MULTIPLE if muon else group["lr"]
                split.append(group | {"params": members, "lr": lr, "muon": muon})
    return split
