"""Convolutions of the Q-networks: over uint8 pixels, and with a weight gradient that is quick in bfloat16 on a CPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` that computes in the way that is quick on its processor: see `choose_kernels`.

    In bfloat16 on a CPU its weight gradient is one matrix product of patches. oneDNN's own is slower there with two
    threads than with one. Padding, dilation and groups are left to oneDNN, as is every other type and device.
    """

    products = False
    """Whether a convolution whose windows tile the image is a matrix product, and pixels are cast outside inductor."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # not `forward`: for code that traces a network, such as NaP, this stays a convolution
        if x.dtype == torch.bfloat16 and x.device.type == "cpu" and self._is_plain():
            return _PatchGradient.apply(x, weight, bias, self.stride)
        return super()._conv_forward(x, weight, bias)

    def _is_plain(self) -> bool:
        return self.padding == (0, 0) and self.dilation == (1, 1) and self.groups == 1

    def _tiles(self) -> bool:
        """Whether each number of the input is read once, so that the patches take no more memory than the input."""
        return self._is_plain() and self.stride == self.kernel_size


class PixelConv2d(Conv2d):
    """A convolution over uint8 pixels: [B, C, H, W] in 0..255 -> [B, out, H', W'] in the weight's dtype.

    1/255 is applied to the weight where it is used. The stored weight keeps its scale, on which the effective
    learning rate, ‖W₀‖ and Adam's step depend, and no scaled copy of the pixels is made. The pixels take the weight's
    memory format.
    """

    def _conv_forward(self, pixels: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        weight = weight / 255
        if self.products and pixels.dtype == torch.uint8 and pixels.shape[1] == 4:
            if self._tiles():
                return _product(cast_patches(pixels, *self.kernel_size), weight, bias)
            return super()._conv_forward(cast_patches(pixels, 1, 1).permute(0, 3, 1, 2), weight, bias)
        if weight.is_contiguous(memory_format=torch.channels_last):
            pixels = channels_last(pixels, weight.dtype)
        return super()._conv_forward(pixels.to(weight.dtype), weight, bias)


def choose_kernels(network: nn.Module, products: bool) -> None:
    """Let the convolutions of a network compute for a processor with AVX2 and no AVX-512, or for all others.

    There oneDNN is slow where windows tile the image (stride = kernel), as in DER's network, and inductor casts bytes
    one by one. Elsewhere oneDNN is quicker than a product, and inductor's cast than torch's.
    """
    for module in network.modules():
        if isinstance(module, Conv2d):
            module.products = products


def _product(patches: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution of patches [B, H', W', kH·kW·C], channels last in each: [B, out, H', W'] in channels_last."""
    return F.linear(patches, weight.permute(0, 2, 3, 1).flatten(1), bias).permute(0, 3, 1, 2)


def _patches(x: Tensor, kernel: tuple[int, ...]) -> Tensor:
    """The tiles of images [B, C, H, W], of which what is left over at the edges is cut off: [B, H', W', kH·kW·C]."""
    height, width = kernel
    rows, columns = x.shape[2] // height, x.shape[3] // width
    x = x.permute(0, 2, 3, 1)[:, : rows * height, : columns * width]
    return x.unflatten(1, (rows, height)).unflatten(3, (columns, width)).transpose(2, 3).flatten(3)


@torch.library.custom_op("rewarm::cast_patches", mutates_args=())
def cast_patches(pixels: Tensor, height: int, width: int) -> Tensor:
    """The tiles of pixels uint8 [B, 4, H, W] in float32: [B, H // height, W // width, height·width·4].

    Eager torch does it inside compiled code too: the vectors that inductor writes for AVX2 cast bytes 20 times slower.
    """
    words = _patches(_words(pixels), (height, width)).unsqueeze(-1)
    return words.clone(memory_format=torch.contiguous_format).view(torch.uint8).flatten(3).float()


@cast_patches.register_fake
def _(pixels: Tensor, height: int, width: int) -> Tensor:
    batch, channels, rows, columns = pixels.shape
    shape = batch, rows // height, columns // width, height * width * channels
    return pixels.new_empty(shape, dtype=torch.float32)


def _words(pixels: Tensor) -> Tensor:
    """Four planes of bytes [B, 4, H, W] as one of 32-bit words [B, 1, H, W]: copied as one, they lie channels last."""
    first, second, third, fourth = pixels.to(torch.int32).split(1, 1)
    return first | second << 8 | third << 16 | fourth << 24


WIDE = torch.backends.cpu.get_cpu_capability() == "AVX512"
"""Whether torch has the vectors that make the cast through words quick, known from the processor alone."""


def channels_last(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """Pixels [B, C, H, W] in another dtype and in channels_last memory.

    Four planes of uint8 pass through one 32-bit integer per pixel. That vectorises; an interleaving cast does not.
    Without AVX-512 inductor's code for it is slow, and a cast of plane after plane takes a third of the time.
    """
    if pixels.dtype != torch.uint8 or pixels.shape[1] != 4:
        return pixels.to(dtype=dtype, memory_format=torch.channels_last)
    if not WIDE and torch.compiler.is_compiling():
        return torch.stack([plane.to(dtype) for plane in pixels.unbind(1)], -1).movedim(-1, 1)
    first, second, third, fourth = pixels.to(torch.int32).unbind(1)
    words = first | second << 8 | third << 16 | fourth << 24
    return words.unsqueeze(-1).view(torch.uint8).to(dtype).movedim(-1, 1)


class _PatchGradient(torch.autograd.Function):
    """A convolution whose weight gradient is output gradients [out, N] times input patches [N, kH·kW·C]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, bias, stride)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        (out, channels, height, width), stride = weight.shape, ctx.stride
        patches = x.unfold(2, height, stride[0]).unfold(3, width, stride[1]).permute(0, 2, 3, 4, 5, 1)
        rows = gradient.permute(0, 2, 3, 1).reshape(-1, out)
        of_weight = rows.t() @ patches.reshape(rows.shape[0], -1)
        of_weight = of_weight.view(out, height, width, channels).permute(0, 3, 1, 2)
        of_input = _input_gradient(gradient, x, weight, stride) if ctx.needs_input_grad[0] else None
        of_bias = rows.sum(0) if ctx.needs_input_grad[2] else None
        return of_input, of_weight, of_bias, None


def _input_gradient(gradient: Tensor, x: Tensor, weight: Tensor, stride: tuple[int, int]) -> Tensor:
    no_padding, dilation, only_input = (0, 0), (1, 1), (True, False, False)
    return torch.ops.aten.convolution_backward(
        gradient, x, weight, None, stride, no_padding, dilation, False, no_padding, 1, only_input
    )[0]
