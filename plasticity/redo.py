"""ReDo (Sokar et al. 2023): dormant units are recycled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from plasticity.method import (
    SEED,
    EachMember,
    Features,
    Method,
    StackedNetworks,
    check_number,
    check_period,
    check_whole,
    is_due,
)
from plasticity.recycling import Recycling


class ReDo(Recycling):
    """Recycles the units whose mean |activation| is at most `tau` times their layer's mean, every `period` updates.

    Their incoming weights are re-initialised, biases are 0, a norm's scale and offset entries are 1 and 0, outgoing
    weights are 0, and Adam's moments of all of these are 0 (its step count stays). A channel is a unit, averaged over
    space. The mean is over the last minibatches before the recycling, as many as make `samples` inputs. The draw is the
    layers' own (`init="layer"`: uniform within ±1/√fan_in for torch's) or the paper's ("xavier":
    ±√(6/(fan_in + fan_out))). The target network is not changed, as in the authors' code. A recycled unit changes the
    mean and variance of a norm before the nonlinearity, so with NaP the output changes even if the unit was dead.

    period: updates, inf for never. tau: 0.1 for DQN, 0.025 for DrQ(ε) in the paper; 0 recycles dead units alone.
    Source: arXiv 2302.12902, algorithm 1; 1,000 updates and 256 samples as in Dopamine's code.
    """

    name = "redo"

    def __init__(
        self,
        period: float = 1_000,
        tau: float = 0.1,
        samples: int = 256,
        init: Literal["layer", "xavier"] = "layer",
        seed: int = SEED,
    ):
        self.period = check_period("redo: period", period)
        self.tau = check_number("redo: tau", tau)
        self.samples = check_whole("redo: samples", samples, low=1)
        super().__init__(init, seed)
        self.wants_features = not self.is_off

    @property
    def is_off(self) -> bool:
        return self.period == math.inf

    def attach(self, network: nn.Module, target: nn.Module | None, optimizer: Optimizer) -> None:
        super().attach(network, target, optimizer)
        self.sizes = [torch.zeros(layer.units, device=self.generator.device) for layer in self.layers]

    def stacked(self, members: Sequence[Method], networks: StackedNetworks) -> Method:
        return EachMember(members)

    def after_update(self, update: int, features: Features | None = None) -> None:
        if self.is_off:
            return
        assert features is not None, "ReDo needs the features of the update"
        caught = [features[layer.name] for layer in self.layers]
        if (update - 1) % self.period >= self.period - math.ceil(self.samples / len(caught[0])):
            torch._foreach_add_(self.sizes, [mean_size(h) for h in caught])
        if is_due(update, self.period):
            self.recycle([size <= self.tau * size.mean() for size in self.sizes])
            torch._foreach_zero_(self.sizes)

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state(), "sizes": self.sizes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"].cpu())
        for size, saved in zip(self.sizes, state["sizes"], strict=True):
            size.copy_(saved)


def mean_size(features: Tensor) -> Tensor:
    """The mean |activation| of each unit, over inputs and positions: [B, units, ...] -> [units] in fp32."""
    others = tuple(axis for axis in range(features.ndim) if axis != 1)
    return features.float().abs().mean(others)
