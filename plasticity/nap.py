"""Normalize-and-Project (Lyle et al. 2024) as a method behind the interface."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

import nap
from plasticity.layer_norm import LayerNorm
from plasticity.method import Features, Method, StackedNetworks, check_whole

CHANGED = 1e-4
"""Relative difference from the initial norm that says that a weight was changed: a projection leaves 1e-6."""


class NaP(LayerNorm):
    """Puts a norm before every nonlinearity, and rescales each weight matrix to its initial norm after every update.

    Source: arXiv 2407.01800; the update is eq. 2 of arXiv 2507.20057. `after_update` runs after every other method's.
    """

    def __init__(
        self,
        norm: Literal["layer", "rms"] = "layer",
        axes: Literal["channels", "channels_and_space"] = "channels",
        every: int = 1,
        affine: Literal["free", "decay", "joint"] = "joint",
    ):
        super().__init__(norm, axes)
        self.every = check_whole("nap: every", every, low=1)
        self.affine: Literal["free", "decay", "joint"] = affine
        self.projection: nap.Projection | None = None

    def prepare(self, network: nn.Module) -> None:
        self.normalize(network)

    def attach(self, network: nn.Module, target: nn.Module | None, optimizer: Optimizer) -> None:
        self.projection = nap.Projection(network, every=self.every, affine=self.affine)

    def after_update(self, update: int, features: Features | None = None) -> None:
        self._attached.step()

    def task_changed(self, update: int) -> None:
        """Project at once if a method before this one has changed a weight; it waits for the device.

        Weights at their norm keep their bits.
        """
        kept, norms = self._attached.initial_norms, self._attached.norms()
        if not all(torch.allclose(norms[name], kept[name].to(norms[name].device), rtol=CHANGED) for name in kept):
            self._attached.project()

    def stacked(self, members: Sequence[Method], networks: StackedNetworks) -> Method:
        """The projection of each network to its own norms, in a few calls for all."""
        both = copy(self)
        both.projection = nap.StackedProjection([member._attached for member in members], networks.whole)  # type: ignore[attr-defined,assignment]
        return both

    def state_dict(self) -> dict[str, Any]:
        return self._attached.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._attached.load_state_dict(state)

    @property
    def _attached(self) -> nap.Projection:
        assert self.projection is not None, "attach comes first"
        return self.projection
