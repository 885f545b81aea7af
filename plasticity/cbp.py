"""Continual backprop (Dohare et al. 2024): replaces a few units of low utility, again and again."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nap.graph import HiddenLayer
from plasticity.layers import hidden_layers, unit_moments
from plasticity.method import SEED, Features, Method, check_number, check_whole, make_generator
from plasticity.redo import mean_size


class ContinualBackprop(Method):
    """Replaces, after each update, a share `rate` of the units older than `maturity` updates: those of least utility.

    Utility is the running mean (with `decay`) of |h| · mean |outgoing weights|, corrected for its start at 0 (the
    authors' "contribution"). Fractions of a unit add up until they make one. A replaced unit has incoming weights
    drawn uniformly within ±√2·√(3/fan_in) (Kaiming for ReLU), bias 0, a norm's scale and offset entries 1 and 0,
    outgoing weights 0 and Adam's moments 0. Its mean contribution is added to the biases of the next layers, if they
    have any (NaP has none before its norms). Adam's step counts stay, since torch counts for whole parameters; the
    authors count for each weight. The target network is not changed: the paper has none. Units that another method
    re-initialises keep their age here, and may be replaced at once.

    rate: share per update, 0 for off. maturity: updates. Source: Nature 632:768, algorithm 1; rate 1e-4 and maturity
    10,000 are its values for PPO. No value for Atari is published.
    """

    def __init__(self, rate: float = 1e-4, maturity: int = 10_000, decay: float = 0.99, seed: int = SEED):
        self.rate = check_number("cbp: rate", rate, high=1.0)
        self.maturity = check_whole("cbp: maturity", maturity)
        self.decay = check_number("cbp: decay", decay, high=1.0)
        if decay == 1:
            raise ValueError("cbp: decay=1: utilities would stay 0; it has to be below 1")
        self.seed = check_whole("cbp: seed", seed)
        self.wants_features = not self.is_off

    @property
    def is_off(self) -> bool:
        return not self.rate

    def attach(self, network: nn.Module, target: nn.Module | None, optimizer: Optimizer) -> None:
        self.generator = make_generator(network, self.seed)
        layers = [] if self.is_off else hidden_layers(network, "cbp")
        self.records = [_Record(layer, self.generator.device) for layer in layers]
        self.optimizer = optimizer

    @torch.no_grad()
    def after_update(self, update: int, features: Features | None = None) -> None:
        if self.is_off:
            return
        assert features is not None, "continual backprop needs the features of the update"
        for record in self.records:
            record.observe(features[record.layer.name], self.decay)
            if count := record.due(self.rate, self.maturity):
                self._replace(record, record.least(count, self.maturity, self.decay))

    def _replace(self, record: _Record, units: Tensor) -> None:
        """Replace the units of some indices in place."""
        layer = record.layer
        self._move_mean_to_biases(record, units)
        rows = layer.weight.values
        bound = math.sqrt(2) * math.sqrt(3 / layer.fan_in)
        fresh = rows.new_empty(len(units), *rows.shape[1:]).uniform_(-bound, bound, generator=self.generator)
        rows.index_copy_(0, units, fresh)
        for slot in (*([] if layer.bias is None else [layer.bias]), *layer.columns, *layer.noise_columns):
            slot.values.index_fill_(0, units, 0.0)
        for slot, first in layer.noise:
            slot.values.index_fill_(0, units, first)
        for name, slot in layer.affine.items():
            slot.values.index_fill_(0, units, float(name == "weight"))
        for moment in unit_moments(layer, self.optimizer):
            moment.index_fill_(0, units, 0.0)
        record.forget(units)

    def _move_mean_to_biases(self, record: _Record, units: Tensor) -> None:
        mean = (record.mean / (1 - self.decay**record.age))[units]
        for slot in record.layer.columns:
            if slot.owner._parameters.get("bias") is not None:
                columns = slot.values[units]  # [units, outputs, ...]
                slot.owner.get_parameter("bias").add_(torch.einsum("uo...,u->o", columns, mean))

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state(), "records": [record.state_dict() for record in self.records]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"].cpu())
        for record, saved in zip(self.records, state["records"], strict=True):
            record.load_state_dict(saved)


class _Record:
    """Utility, mean and age of the units of a layer.

    The number of mature units does not depend on which units were replaced, so the host counts it without waiting for
    the device.
    """

    def __init__(self, layer: HiddenLayer, device: torch.device):
        self.layer = layer
        self.utility, self.mean, self.age = (torch.zeros(layer.units, device=device) for _ in range(3))
        self.updates = 0
        self.mature = 0
        self.growing: deque[tuple[int, int]] = deque([(0, layer.units)])
        """(update of birth, how many) of the units that are not mature."""
        self.saved = 0.0

    def observe(self, h: Tensor, decay: float) -> None:
        """Update utility, mean and age with the features of one update."""
        size = mean_size(h)
        columns = [slot.values.abs().flatten(1) for slot in self.layer.columns]
        out = torch.cat(columns, 1).float().mean(1)
        mean = h.float().mean([axis for axis in range(h.ndim) if axis != 1])
        for average, new in ((self.utility, size * out), (self.mean, mean)):
            average.lerp_(torch.where(new.isfinite(), new, average), 1 - decay)  # an overflow would stay for good
        self.age += 1
        self.updates += 1

    def due(self, rate: float, maturity: int) -> int:
        """How many units to replace after this update."""
        while self.growing and self.updates - self.growing[0][0] > maturity:
            self.mature += self.growing.popleft()[1]
        self.saved += rate * self.mature
        count = min(int(self.saved), self.mature)
        self.saved -= count
        if count:
            self.mature -= count
            self.growing.append((self.updates, count))
        return count

    def least(self, count: int, maturity: int, decay: float) -> Tensor:
        """The indices of the mature units of least utility."""
        utility = self.utility / (1 - decay**self.age)
        return torch.where(self.age > maturity, utility, math.inf).topk(count, largest=False).indices

    def forget(self, units: Tensor) -> None:
        for values in (self.utility, self.mean, self.age):
            values.index_fill_(0, units, 0.0)

    def state_dict(self) -> dict[str, Any]:
        tensors = {"utility": self.utility, "mean": self.mean, "age": self.age}
        counts = {"updates": self.updates, "mature": self.mature, "growing": list(self.growing), "saved": self.saved}
        return tensors | counts

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in ("utility", "mean", "age"):
            getattr(self, name).copy_(state[name])
        self.updates, self.mature, self.saved = state["updates"], state["mature"], state["saved"]
        self.growing = deque((born, count) for born, count in state["growing"])
