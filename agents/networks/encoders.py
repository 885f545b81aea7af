"""Q-networks: an encoder of uint8 frame stacks, of ours or of the user's, and a head."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from agents.names import NETWORKS, is_own
from agents.networks.convolution import Conv2d, PixelConv2d
from agents.networks.heads import Head
from agents.networks.layers import NoisyLinear, OutputLinear
from experiment.part import as_mistake, build_part
from experiment.values import ConfigError
from nap.graph import ParameterSpec
from nap.metrics import untouched

Draw = Callable[..., dict[str, Tensor]]
"""Draws a layer's parameters: layer, generator -> parameters by name."""


class Encoder(nn.Module):
    """Features of frame stacks: the part of a Q-network that its `--network` names; the head is the agent's.

    A subclass is made from (stack, frame_shape), and its further arguments are options of the import path. Its
    `forward` takes pixels 0..255, [B, stack, *frame_shape], uint8 or with an augmentation float32, and gives features
    [B, ...] in the type of its weights, which is bfloat16 with `--precision bf16`. It begins with `images`, or with a
    `PixelConv2d`, which take care of both. A hidden layer and the outputs follow, for each stream of a dueling network;
    they have the noise of `--noisy`.

    Methods and NaP find layers and nonlinearities by their modules, so a nonlinearity is an `nn.ReLU()`, not a call.
    """

    hidden: int | None = 512
    """Units of the hidden layer between features and outputs; None: the outputs follow on the features."""
    draw: ClassVar[Draw | None] = None
    """Initialises the plain layers of encoder and head, also when a method re-initialises them; None: torch's way."""

    @staticmethod
    def channels(stack: int, frame_shape: tuple[int, ...]) -> int:
        """The channels of `images`: frames that have channels themselves, as MinAtar's, are stacked along them."""
        return stack * math.prod(frame_shape[:-2])

    def images(self, pixels: Tensor) -> Tensor:
        """Pixels [B, stack, *frame_shape] as images [B, channels, H, W] from 0 to 1, in the type of the weights."""
        return pixels.flatten(1, -3).to(next(self.parameters()).dtype) / 255


def feature_shape(encoder: Encoder, stack: int, frame_shape: tuple[int, ...]) -> torch.Size:
    """The shape of the features that an encoder gives for a frame stack; ValueError if it gives something else."""
    with torch.no_grad(), untouched(encoder):
        out = encoder(torch.zeros(2, stack, *frame_shape, dtype=torch.uint8))
    if not isinstance(out, Tensor) or not out.is_floating_point() or out.ndim < 2 or len(out) != 2 or not out.numel():
        given = f"a {out.dtype} of shape {tuple(out.shape)}" if isinstance(out, Tensor) else f"a {type(out).__name__}"
        raise ValueError(f"forward gives {given} for 2 frame stacks; it has to give features, floats of [2, ...]")
    return out.shape[1:]


class QNetwork(nn.Module):
    """A torso of features and a head: uint8 [B, stack, *frame_shape] -> action values [B, A], or [B, A, size].

    size, dueling, noisy, sigma0: as in `Head`. With dueling and streams "separate" each stream has its own hidden layer
    (arXiv 1511.06581); with "shared" both start from one, as in Dopamine. Without streams and hidden layers the
    head is one linear layer. With `pool` the hidden layers read each channel's mean over all positions (Impoola).
    Raises ValueError for an encoder that gives no features, and with `pool` for one without positions.
    """

    def __init__(
        self,
        encoder: Encoder,
        stack: int,
        frame_shape: tuple[int, ...],
        num_actions: int,
        *,
        pool: bool = False,
        size: int | None = None,
        dueling: bool = False,
        streams: Literal["separate", "shared"] = "separate",
        noisy: bool = False,
        sigma0: float = 0.5,
    ):
        super().__init__()
        shape = feature_shape(encoder, stack, frame_shape)
        if pool and len(shape) != 3:
            raise ValueError(f"--pool gap takes features [B, channels, H, W], and forward gives {['B', *shape]}")
        features = shape[0] if pool else math.prod(shape)
        pooling = [nn.AdaptiveAvgPool2d(1)] if pool else []
        hidden, separate = encoder.hidden, dueling and streams == "separate"
        shared: list[nn.Module] = []
        if hidden is not None and not separate:
            linear = partial(NoisyLinear, sigma0=sigma0) if noisy else nn.Linear
            shared, features = [linear(features, hidden), nn.ReLU()], hidden
        self.torso = nn.Sequential(*_layers(encoder), *pooling, nn.Flatten(), *shared)
        self.head: nn.Module
        if size is None and not dueling and not noisy:
            self.head = OutputLinear(features, num_actions)
        else:
            units = hidden if separate else None
            self.head = Head(
                features, num_actions, size=size, hidden=units, dueling=dueling, noisy=noisy, sigma0=sigma0
            )
        if encoder.draw is not None:
            self._draw(encoder.draw)

    def _draw(self, draw: Draw) -> None:
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear) and not isinstance(layer, NoisyLinear):
                layer.parameter_spec = ParameterSpec(draw=draw)  # type: ignore[assignment]
                layer.load_state_dict(draw(layer))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.torso(pixels))


def _layers(encoder: Encoder) -> list[nn.Module]:
    """The layers of an encoder that is a plain sequence, otherwise the encoder as a whole."""
    plain = isinstance(encoder, nn.Sequential) and type(encoder).forward is nn.Sequential.forward
    return list(encoder.children()) if plain else [encoder]


def make_network(given: str, stack: int, frame_shape: tuple[int, ...], num_actions: int, **head: Any) -> QNetwork:
    """The Q-network of a name in `NETWORKS`, or of module:Class for an encoder of the user's; :option=value,... follow.

    head: the keyword arguments of `QNetwork`. Raises ConfigError, in one line, for a class that is no `Encoder`, for
    what its constructor or a pass raises, and for an output that is no features.
    """
    if not is_own(given) and given != "minatar" and len(frame_shape) > 2:
        shape = "×".join(map(str, frame_shape))
        advice = 'declare network = "minatar" on the environment, or use your own network'
        raise ConfigError(f"--network {given} takes frames H×W; for frames C×H×W, which are {shape} here, {advice}")
    encoder = build_part("network", given, Encoder, stack, frame_shape, known=NETWORKS)
    with as_mistake(f"--network {given}, with frames of {'×'.join(map(str, frame_shape))}"):
        return QNetwork(encoder, stack, frame_shape, num_actions, **head)


class Nature(Encoder, nn.Sequential):
    """The network of Mnih et al. 2015: three convolutions and 512 hidden units, 1.7 M weights at 84×84."""

    def __init__(self, stack: int, frame_shape: tuple[int, ...]):
        super().__init__(
            PixelConv2d(stack, 32, 8, 4), nn.ReLU(), Conv2d(32, 64, 4, 2), nn.ReLU(), Conv2d(64, 64, 3), nn.ReLU()
        )


class Small(Encoder, nn.Sequential):
    """The network of van Hasselt et al. 2019 (DER): two convolutions and 256 hidden units, 0.2 M weights at 84×84."""

    hidden = 256

    def __init__(self, stack: int, frame_shape: tuple[int, ...]):
        super().__init__(PixelConv2d(stack, 32, 5, 5), nn.ReLU(), Conv2d(32, 64, 5, 5), nn.ReLU())


def xavier(layer: nn.Module, generator: torch.Generator | None = None) -> dict[str, Tensor]:
    """Fresh parameters of a layer: weights Xavier-uniform, biases zero."""
    fresh = {name: torch.zeros_like(parameter) for name, parameter in layer.named_parameters(recurse=False)}
    nn.init.xavier_uniform_(fresh["weight"], generator=generator)
    return fresh


class Dopamine(Encoder, nn.Sequential):
    """Nature's network as Dopamine's JAX agents have it: padded, so 11×11 positions, not 7×7; 4.0 M weights at 84×84.

    flax pads so that no pixel is cut off (in the second layer by 1 and 2, here by 2 and 1). It draws plain layers
    Xavier-uniform and starts biases at zero. Methods that re-initialise layers draw them in the same way.
    """

    draw = staticmethod(xavier)

    def __init__(self, stack: int, frame_shape: tuple[int, ...]):
        super().__init__(
            PixelConv2d(stack, 32, 8, 4, padding=2), nn.ReLU(), Conv2d(32, 64, 4, 2, padding=2), nn.ReLU(),
            Conv2d(64, 64, 3, padding=1), nn.ReLU(),
        )  # fmt: skip


class Residual(nn.Module):
    """Two convolutions, each after a ReLU, whose output is added to the input."""

    def __init__(self, channels: int):
        super().__init__()
        self.relu1, self.conv1 = nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)
        self.relu2, self.conv2 = nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.relu2(self.conv1(self.relu1(x))))


class Impala(Encoder, nn.Sequential):
    """The residual network of Espeholt et al. 2018: three stages of five convolutions and 256 hidden units.

    A stage is a convolution, a pooling that halves the image, and two residual blocks. 1.1 M weights at 84×84. width
    multiplies the channels, which are 16, 32 and 32. With `--pool gap` it is Impoola (arXiv 2503.05546).
    """

    hidden = 256

    def __init__(self, stack: int, frame_shape: tuple[int, ...], width: float = 1.0):
        if not 1 / 16 <= width <= 16:
            raise ValueError(f"width={width:g}: it has to be from 0.0625, one channel, to 16")
        stages: list[nn.Module] = []
        for inputs, outputs in pairwise([stack, *(round(width * channels) for channels in (16, 32, 32))]):
            convolution = nn.Conv2d if stages else PixelConv2d
            stages += [convolution(inputs, outputs, 3, padding=1), nn.MaxPool2d(3, 2, 1)]
            stages += [Residual(outputs), Residual(outputs)]
        super().__init__(*stages, nn.ReLU())


class MinAtar(Encoder, nn.Sequential):
    """The network of Young & Tian 2019 for 10×10 frames: one convolution and 128 hidden units."""

    hidden = 128

    def __init__(self, stack: int, frame_shape: tuple[int, ...]):
        channels = self.channels(stack, frame_shape)
        super().__init__(nn.Flatten(1, -3), PixelConv2d(channels, 16, 3), nn.ReLU())
