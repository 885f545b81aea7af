"""A network that computes in another precision than it learns in."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from agents.networks.layers import Output


class LowPrecisionCopy:
    """A copy of a network in `dtype` that does the passes. The optimiser steps the fp32 original.

    In fp32 the copy is the network itself and every call is free. Otherwise all layers except the output layers
    (`Output`) are in `dtype`. Each update casts the gradients once into the originals (`collect_gradients`) and the new
    weights once back (`refresh`): no autocast, no cast per layer. If a penalty gave the originals gradients, the copy's
    gradients are added to them.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype):
        self.is_original = dtype == torch.float32
        self.module = network if self.is_original else _narrowed(network, dtype)
        self.originals: list[Tensor] = [*network.parameters(), *network.buffers()]
        self.copies: list[Tensor] = [*self.module.parameters(), *self.module.buffers()]
        self.parameters = list(dict.fromkeys([*self.module.parameters(), *network.parameters()]))
        self.learned: list[tuple[Tensor, Tensor]] = []
        self.gradients: list[Tensor] = []
        self.follow()

    def follow(self) -> None:
        """Copy the originals' values, and which of them learn."""
        if self.is_original:
            return
        self.refresh()
        for original, copy in zip(self.originals, self.copies, strict=True):
            copy.requires_grad_(original.requires_grad)
        pairs = zip(self.originals, self.copies, strict=True)
        self.learned = [pair for pair in pairs if pair[0].requires_grad]
        self.gradients = [torch.zeros_like(original) for original, _ in self.learned]

    def zero_grad(self) -> None:
        """Forget the gradients of the update before."""
        for parameter in self.parameters:
            parameter.grad = None

    def collect_gradients(self) -> None:
        """Cast the copy's gradients to the originals, and add them to what a penalty left there."""
        if self.is_original:
            return
        cast = [copy.grad if copy.grad is not None else torch.zeros_like(copy) for _, copy in self.learned]
        _copy(self.gradients, cast)
        pairs = [
            (total, o.grad) for total, (o, _) in zip(self.gradients, self.learned, strict=True) if o.grad is not None
        ]
        if pairs:
            torch._foreach_add_([total for total, _ in pairs], [of_penalty for _, of_penalty in pairs])
        for total, (original, _) in zip(self.gradients, self.learned, strict=True):
            original.grad = total

    @torch.no_grad()
    def refresh(self) -> None:
        """Bring the copy up to date with the originals."""
        if not self.is_original:
            _copy(self.copies, self.originals)


def _copy(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copies with one call for each pair of types: in lists of several types tensors are copied one by one."""
    groups: dict[tuple[torch.dtype, torch.dtype], tuple[list[Tensor], list[Tensor]]] = {}
    for target, source in zip(targets, sources, strict=True):
        group = groups.setdefault((target.dtype, source.dtype), ([], []))
        group[0].append(target)
        group[1].append(source)
    for group in groups.values():
        torch._foreach_copy_(*group)


def _narrowed(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    copy = deepcopy(network).to(dtype)
    for layer in copy.modules():
        if isinstance(layer, Output):
            layer.float()
    return copy
