"""SNR, self-normalised resets (Farias & Jozefiak 2025)."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from plasticity.method import SEED, Features, check_number, check_period, check_same, check_whole, is_due
from plasticity.recycling import Recycling


class SNR(Recycling):
    """Recycle units that have been silent for longer than they used to be.

    A unit fires in an update if its activation is above `level` for any input of the minibatch, of a channel at any
    position. Its age counts the updates since it fired. A unit whose age reaches its own limit is recycled as by
    `redo`, and its age is 0 again. The limits change every `revise` updates: among a unit's ages above 0 at which it
    fired or was recycled since the last change, the limit is the smallest that a share `percentile` does not exceed. If
    that is below the old limit it is the new one, else the old one grows by `growth`. Limits stay within 1 to `longest`
    and begin at half of it. A unit without such an age, since it fired in every update or in none, gets the limit 1:
    one silent minibatch is then enough. A unit that is dead from the start is therefore recycled after `revise` + 1
    updates, whatever `longest` is. The output layers and the target network are not changed.

    period: updates between looks at the ages, inf for never; each draws all weights of the hidden layers. percentile: 1
    minus the paper's rejection threshold. init: as in `redo`.
    Source: arXiv 2410.20098 and its authors' code. That counts examples instead of updates, changes the limits at the
    end of a task, and has no default values. The values here are those of FIRE's code (arXiv 2602.08040) for ResNet-18:
    0.99, 16 updates, 2, and 20,000 examples, which are 625 updates of 32.
    """

    name = "snr"

    def __init__(
        self,
        period: float = 1,
        percentile: float = 0.99,
        revise: int = 16,
        growth: float = 2.0,
        longest: int = 625,
        level: float = 0.0,
        init: Literal["layer", "xavier"] = "layer",
        seed: int = SEED,
    ):
        self.period = check_period("snr: period", period)
        self.percentile = check_number("snr: percentile", percentile, high=1.0)
        self.revise = check_whole("snr: revise", revise, low=1)
        self.growth = check_number("snr: growth", growth, low=1.0)
        self.longest = check_whole("snr: longest", longest, low=1, high=100_000)
        self.level = check_number("snr: level", level)
        super().__init__(init, seed)
        self.wants_features = not self.is_off

    @property
    def is_off(self) -> bool:
        return self.period == math.inf

    def attach(self, network: nn.Module, target: nn.Module | None, optimizer: Optimizer) -> None:
        super().attach(network, target, optimizer)
        self.records = [_Record(layer.units, self.longest, self.generator.device) for layer in self.layers]

    @torch.no_grad()
    def after_update(self, update: int, features: Features | None = None) -> None:
        if self.is_off:
            return
        assert features is not None, "SNR needs the features of the update"
        for layer, record in zip(self.layers, self.records, strict=True):
            record.observe(features[layer.name], self.level)
        if is_due(update, self.period):
            self.recycle([record.retire() for record in self.records])
        if is_due(update, self.revise):
            for record in self.records:
                record.revise(self.percentile, self.growth)

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state(), "records": [vars(record) for record in self.records]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"].cpu())
        for record, saved in zip(self.records, state["records"], strict=True):
            check_same("snr: longest", self.longest, saved["ends"].shape[1] - 1)
            for name, value in vars(record).items():
                value.copy_(saved[name])


class _Record:
    """Age and limit of the units of a layer [units], and how often each age ended a silence [units, longest + 1]."""

    def __init__(self, units: int, longest: int, device: torch.device):
        self.age = torch.zeros(units, dtype=torch.int64, device=device)
        self.limit = torch.full_like(self.age, max(longest // 2, 1))
        self.ends = torch.zeros(units, longest + 1, dtype=torch.int32, device=device)

    def observe(self, h: Tensor, level: float) -> None:
        """Make the units that fire young, and the others older."""
        fired = (h > level).transpose(0, 1).flatten(1).any(1)
        self._end(fired)
        self.age += 1
        self.age.masked_fill_(fired, 0)

    def retire(self) -> Tensor:
        """Which units have reached their limit; they are young again."""
        old = self.age >= self.limit
        self._end(old)
        self.age.masked_fill_(old, 0)
        return old

    def _end(self, ended: Tensor) -> None:
        ages = self.age.clamp_max(self.ends.shape[1] - 1)[:, None]  # older between two tests
        self.ends.scatter_(1, ages, self.ends.gather(1, ages) + ended[:, None])

    def revise(self, percentile: float, growth: float) -> None:
        """Set each limit by the ages above 0 that ended a silence, and forget them."""
        self.ends[:, 0] = 0
        counts = self.ends.cumsum(1)
        shares = counts / counts[:, -1:]  # not a number without any, and then the age found is 0
        found = (shares >= percentile).int().argmax(1)
        longest = self.ends.shape[1] - 1
        grown = (self.limit * growth).clamp_max(longest).long()  # before it is whole: 64 bits may not hold it
        self.limit.copy_(torch.where(found < self.limit, found, grown).clamp(1, longest))
        self.ends.zero_()
