"""A network computed in another precision than it is learned in."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn


class Replica:
    """A copy of a network in `dtype` that does its passes, while the fp32 original is what the optimiser steps.

    In fp32 the replica is the network itself and every call is free. Otherwise gradients are cast once per update into
    the originals (`collect_gradients`) and the new weights once back (`refresh`): no autocast, no cast per layer.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype):
        self.is_original = dtype == torch.float32
        self.module = network if self.is_original else deepcopy(network).to(dtype)
        self.originals: list[Tensor] = list(network.parameters())
        self.copies: list[Tensor] = list(self.module.parameters())
        if not self.is_original:
            for original in self.originals:
                original.grad = torch.zeros_like(original)

    def collect_gradients(self) -> None:
        """Move the copy's gradients to the originals."""
        if not self.is_original:
            gradients = [copy.grad if copy.grad is not None else torch.zeros_like(copy) for copy in self.copies]
            torch._foreach_copy_([original.grad for original in self.originals], gradients)  # type: ignore[misc]

    @torch.no_grad()
    def refresh(self) -> None:
        """Bring the copy up to date with the originals."""
        if not self.is_original:
            torch._foreach_copy_(self.copies, self.originals)
