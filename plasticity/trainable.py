"""The trainable parameters and layers of a network, which most methods work on."""

from __future__ import annotations

from torch import nn

from nap.graph import UnitLayer


def trainable_parameters(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that take a gradient, each once."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def trainable_layers(network: nn.Module) -> list[UnitLayer]:
    """The linear layers and convolutions with a weight of their own that takes a gradient, the output layers too."""
    layers = [part for part in network.modules() if isinstance(part, UnitLayer) and "weight" in part._parameters]
    return [layer for layer in layers if layer.weight.requires_grad]
