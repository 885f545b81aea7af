"""What the fits of random targets by a trained network and by fresh ones come to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from experiment.samples import Interval, t_interval


class FitCurves(Protocol):
    """Errors over the updates of the fits, as `nap.metrics.FitCurves` has them."""

    @property
    def updates(self) -> Tensor: ...
    @property
    def aged(self) -> Tensor: ...
    @property
    def fresh(self) -> Tensor: ...
    @property
    def ratios(self) -> Tensor: ...
    @property
    def slowdowns(self) -> Tensor: ...


@dataclass(frozen=True)
class FitSummary:
    """What curves say: geometric means over the draws, and 95% Student-t intervals of the logs."""

    aged: float
    fresh: float
    ratio: Interval
    slowdown: Interval

    @classmethod
    def of(cls, curves: FitCurves) -> FitSummary:
        aged, fresh = (_geometric(errors[:, -1]).value for errors in (curves.aged, curves.fresh))
        return cls(aged, fresh, _geometric(curves.ratios), _geometric(curves.slowdowns))

    def metrics(self) -> dict[str, float]:
        """The metrics of a row."""
        found = {"fit_error": self.aged, "fit_error_fresh": self.fresh}
        for name, interval in (("fit_ratio", self.ratio), ("fit_slowdown", self.slowdown)):
            found |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
        return {name: value for name, value in found.items() if not math.isnan(value)}


def _geometric(values: Tensor) -> Interval:
    """The geometric mean of positive values, with its interval; NaN if one is not finite."""
    logs = values.double().clamp(min=torch.finfo(torch.float32).tiny).log()
    if not bool(logs.isfinite().all()):
        return Interval(math.nan, math.nan, math.nan)
    return Interval(*(math.exp(bound) for bound in t_interval(logs.numpy())))
