"""Hyperball (arXiv 2606.16899) as a method behind the interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn
from torch.optim import Optimizer

import nap
from plasticity.method import EachMember, Method, StackedNetworks, check_number, check_whole
from plasticity.nap import NaP


class Hyperball(NaP):
    """NaP whose steps turn each weight matrix by a fixed angle.

    Norms and kept norms are as in NaP. Each step of the optimiser also gets the length `scale` * lr * ||W_0||: every
    update turns a matrix by `scale` * lr radians. Under NaP that angle follows the gradients; Adam turns a matrix whose
    entries have a root mean square of r by about lr / r, which is why `scale` is not 1. This holds for the matrices
    that NaP projects, embeddings excepted. Other parameters, the output layer among them, take the optimiser's own
    steps. Weight decay inside the optimiser's step takes a part of the angle. Source: arXiv 2606.16899, whose form has
    no norms of its own, 1 for `scale`, and the output layer among the matrices.
    """

    def __init__(
        self,
        norm: Literal["layer", "rms"] = "layer",
        axes: Literal["channels", "channels_and_space"] = "channels",
        every: int = 1,
        affine: Literal["free", "decay", "joint"] = "joint",
        scale: float = 5.0,
    ):
        super().__init__(norm, axes, check_whole("hyperball: every", every, low=1), affine)
        self.scale = check_number("hyperball: scale", scale, low=1e-6, high=1e6)

    def attach(self, network: nn.Module, target: nn.Module | None, optimizer: Optimizer) -> None:
        self.projection = nap.Projection(
            network, every=self.every, affine=self.affine, update="fixed", update_scale=self.scale
        )
        self.projection.fix_updates(optimizer)

    def stacked(self, members: Sequence[Method], networks: StackedNetworks) -> Method:
        return EachMember(members)  # what gives the steps their length are hooks of each optimiser
