"""Steps of a fixed length: Hyperball (arXiv 2606.16899), on any optimiser."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from nap.graph.weights import Weight
from nap.rescale import TINY

Measure = Callable[[list[Weight]], tuple[list[list[Tensor]], list[Tensor]]]
HUGE = 1e30
TOLERANCE = 5e-7
"""Relative error of a norm that is left alone: what rescaling in float32 leaves."""


class FixedUpdate:
    """Gives an optimiser's steps a fixed length: W <- W_before - scale lr R n(W_before - W_after).

    n divides by the norm and R is the norm that the weight keeps. The step then turns W by about scale lr radians,
    whatever the gradients are: of the optimiser's own step only the direction counts. Weight decay inside the step is
    part of that direction. It points along W, so that it turns nothing and takes its share of the length.

    weights: of these, those with a norm to keep. measure: tensors and norms of weights as they are stored. kept: the
    indices of the weights with a norm to keep, in a list that changes only as a whole, and R of all weights. The values
    from before a step stay between steps, as one more copy. A step of length 0, as a skipped one, changes no bit. No
    call waits for the device.
    """

    def __init__(
        self, weights: list[Weight], measure: Measure, kept: Callable[[], tuple[list[int], list[Tensor]]], scale: float
    ) -> None:
        self._all, self._measure, self._kept, self.scale = weights, measure, kept, scale
        self._moving: list[int] | None = None
        self._before: list[Tensor] = []

    def attach(self, optimizer: Optimizer) -> list[RemovableHandle]:
        """Acts on every step of an optimiser from now on, on the weights that it holds; the handles end that."""
        self._groups = {id(p): index for index, group in enumerate(optimizer.param_groups) for p in group["params"]}
        self._choose()
        if not self.weights:
            return []
        if not isinstance(optimizer, Optimizer):
            kind = type(optimizer).__name__
            raise ValueError(f"nap.Projection: update='fixed' goes with torch's optimisers, and {kind} is none of them")
        return [optimizer.register_step_pre_hook(self.before), optimizer.register_step_post_hook(self.after)]

    def _choose(self) -> None:
        """Finds the weights to act on; again where a loaded state has changed which norms are kept."""
        moving, _ = self._kept()
        if moving is not self._moving:
            self._moving = moving
            self._indices = [index for index in moving if id(self._all[index].parameter) in self._groups]
            self.weights = [self._all[index] for index in self._indices]
            self._places = [self._groups[id(weight.parameter)] for weight in self.weights]

    @torch.no_grad()
    def before(self, *_: Any) -> None:
        """Copies the weights; runs before the optimiser's step."""
        self._choose()
        now = self._values()
        if len(self._before) != len(now) or any(map(_differ, self._before, now)):
            self._before = [value.clone() for value in now]
        elif now:
            torch._foreach_copy_(self._before, now)

    @torch.no_grad()
    def after(self, optimizer: Optimizer, *_: Any) -> None:
        """Gives the step its length; runs after it."""
        if not self.weights:
            return
        values = self._values()
        torch._foreach_sub_(values, self._before)
        groups, lengths = self._measure(self.weights)
        factors = zip(self._factors(optimizer, lengths), groups, strict=True)
        moved = [(value, factor) for factor, group in factors for value in group]
        torch._foreach_mul_([value for value, _ in moved], [factor for _, factor in moved])
        torch._foreach_add_(values, self._before)

    def _values(self) -> list[Tensor]:
        return [value for weight in self.weights for value in weight.values()]

    def _factors(self, optimizer: Optimizer, lengths: list[Tensor]) -> list[Tensor]:
        norms = [self._kept()[1][index] for index in self._indices]
        kept = [norm.to(length.device, length.dtype) for norm, length in zip(norms, lengths, strict=True)]
        torch._foreach_clamp_min_(lengths, TINY)
        factors = torch._foreach_div(kept, lengths)
        torch._foreach_clamp_max_(factors, HUGE)  # a length of 0 times infinity would be NaN
        for place in set(self._places):
            own = [factor for factor, other in zip(factors, self._places, strict=True) if other == place]
            torch._foreach_mul_(own, _rate(optimizer.param_groups[place]["lr"], own[0].device))
            torch._foreach_mul_(own, self.scale)
        pairs = zip(factors, kept, strict=True)  # a neuron that has no norm to keep takes the optimiser's step
        return [factor if norm.ndim == 0 else torch.where(norm > 0, factor, 1) for factor, norm in pairs]


def fixed_scales(optimizer: Any) -> dict[int, float]:
    """The multiple of lr that a step turns a weight by, where a FixedUpdate says so, by the id of its parameter."""
    hooks = getattr(optimizer, "_optimizer_step_post_hooks", {}).values()
    found = [owner for hook in hooks if isinstance(owner := getattr(hook, "__self__", None), FixedUpdate)]
    return {id(weight.parameter): fixed.scale for fixed in found for weight in fixed.weights}


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


def _differ(one: Tensor, other: Tensor) -> bool:
    return one.device != other.device or one.dtype != other.dtype or one.shape != other.shape
