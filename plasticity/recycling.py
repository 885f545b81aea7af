"""What the methods share that re-initialise units in their place."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nap.graph import HiddenLayer, UnitView, parameter_spec
from plasticity.layers import hidden_layers, unit_moments
from plasticity.method import Method, check_whole, make_generator


class Recycling(Method):
    """A method that recycles units: fresh incoming weights, outgoing weights 0, moments 0.

    name: that of the method in messages. init: "layer" draws as the layer's constructor, "xavier" within
    ±√(6/(fan_in + fan_out)).
    """

    name: str

    def __init__(self, init: Literal["layer", "xavier"], seed: int):
        self.init, self.seed = init, check_whole(f"{self.name}: seed", seed)

    def attach(self, network: nn.Module, target: nn.Module | None, optimizer: Optimizer) -> None:
        self.layers = [] if self.is_off else hidden_layers(network, self.name)
        self.optimizer = optimizer
        self.generator = make_generator(network, self.seed)

    @torch.no_grad()
    def recycle(self, dormant: list[Tensor]) -> None:
        """Recycle the units of a mask per layer; where a weight joins two of them, the outgoing 0 wins."""
        for layer, units in zip(self.layers, dormant, strict=True):
            fresh = layer.weight.by_unit(self._draw(layer))
            layer.weight.values.copy_(torch.where(_along(units, fresh), fresh, layer.weight.values))
            if layer.bias is not None:
                _fill(layer.bias, units, 0.0)
            for name, slot in layer.affine.items():
                _fill(slot, units, float(name == "weight"))
            for slot, first in layer.noise:
                _fill(slot, units, first)
        for layer, units in zip(self.layers, dormant, strict=True):
            for slot in (*layer.columns, *layer.noise_columns):
                _fill(slot, units, 0.0)
            for moment in unit_moments(layer, self.optimizer):
                moment.masked_fill_(_along(units, moment), 0.0)

    def _draw(self, layer: HiddenLayer) -> Tensor:
        draw = parameter_spec(layer.incoming).draw
        if self.init == "layer" and draw is not None:
            return draw(layer.incoming, self.generator)["weight"]
        weight = layer.incoming.weight
        fans = layer.fan_in + weight[:, 0].numel()
        bound = 1 / math.sqrt(layer.fan_in) if self.init == "layer" else math.sqrt(6 / fans)
        return torch.empty_like(weight).uniform_(-bound, bound, generator=self.generator)


def _along(units: Tensor, values: Tensor) -> Tensor:
    """A mask of units in a shape that broadcasts along the first axis of values."""
    return units.view(-1, *[1] * (values.ndim - 1))


def _fill(slot: UnitView, units: Tensor, value: float) -> None:
    slot.values.masked_fill_(_along(units, slot.values), value)
