"""Norms before the nonlinearities, without a projection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

import nap
from nap.graph import norm_layers
from plasticity.method import EachMember, Method, StackedNetworks


class LayerNorm(Method):
    """Put a norm before every nonlinearity, and nothing else.

    The norms, their places and the biases that they make redundant are those of `nap`, so that both networks have the
    same parameters. `nap` also projects: it rescales each weight matrix to its initial norm after every update. Here
    the norms of weights are free: they grow, and the effective learning rate falls. A network that has all these norms
    already, as those of the warm-start study, is refused: without a method it is this arm.

    norm: "layer" or "rms". axes: of a convolution, "channels" at each position, or "channels_and_space".
    Source: arXiv 1607.06450; against loss of plasticity arXiv 2402.18762.
    """

    def __init__(
        self,
        norm: Literal["layer", "rms"] = "layer",
        axes: Literal["channels", "channels_and_space"] = "channels",
    ):
        self.norm: Literal["layer", "rms"] = norm
        self.axes: Literal["channels", "channels_and_space"] = axes

    def prepare(self, network: nn.Module) -> None:
        """`normalize`; ValueError also for a network that gets no norm by it, since the method would do nothing."""
        before = len(norm_layers(network))
        self.normalize(network)
        if len(norm_layers(network)) == before:
            raise ValueError(f"layer-norm: {type(network).__name__} has its norms already: leave the method out")

    def normalize(self, network: nn.Module) -> None:
        """Normalise in place; ValueError for a network with a nonlinearity or weight that cannot be handled."""
        self.report = nap.normalize(network, norm=self.norm, conv_axes=self.axes, biases="drop")
        if self.report.not_handled:
            raise ValueError(f"{type(self).__name__} cannot normalise this network: {self.report.not_handled}")

    def stacked(self, members: Sequence[Method], networks: StackedNetworks) -> Method:
        return EachMember(members)
