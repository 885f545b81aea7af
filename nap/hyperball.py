"""Steps of a fixed length: Hyperball (arXiv 2606.16899), on any optimiser."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nap.graph.weights import Weight

_scales: WeakKeyDictionary[Optimizer, dict[int, float]] = WeakKeyDictionary()
Measure = Callable[[list[Weight]], tuple[list[list[Tensor]], list[Tensor]]]
TINY, HUGE = 1e-30, 1e30
TOLERANCE = 5e-7
"""Relative error of a norm that is left alone: what rescaling in float32 leaves."""


class FixedUpdate:
    """Gives the steps of an optimiser a fixed length: W <- W_before - scale lr R n(W_before - W_after).

    n divides by the norm and R is the norm that the weight has to keep, so that the step turns W by about scale lr
    radians, whatever the gradients are. Only the direction of the optimiser's own step counts: its lr, and what clips
    or warms it up, cancel. Weight decay inside the step is part of that direction: it points along W, so that it
    turns W by nothing and takes its share of the length.

    weights: those that the optimiser does not own are left out. measure: tensors and norms of weights as they are
    stored. norms: R of every one of `weights`. The copy of the weights from before a step is kept between steps. A step
    of length 0, as a skipped one, changes nothing. No call waits for the device.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        weights: list[Weight],
        measure: Measure,
        norms: Callable[[], list[Tensor]],
        scale: float = 1.0,
    ) -> None:
        groups = {id(p): index for index, group in enumerate(optimizer.param_groups) for p in group["params"]}
        owned = [index for index, weight in enumerate(weights) if id(weight.parameter) in groups]
        if not owned:
            raise ValueError(f"nap.Projection: {type(optimizer).__name__} owns none of the projected matrices")
        self.scale = scale
        self.weights = [weights[index] for index in owned]
        self._indices, self._groups = owned, [groups[id(weight.parameter)] for weight in self.weights]
        self._measure, self._norms = measure, norms
        self._before: list[Tensor] = []
        optimizer.register_step_pre_hook(lambda *_: self.remember())
        optimizer.register_step_post_hook(lambda optimizer, *_: self.apply(optimizer))
        _scales.setdefault(optimizer, {}).update({id(weight.parameter): scale for weight in self.weights})

    @torch.no_grad()
    def remember(self) -> None:
        """Copies the weights; runs before the optimiser's step."""
        now = _flat(self._measure(self.weights)[0])
        if len(self._before) != len(now) or any(map(_differ, self._before, now)):
            self._before = [value.clone() for value in now]
        else:
            torch._foreach_copy_(self._before, now)

    @torch.no_grad()
    def apply(self, optimizer: Optimizer) -> None:
        """Gives the step since `remember` its length; runs after the optimiser's step."""
        groups = self._measure(self.weights)[0]
        moved = _flat(groups)
        torch._foreach_sub_(moved, self._before)
        scales = self._factors(optimizer, self._measure(self.weights)[1])
        torch._foreach_mul_(moved, [scale for scale, group in zip(scales, groups, strict=True) for _ in group])
        torch._foreach_add_(moved, self._before)

    def _factors(self, optimizer: Optimizer, lengths: list[Tensor]) -> list[Tensor]:
        norms = self._norms()
        kept = [norms[i].to(length.device, length.dtype) for i, length in zip(self._indices, lengths, strict=True)]
        torch._foreach_clamp_min_(lengths, TINY)
        scales = torch._foreach_div(kept, lengths)
        torch._foreach_clamp_max_(scales, HUGE)  # a length of 0 times infinity would be NaN
        for index in set(self._groups):
            own = [scale for scale, group in zip(scales, self._groups, strict=True) if group == index]
            torch._foreach_mul_(own, _rate(optimizer.param_groups[index]["lr"], own[0].device))
            torch._foreach_mul_(own, self.scale)
        pairs = zip(scales, kept, strict=True)  # a neuron that has no norm to keep takes the optimiser's step
        return [scale if norm.ndim == 0 else torch.where(norm > 0, scale, 1) for scale, norm in pairs]


def fixed_scales(optimizer: Optimizer) -> dict[int, float]:
    """The multiple of lr that a step turns a weight by, where a FixedUpdate says so, by the id of its parameter."""
    return _scales.get(optimizer, {})


def settled(norms: list[Tensor], targets: list[Tensor]) -> list[Tensor]:
    """The norms, but the target itself where it is reached within rounding: rescaling then changes no bit."""
    pairs = zip(norms, targets, strict=True)
    return [torch.where((norm - target).abs() <= TOLERANCE * target, target, norm) for norm, target in pairs]


def embeddings(weights: Iterable[Weight]) -> set[str]:
    """The names of the embeddings, whose steps stay the optimiser's own, as in the paper."""
    return {weight.name for weight in weights if isinstance(weight.owner, nn.Embedding)}


def _rate(lr: float | Tensor, device: torch.device) -> float | Tensor:
    """A rate that multiplies tensors of `device`; one of the CPU is read, which waits for nothing."""
    return float(lr) if isinstance(lr, Tensor) and lr.device != device else lr


def _flat(groups: list[list[Tensor]]) -> list[Tensor]:
    return [value for group in groups for value in group]


def _differ(one: Tensor, other: Tensor) -> bool:
    return one.device != other.device or one.dtype != other.dtype or one.shape != other.shape
