"""The normalisation layers that `normalize` inserts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, bfloat16, float16, nn, ones, rsqrt, zeros

from nap.graph.foreign import Role, norm_scales, role

# Scale invariance asks for a variance far above eps. Frames are mostly black and divided by 255: a patch that holds one
# dim pixel leaves variances near 1e-9 behind the first convolution, where torch's default of 1e-5 would decide the
# output (1e-8 still moves it by 1%, 1e-12 by 3e-6). Smaller buys nothing, and 1/sqrt(eps) bounds the gradient of a row
# that is exactly zero: ReLU stops it there, but smooth activations on exactly empty input may want a larger eps.
EPS = 1e-12

BATCH_NORMS = nn.modules.batchnorm._NormBase


class ChannelNorm(nn.Module):
    """Normalises [..., C, *space] over C at each position, with a scale (and, for "layer", an offset) per channel.

    On channels_last memory nothing is copied: the permuted view is contiguous. `space` is the number of spatial
    dimensions.
    """

    bias: nn.Parameter | None

    def __init__(self, channels: int, space: int, norm: str = "layer", eps: float = EPS, **factory: Any) -> None:
        super().__init__()
        self.channels, self.space, self.norm, self.eps = channels, space, norm, eps
        self.weight = nn.Parameter(ones(channels, **factory))
        self.register_parameter("bias", nn.Parameter(zeros(channels, **factory)) if norm == "layer" else None)

    def forward(self, x: Tensor) -> Tensor:
        last = x.movedim(-1 - self.space, -1)
        if self.norm == "layer":
            last = F.layer_norm(last, (self.channels,), self.weight, self.bias, self.eps)
        else:
            last = F.rms_norm(last, (self.channels,), self.weight, self.eps)
        out = last.movedim(-1, -1 - self.space)
        return out.contiguous() if x.is_contiguous() else out  # the caller's x.view(...) must go on working

    def extra_repr(self) -> str:
        return f"{self.channels}, space={self.space}, norm={self.norm!r}, eps={self.eps}"


class ChannelSpaceRMSNorm(nn.Module):
    """Divides [..., C, *space] by its root mean square over channels and space, with a scale per channel."""

    def __init__(self, channels: int, space: int, eps: float = EPS, **factory: Any) -> None:
        super().__init__()
        self.channels, self.space, self.eps = channels, space, eps
        self.weight = nn.Parameter(ones(channels, **factory))

    def forward(self, x: Tensor) -> Tensor:
        dims = tuple(range(-1 - self.space, 0))
        wide = x.float() if x.dtype in (bfloat16, float16) else x  # a half holds neither the squares nor eps
        wide = wide * rsqrt(wide.square().mean(dims, keepdim=True) + self.eps)
        return wide.to(x.dtype) * self.weight.view(-1, *[1] * self.space)

    def extra_repr(self) -> str:
        return f"{self.channels}, space={self.space}, eps={self.eps}"


NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, BATCH_NORMS, ChannelNorm, ChannelSpaceRMSNorm)


class NormalizedActivation(nn.Module):
    """A normalisation followed by the nonlinearity it was put before."""

    def __init__(self, norm: nn.Module, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.norm = norm
        self.activation = activation

    def forward(self, input: Tensor) -> Tensor:  # the argument's name in torch's activations
        return self.activation(self.norm(input))


def make_norm(width: int, space: int, norm: str, conv_axes: str, eps: float, like: Tensor) -> nn.Module:
    """A new norm for `width` features with `space` spatial dimensions after them, on the device and dtype of `like`."""
    factory: dict[str, Any] = {"device": like.device, "dtype": like.dtype}
    if space == 0:
        return (nn.LayerNorm if norm == "layer" else nn.RMSNorm)(width, eps=eps, **factory)
    if conv_axes == "channels":
        return ChannelNorm(width, space, norm, eps, **factory)
    if norm == "layer":
        return nn.GroupNorm(1, width, eps=eps, **factory)
    return ChannelSpaceRMSNorm(width, space, eps, **factory)


def norm_layers(module: nn.Module) -> list[nn.Module]:
    """The normalisation layers of a module, those of other libraries included."""
    return [part for part in module.modules() if isinstance(part, NORMS) or role(part) is Role.NORM]


def scales_of(norm: nn.Module) -> list[nn.Parameter]:
    """The scale of a normalisation layer, if it has one, whatever its name is in another library."""
    if not isinstance(norm, NORMS):
        return norm_scales(norm)
    weight = norm._parameters.get("weight")
    return [] if weight is None else [weight]
