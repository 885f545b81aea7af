"""Q-networks that read uint8 frame stacks."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from agents.networks.convolution import Conv2d, PixelConv2d
from agents.networks.heads import Head
from agents.networks.layers import NoisyLinear, OutputLinear
from nap.graph import ParameterSpec


class QNetwork(nn.Module):
    """A torso of features and a head: uint8 [B, stack, *frame_shape] -> action values [B, A], or [B, A, size].

    size, dueling, noisy, sigma0: as in `Head`. With dueling and streams "separate" each stream has the hidden layer to
    itself (arXiv 1511.06581), with "shared" both start from one, as in Dopamine. Without any of them the head is one
    linear layer.
    """

    def __init__(
        self,
        convs: nn.Sequential,
        hidden: int,
        stack: int,
        frame_shape: tuple[int, ...],
        num_actions: int,
        *,
        size: int | None = None,
        dueling: bool = False,
        streams: Literal["separate", "shared"] = "separate",
        noisy: bool = False,
        sigma0: float = 0.5,
    ):
        super().__init__()
        features = convs(torch.zeros(1, stack, *frame_shape, dtype=torch.uint8)).numel()
        separate = dueling and streams == "separate"
        shared: list[nn.Module] = []
        if not separate:
            linear = partial(NoisyLinear, sigma0=sigma0) if noisy else nn.Linear
            shared, features = [linear(features, hidden), nn.ReLU()], hidden
        self.torso = nn.Sequential(*convs, nn.Flatten(), *shared)
        self.head: nn.Module
        if size is None and not dueling and not noisy:
            self.head = OutputLinear(features, num_actions)
        else:
            units = hidden if separate else None
            self.head = Head(
                features, num_actions, size=size, hidden=units, dueling=dueling, noisy=noisy, sigma0=sigma0
            )

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.torso(pixels))


def nature(stack: int, frame_shape: tuple[int, ...], num_actions: int, **head: Any) -> QNetwork:
    """The network of Mnih et al. 2015: three convolutions and 512 hidden units, 1.7 M weights at 84×84.

    `head`: the keyword arguments of `QNetwork`.
    """
    convs = nn.Sequential(
        PixelConv2d(stack, 32, 8, 4), nn.ReLU(), Conv2d(32, 64, 4, 2), nn.ReLU(), Conv2d(64, 64, 3), nn.ReLU()
    )
    return QNetwork(convs, 512, stack, frame_shape, num_actions, **head)


def small(stack: int, frame_shape: tuple[int, ...], num_actions: int, **head: Any) -> QNetwork:
    """The network of van Hasselt et al. 2019 (DER): two convolutions and 256 hidden units, 0.2 M weights at 84×84.

    `head`: the keyword arguments of `QNetwork`.
    """
    convs = nn.Sequential(PixelConv2d(stack, 32, 5, 5), nn.ReLU(), Conv2d(32, 64, 5, 5), nn.ReLU())
    return QNetwork(convs, 256, stack, frame_shape, num_actions, **head)


def dopamine(stack: int, frame_shape: tuple[int, ...], num_actions: int, **head: Any) -> QNetwork:
    """Nature's network as Dopamine's JAX agents have it: padded, so 11×11 places for 7×7, 4.0 M weights at 84×84.

    flax pads so that nothing is cut off (in the second layer by 1 and 2, which is 2 and 1 here), draws plain layers
    Xavier-uniform and starts biases at zero, as methods do that re-initialise layers.

    `head`: the keyword arguments of `QNetwork`.
    """
    convs = nn.Sequential(
        PixelConv2d(stack, 32, 8, 4, padding=2), nn.ReLU(), Conv2d(32, 64, 4, 2, padding=2), nn.ReLU(),
        Conv2d(64, 64, 3, padding=1), nn.ReLU(),
    )  # fmt: skip
    network = QNetwork(convs, 512, stack, frame_shape, num_actions, **head)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and not isinstance(layer, NoisyLinear):
            layer.parameter_spec = ParameterSpec(draw=xavier)  # type: ignore[assignment]
            layer.load_state_dict(xavier(layer))
    return network


def xavier(layer: nn.Module, generator: torch.Generator | None = None) -> dict[str, Tensor]:
    """Fresh parameters of a layer: weights Xavier-uniform, biases zero."""
    fresh = {name: torch.zeros_like(parameter) for name, parameter in layer.named_parameters(recurse=False)}
    nn.init.xavier_uniform_(fresh["weight"], generator=generator)
    return fresh


def minatar(stack: int, frame_shape: tuple[int, ...], num_actions: int, **head: Any) -> QNetwork:
    """The network of Young & Tian 2019 for 10×10 frames: one convolution and 128 hidden units.

    Frames that have channels, [C, H, W], are stacked along them.

    `head`: the keyword arguments of `QNetwork`.
    """
    channels = stack * math.prod(frame_shape[:-2])
    convs = nn.Sequential(nn.Flatten(1, -3), PixelConv2d(channels, 16, 3), nn.ReLU())
    return QNetwork(convs, 128, stack, frame_shape, num_actions, **head)


NETWORKS: dict[str, Callable[..., QNetwork]] = {
    "nature": nature,
    "dopamine": dopamine,
    "small": small,
    "minatar": minatar,
}
