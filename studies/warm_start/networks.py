"""The networks of the study: the small CNN and the bias-free ResNet-18.

A norm comes before every nonlinearity, except with norms over "none".
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from nap.graph import ChannelNorm
from studies.warm_start.config import WarmStartConfig


def make_network(config: WarmStartConfig, shape: Sequence[int], classes: int) -> nn.Module:
    """The network of the settings for images [C, H, W], drawn from torch's generator."""
    assert config.width is not None
    if config.network == "resnet18":
        return ResNet18(shape, classes, config.width)
    strides = [int(stride) for stride in config.strides]
    return small_cnn(shape, classes, config.width, config.hidden, strides, config.norm_over)


def small_cnn(
    shape: Sequence[int], classes: int, width: int, hidden: int, strides: Sequence[int], norm_over: str = "space"
) -> nn.Sequential:
    """Convolutions of 5x5, 3x3 and 3x3 and a hidden layer, each followed by LayerNorm and ReLU, and a linear head.

    The small CNN of arXiv 2507.20057, appendix A.2. The paper leaves open the strides, the hidden width, whether the
    hidden layer has a norm (here it has) and the axes of a convolution's norm: channels and "space", or the "channels"
    at each position. Over "none", layers have biases in place of norms. [B, C, H, W] to logits [B, classes].
    """
    channels, height, pixels = shape
    bare = norm_over == "none"
    parts: dict[str, nn.Module] = {}
    for i, (kernel, stride) in enumerate(zip((5, 3, 3), strides, strict=True), 1):
        parts[f"conv{i}"] = nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=bare)
        parts[f"norm{i}"] = nn.Identity() if bare else layer_norm(width, norm_over)
        parts[f"relu{i}"] = nn.ReLU()
        channels, height, pixels = width, -(-height // stride), -(-pixels // stride)
    parts["flatten"] = nn.Flatten()
    parts["hidden"] = nn.Linear(width * height * pixels, hidden, bias=bare)
    parts["norm4"], parts["relu4"] = nn.Identity() if bare else nn.LayerNorm(hidden), nn.ReLU()
    parts["head"] = nn.Linear(hidden, classes)
    return nn.Sequential(OrderedDict(parts))


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2015, figure 2), without biases."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = convolution(inputs, outputs, 3, stride), layer_norm(outputs)
        self.conv2, self.norm2 = convolution(outputs, outputs, 3, 1), layer_norm(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(convolution(inputs, outputs, 1, stride), layer_norm(outputs))
        self.relu1, self.norm3, self.relu2 = nn.ReLU(), layer_norm(outputs), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
        return self.relu2(self.norm3(inner + self.shortcut(x)))


class ResNet18(nn.Module):
    """ResNet-18 for small images: a 3x3 stem without pooling, four stages of two blocks, mean over space, a head.

    Only the head has a bias. LayerNorm over channels and space replaces batch norm; another one on each sum gives every
    nonlinearity a normalised input. [B, C, H, W] to logits [B, classes].
    """

    def __init__(self, shape: Sequence[int], classes: int, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Sequential(convolution(shape[0], width, 3, 1), layer_norm(width), nn.ReLU())
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        pairs = pairwise(widths)
        blocks = [
            block
            for i, (inputs, outputs) in enumerate(pairs)
            for block in (Block(inputs, outputs, 1 if i == 0 else 2), Block(outputs, outputs, 1))
        ]
        self.stages = nn.Sequential(*blocks)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(8 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.stages(self.stem(x))))


def convolution(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


def layer_norm(channels: int, over: str = "space") -> nn.Module:
    """LayerNorm over channels and space or over channels alone, with a scale and an offset for each channel."""
    return nn.GroupNorm(1, channels) if over == "space" else ChannelNorm(channels, space=2, eps=1e-5)
