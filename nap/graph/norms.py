"""The normalisation layers that `normalize` inserts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, float64, nn, ones, rsqrt, tensor, zeros

from nap.graph.foreign import Role, norm_scales, role

# Scale invariance asks for a variance far above eps. Frames are mostly black and divided by 255: a patch that holds one
# dim pixel leaves variances near 1e-9 behind the first convolution, where torch's default of 1e-5 would decide the
# output (1e-8 still moves it by 1%, 1e-12 by 3e-6). Smaller buys nothing.
EPS = 1e-12
# A norm multiplies the gradient of an all-zero row by 1/sqrt(eps), and so does the one before it: 1e12 for the offsets
# before both. ReLU stops that gradient. Where nothing does, `FlooredNorm` stands, with this share of the variance that
# inputs of mean square 1 give as its floor. An added eps of that size would move the output of ordinary rows by 1%
# when a weight is scaled.
FLOOR = 2e-3

BATCH_NORMS = nn.modules.batchnorm._NormBase


class ChannelNorm(nn.Module):
    """Normalises [..., C, *space] over C at each position, with a scale (and, for "layer", an offset) per channel.

    On channels_last memory nothing is copied: the permuted view is contiguous. `space` is the number of spatial
    dimensions.
    """

    def __init__(self, channels: int, space: int, norm: str = "layer", eps: float = EPS, **factory: Any) -> None:
        super().__init__()
        self.bias: nn.Parameter | None  # not in the class, where torch.jit.script would read it as a string
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
        wide = x.float() if x.element_size() < 4 else x  # a half holds neither the squares nor eps
        wide = wide * rsqrt(wide.square().mean(dims, keepdim=True) + self.eps)
        return wide.to(x.dtype) * self.weight.view([-1] + [1] * self.space)

    def extra_repr(self) -> str:
        return f"{self.channels}, space={self.space}, eps={self.eps}"


class FlooredNorm(nn.Module):
    """LayerNorm or RMSNorm of [..., C, *space] that divides by sqrt(max(variance, floor)), not sqrt(variance + eps).

    Above the floor the scale of the input does not reach the output at all. Below, the norm is linear, and it
    multiplies no gradient by more than 1/sqrt(floor). It covers C, or C and the `space` dimensions after it.
    """

    def __init__(
        self,
        channels: int,
        space: int = 0,
        norm: str = "layer",
        over_space: bool = False,
        floor: float = FLOOR,
        **factory: Any,
    ) -> None:
        super().__init__()
        self.bias: nn.Parameter | None  # not in the class, where torch.jit.script would read it as a string
        self.channels, self.space, self.norm, self.over_space, self.floor = channels, space, norm, over_space, floor
        self.dims = list(range(-1 - space, 0)) if over_space else [-1 - space]
        self.shape = [channels] + [1] * space
        self.weight = nn.Parameter(ones(channels, **factory))
        self.register_parameter("bias", nn.Parameter(zeros(channels, **factory)) if norm == "layer" else None)

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float() if x.element_size() < 4 else x  # a half holds no small squares
        if self.norm == "layer":
            wide = wide - wide.mean(self.dims, keepdim=True)
        wide = wide * rsqrt(wide.square().mean(self.dims, keepdim=True).clamp(min=self.floor))
        out = wide.to(x.dtype) * self.weight.view(self.shape)
        return out if self.bias is None else out + self.bias.view(self.shape)

    def get_extra_state(self) -> Tensor:
        """The floor, which a second model with other initial weights would not have."""
        return tensor(self.floor, dtype=float64)

    def set_extra_state(self, state: Tensor) -> None:
        self.floor = float(state)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        state_dict.setdefault(f"{prefix}_extra_state", self.get_extra_state())  # saved before norms had floors
        super()._load_from_state_dict(state_dict, prefix, *others)

    def extra_repr(self) -> str:
        space = f"{self.space}, over_space={self.over_space}"
        return f"{self.channels}, space={space}, norm={self.norm!r}, floor={self.floor}"


OWN_NORMS = (ChannelNorm, ChannelSpaceRMSNorm, FlooredNorm)
NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, BATCH_NORMS, *OWN_NORMS)


class NormalizedActivation(nn.Module):
    """A normalisation followed by the nonlinearity it was put before."""

    def __init__(self, norm: nn.Module, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.norm = norm
        self.activation = activation

    def forward(self, input: Tensor) -> Tensor:  # the argument's name in torch's activations
        return self.activation(self.norm(input))


class NormalizedLayer(nn.Module):
    """A layer followed by the normalisation that was put behind it, for a nonlinearity that is no module of its own.

    It stands where the layer stood: attributes that it lacks, such as `weight` and `in_features`, are the layer's. A
    state_dict made when the norm was a part of the layer (`fc.weight`, `fc.norm.weight`) loads.
    """

    def __init__(self, layer: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.norm = norm

    def forward(self, input: Tensor) -> Tensor:
        return self.norm(self.layer(input))

    def __getattr__(self, name: str) -> Any:
        modules = self.__dict__.get("_modules", {})
        if name in modules or "layer" not in modules:
            return super().__getattr__(name)
        return getattr(modules["layer"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        layer = self.__dict__.get("_modules", {}).get("layer")
        own = layer is None or name not in layer._parameters
        super().__setattr__(name, value) if own else setattr(layer, name, value)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        own = {name for name, _ in self.layer.named_parameters()} | {name for name, _ in self.layer.named_buffers()}
        for name in own:
            if prefix + name in state_dict:
                state_dict[f"{prefix}layer.{name}"] = state_dict.pop(prefix + name)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def make_norm(
    width: int, space: int, norm: str, conv_axes: str, eps: float | None, like: Tensor, floor: float
) -> nn.Module:
    """A new norm for `width` features with `space` spatial dimensions after them, on the device and dtype of `like`.

    floor: that of a `FlooredNorm`, or 0 for none. Ignored if an eps is given.
    """
    factory: dict[str, Any] = {"device": like.device, "dtype": like.dtype}
    over_space = space > 0 and conv_axes == "channels_and_space"
    if floor and eps is None:
        return FlooredNorm(width, space, norm, over_space, floor, **factory)
    eps = EPS if eps is None else eps
    if space == 0:
        return (nn.LayerNorm if norm == "layer" else nn.RMSNorm)(width, eps=eps, **factory)
    if not over_space:
        return ChannelNorm(width, space, norm, eps, **factory)
    if norm == "layer":
        return nn.GroupNorm(1, width, eps=eps, **factory)
    return ChannelSpaceRMSNorm(width, space, eps, **factory)


def expected_variance(weight: Tensor) -> float:
    """The variance of a layer's output for inputs of mean square 1; without values that of torch's initialisation."""
    if weight.is_meta or weight.ndim < 2:
        return 1 / 3
    return float(weight.detach().float().square().sum()) / weight.shape[0]


def norm_layers(module: nn.Module) -> list[nn.Module]:
    """The normalisation layers of a module, those of other libraries included."""
    return [part for part in module.modules() if isinstance(part, NORMS) or role(part) is Role.NORM]


def scales_of(norm: nn.Module) -> list[nn.Parameter]:
    """The scale of a normalisation layer, if it has one, whatever its name is in another library."""
    if not isinstance(norm, NORMS):
        return norm_scales(norm)
    weight = norm._parameters.get("weight")
    return [] if weight is None else [weight]
