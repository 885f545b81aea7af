"""Weight clipping (Elsayed et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nap.graph import hidden_units
from plasticity.method import EachMember, Features, Method, StackedNetworks, check_number
from plasticity.trainable import trainable_layers


class WeightClipping(Method):
    """Clip weights to their initial range.

    After each step every weight and bias of a linear layer or convolution is clamped to ±κ/√fan_in: κ times the range
    of torch's default initialisation (uniform Kaiming with a = √5), a bias with its weight's fan-in. κ = 0 is off.
    `output`: whether the output layers are clipped too. Moments, norms and the target network are left alone; a
    projection that follows may carry single weights past the range. Source: arXiv 2407.01704, with κ = 1 by default
    and 3 for PPO; there is no published value for DQN on Atari.
    """

    def __init__(self, kappa: float = 1.0, output: bool = True):
        self.kappa, self.output = check_number("weight-clipping: kappa", kappa), output
        self._values: list[Tensor] = []
        self._bounds: list[float] = []

    @property
    def is_off(self) -> bool:
        return not self.kappa

    def attach(self, network: nn.Module, target: nn.Module | None, optimizer: Optimizer) -> None:
        """Find each layer's range; ValueError if the output layers are to be spared and cannot be found."""
        if self.is_off:
            return
        spared = [] if self.output else list(hidden_units(network).outputs.values())
        for layer in trainable_layers(network):
            if layer not in spared:
                owned = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
                self._values += owned
                self._bounds += [self.kappa / math.sqrt(layer.weight[0].numel())] * len(owned)

    def stacked(self, members: Sequence[Method], networks: StackedNetworks) -> Method:
        return EachMember(members)

    @torch.no_grad()
    def after_update(self, update: int, features: Features | None = None) -> None:
        if self._values:
            torch._foreach_clamp_max_(self._values, self._bounds)
            torch._foreach_clamp_min_(self._values, [-bound for bound in self._bounds])
