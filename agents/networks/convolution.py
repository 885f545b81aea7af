"""Convolutions of the Q-networks: over uint8 pixels, and with a weight gradient that is quick in bfloat16 on a CPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` whose weight gradient is quick in bfloat16 on a CPU.

    There it is one matrix product of patches; oneDNN's own is slower with two threads than with one. Padding,
    dilation and groups are left to oneDNN, as is every other type and device.
    """

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # not `forward`: for code that traces a network, such as NaP, this stays a convolution
        if x.dtype == torch.bfloat16 and x.device.type == "cpu" and self._is_plain():
            return _PatchGradient.apply(x, weight, bias, self.stride)
        return super()._conv_forward(x, weight, bias)

    def _is_plain(self) -> bool:
        return self.padding == (0, 0) and self.dilation == (1, 1) and self.groups == 1


class PixelConv2d(Conv2d):
    """A convolution over uint8 pixels: [B, C, H, W] in 0..255 -> [B, out, H', W'] in the weight's dtype.

    1/255 is applied to the weight where it is used. The stored weight keeps its scale, on which the effective
    learning rate, ‖W₀‖ and Adam's step depend, and no scaled copy of the pixels is made. The pixels take the weight's
    memory format. Where networks are `stacked`, inside `vmap`, the compiler chooses that format.
    """

    stacked = False

    def _conv_forward(self, pixels: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        weight = weight / 255
        if not self.stacked and weight.is_contiguous(memory_format=torch.channels_last):
            pixels = channels_last(pixels, weight.dtype)
        return super()._conv_forward(pixels.to(weight.dtype), weight, bias)


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
