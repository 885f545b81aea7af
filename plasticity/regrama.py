"""ReGraMa (Liu et al. 2025): units that hardly get a gradient are re-initialised."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nap.graph import HiddenLayer, UnitView
from plasticity.layers import draw_layer, hidden_layers
from plasticity.method import (
    SEED,
    Features,
    Method,
    check_number,
    check_period,
    check_whole,
    is_due,
    make_generator,
    moments,
)


class ReGraMa(Method):
    """Re-initialise the units whose incoming weights hardly get a gradient.

    Every `period` updates the mean |gradient| of each unit's incoming weights, that of the update's loss with the
    penalties, is divided by its layer's mean. A unit at or below `tau` is dormant: its incoming weights and bias are
    drawn as the layer's first ones, a norm's scale and offset entries are 1 and 0, and Adam's moments of all of these
    are 0 (its step count stays). Outgoing weights stay, unlike in ReDo. A channel is a unit. In a layer without any
    gradient all units are dormant; one whose gradient is not finite is left alone. The target network is not changed.

    The authors' code treats the output layer too, and a norm's entries by their own gradients; here hidden units alone
    are re-initialised.
    period: updates, inf for never. tau: 0 re-initialises only units without any gradient.
    Source: arXiv 2505.24061 and its authors' code, whose period and tau are the defaults, for SAC.
    """

    def __init__(self, period: float = 1_000, tau: float = 0.0, seed: int = SEED):
        self.period = check_period("regrama: period", period)
        self.tau = check_number("regrama: tau", tau)
        self.seed = check_whole("regrama: seed", seed)

    @property
    def is_off(self) -> bool:
        return self.period == math.inf

    def attach(self, network: nn.Module, target: nn.Module | None, optimizer: Optimizer) -> None:
        self.layers = [] if self.is_off else hidden_layers(network, "regrama")
        self.optimizer = optimizer
        self.generator = make_generator(network, self.seed)

    @torch.no_grad()
    def after_update(self, update: int, features: Features | None = None) -> None:
        if is_due(update, self.period):
            for layer in self.layers:
                if (gradient := layer.incoming.weight.grad) is not None:
                    self._redraw(layer, dormant(layer.weight.by_unit(gradient), self.tau))

    def _redraw(self, layer: HiddenLayer, units: Tensor) -> None:
        fresh = draw_layer(layer.incoming, self.generator)
        for slot in (layer.weight, *([] if layer.bias is None else [layer.bias]), *(slot for slot, _ in layer.noise)):
            _replace(slot, units, slot.by_unit(fresh[slot.name]), self.optimizer)
        for name, slot in layer.affine.items():
            _replace(slot, units, torch.full_like(slot.values, float(name == "weight")), self.optimizer)

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"].cpu())


def dormant(gradients: Tensor, tau: float) -> Tensor:
    """Which units' mean |gradient| is at most tau times the mean over units: [units, ...] -> [units]."""
    size = gradients.flatten(1).abs().mean(1)
    mean = size.mean()
    return (size <= tau * mean) & mean.isfinite()


def _replace(slot: UnitView, units: Tensor, fresh: Tensor, optimizer: Optimizer) -> None:
    """Gives the units of a mask fresh values, and moments of 0."""
    mask = units.view(-1, *[1] * (fresh.ndim - 1))
    slot.values.copy_(torch.where(mask, fresh, slot.values))
    for moment in moments(optimizer, slot.parameter):
        slot.by_unit(moment).masked_fill_(mask, 0.0)
