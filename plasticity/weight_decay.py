"""Weight decay, as an L2 penalty or decoupled from the gradient (Loshchilov & Hutter 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from plasticity.method import EachMember, Features, Method, StackedNetworks, check_number
from plasticity.trainable import trainable_parameters


class WeightDecay(Method):
    """L2 penalty or decoupled decay (AdamW).

    kind "decoupled": θ ← (1 − lr·strength)·θ after each step, lr that of the parameter's group; torch's AdamW does it
    before the step, which differs by lr²·strength times the step. kind "l2": strength/2 · Σ‖θ‖² is added to the loss,
    so the optimiser sees strength·θ in the gradient. Every trainable parameter decays, as in torch's optimisers, in
    addition to the optimiser's own decay. The target network is not changed. With a projection the decoupled kind has
    no effect on the projected matrices and on norms with affine=joint; the output layers and biases still decay.
    Source: arXiv 1711.05101. Strength 0.01 is that of the Atari runs in arXiv 2507.20057, which does not state the
    kind; BBF (arXiv 2305.19452) has 0.1, decoupled.
    Raises ValueError for an unknown kind.
    """

    def __init__(self, strength: float = 1e-2, kind: Literal["decoupled", "l2"] = "decoupled"):
        if kind not in ("decoupled", "l2"):
            raise ValueError(f"weight-decay: kind={kind!r} is unknown; it is 'decoupled' or 'l2'")
        self.strength, self.kind = check_number("weight-decay: strength", strength), kind
        self._parameters: list[nn.Parameter] = []
        self._optimizer: Optimizer | None = None

    @property
    def is_off(self) -> bool:
        return not self.strength

    def attach(self, network: nn.Module, target: nn.Module | None, optimizer: Optimizer) -> None:
        if self.strength:
            self._parameters, self._optimizer = trainable_parameters(network), optimizer

    def penalty(self) -> Tensor | None:
        if self.kind == "decoupled" or not self._parameters:
            return None
        squares = [parameter.square().sum() for parameter in self._parameters]
        return 0.5 * self.strength * torch.stack(squares).sum()

    def stacked(self, members: Sequence[Method], networks: StackedNetworks) -> Method:
        if self.kind == "decoupled":
            return EachMember(members)
        both = copy(self)
        both._parameters = [networks.whole(parameter) for parameter in self._parameters]  # type: ignore[misc]
        return both

    @torch.no_grad()
    def after_update(self, update: int, features: Features | None = None) -> None:
        if self.kind == "l2" or self._optimizer is None:
            return
        own = set(self._parameters)
        for group in self._optimizer.param_groups:
            if decaying := [parameter for parameter in group["params"] if parameter in own]:
                torch._foreach_mul_(decaying, 1 - group["lr"] * self.strength)
