"""A network computed in another precision than it is learned in."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn


class Replica:
    """A copy of a network in `dtype` that does its passes, while the fp32 original is what the optimiser steps.

    In fp32 the replica is the network itself and every call is free. Otherwise gradients are cast once per update into
    the originals (`collect_gradients`) and the new weights once back (`refresh`): no autocast, no cast per layer.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype):
        self.masters = [p for p in network.parameters() if p.requires_grad]
        self.module = network if dtype == torch.float32 else deepcopy(network).to(dtype)
        self.copies = [p for p in self.module.parameters() if p.requires_grad]
        self.is_original = self.module is network
        if not self.is_original:
            for master in self.masters:
                master.grad = torch.zeros_like(master)

    def collect_gradients(self) -> None:
        """Move the copy's gradients to the originals."""
        if not self.is_original:
            torch._foreach_copy_([p.grad for p in self.masters], [p.grad for p in self.copies])

    def refresh(self) -> None:
        """Bring the copy up to date with the originals."""
        if not self.is_original:
            with torch.no_grad():
                torch._foreach_copy_(self.copies, self.masters)
