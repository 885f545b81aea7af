"""Hyperball (arXiv 2606.16899) as a method behind the interface."""

from __future__ import annotations

from typing import Literal

from torch import nn
from torch.optim import Optimizer

import nap
from plasticity.method import check_number
from plasticity.nap import NaP


class Hyperball(NaP):
    """NaP whose steps turn each weight matrix by a fixed angle.

    Norms and kept norms are as in NaP. Each step of the optimiser also gets the length `scale` * lr * ||W_0||, so that
    a matrix turns by `scale` * lr radians in each update, whatever the gradients are; under NaP that angle follows
    them. Only matrices that NaP projects are treated so, embeddings excepted; all other parameters, the output layer
    among them, take the optimiser's own steps at lr. Adam turns a matrix whose entries have a root mean square of r by
    about lr / r, which is why `scale` is not 1; `warm_up` and re-warming act on both through lr. Weight decay inside
    the optimiser's step takes a part of the angle.
    """

    def __init__(
        self,
        norm: Literal["layer", "rms"] = "layer",
        axes: Literal["channels", "channels_and_space"] = "channels",
        affine: Literal["free", "decay", "joint"] = "joint",
        scale: float = 5.0,
    ):
        super().__init__(norm, axes, affine=affine)
        self.scale = check_number("hyperball: scale", scale, low=1e-6, high=1e6)

    def attach(self, network: nn.Module, target: nn.Module | None, optimizer: Optimizer) -> None:
        options = {"every": self.every, "affine": self.affine}
        self.projection = nap.Projection(network, update="fixed", update_scale=self.scale, **options)
        self.projection.fix_updates(optimizer)
