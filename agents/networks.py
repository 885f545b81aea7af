"""Q-networks that read uint8 frame stacks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from agents.convolution import Conv2d, PixelConv2d


class QNetwork(nn.Module):
    """A torso of features and a linear head: uint8 [B, stack, H, W] -> action values [B, A]."""

    def __init__(self, convs: nn.Sequential, hidden: int, stack: int, frame_shape: tuple[int, ...], num_actions: int):
        super().__init__()
        pixels = torch.zeros(1, stack, *frame_shape, dtype=torch.uint8)
        flat = convs(pixels).numel()
        self.torso = nn.Sequential(*convs, nn.Flatten(), nn.Linear(flat, hidden), nn.ReLU())
        self.head = nn.Linear(hidden, num_actions)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.torso(pixels))


def nature(stack: int, frame_shape: tuple[int, ...], num_actions: int) -> QNetwork:
    """The network of Mnih et al. 2015: three convolutions and 512 hidden units, 1.7 M weights at 84×84."""
    convs = nn.Sequential(
        PixelConv2d(stack, 32, 8, 4), nn.ReLU(), Conv2d(32, 64, 4, 2), nn.ReLU(), Conv2d(64, 64, 3), nn.ReLU()
    )
    return QNetwork(convs, 512, stack, frame_shape, num_actions)


def small(stack: int, frame_shape: tuple[int, ...], num_actions: int) -> QNetwork:
    """The network of van Hasselt et al. 2019 (DER): two convolutions and 256 hidden units, 0.2 M weights at 84×84."""
    convs = nn.Sequential(PixelConv2d(stack, 32, 5, 5), nn.ReLU(), Conv2d(32, 64, 5, 5), nn.ReLU())
    return QNetwork(convs, 256, stack, frame_shape, num_actions)


NETWORKS: dict[str, Callable[[int, tuple[int, ...], int], QNetwork]] = {"nature": nature, "small": small}
