"""Noisy linear layers, which explore by noise of learned size on the weights; and output layers."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nap.graph import ParameterSpec


class NoisyLinear(nn.Linear):
    """A linear layer with factorised Gaussian noise: [..., in] -> [..., out].

    In training mode (μ + σ ⊙ f(ε_out) f(ε_in)ᵀ) x + μ_b + σ_b ⊙ f(ε_out), with f(x) = sgn(x) √|x|; in evaluation mode
    the layer μ x + μ_b. `weight` and `bias` are μ, uniform within ±1/√in at first; σ is sigma0/√in at first. The noise
    is zero until `Noise.resample` fills its buffers: a pass draws nothing, and may be compiled, captured and repeated.
    Source: arXiv 1706.10295 eq. 8 to 11 and section 3.2, whose sigma0 is 0.5; Dopamine and DQN Zoo use 0.1.
    """

    noise_in: Tensor
    noise_out: Tensor

    def __init__(self, in_features: int, out_features: int, bias: bool = True, sigma0: float = 0.5):
        super().__init__(in_features, out_features, bias)  # torch's own first values are the published ones
        self.sigma0 = sigma0
        first = sigma0 / math.sqrt(in_features)
        self.weight_sigma = nn.Parameter(torch.full_like(self.weight, first))
        self.bias_sigma = nn.Parameter(torch.full((out_features,), first)) if bias else None
        # The outputs are linear in μ and σ together, for any noise: NaP keeps the norm of the pair and leaves their
        # ratio, the noise, to be learned.
        noise_of = {"weight_sigma": "weight", "bias_sigma": "bias"}
        self.parameter_spec = ParameterSpec(coscaled=noise_of, initial=dict.fromkeys(noise_of, first))
        self.register_buffer("noise_in", torch.zeros(in_features))
        self.register_buffer("noise_out", torch.zeros(out_features))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return F.linear(x, self.weight, self.bias)
        weight = self.weight + self.weight_sigma * torch.outer(self.noise_out, self.noise_in)
        bias: Tensor | None = self.bias
        if bias is not None and self.bias_sigma is not None:
            bias = bias + self.bias_sigma * self.noise_out
        return F.linear(x, weight, bias)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, sigma0={self.sigma0}"


class Output:
    """Marks an output layer, as its first base class: the layer stays in float32 in a low-precision copy.

    At a Q of 10, numbers of bfloat16 are 1/16 apart, more than most actions differ by. Several actions would be equal,
    and the greedy one would be the first of them.
    """

    weight: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))  # type: ignore[misc]


class OutputLinear(Output, nn.Linear):
    """A linear output layer."""


class NoisyOutputLinear(Output, NoisyLinear):
    """A noisy output layer."""


class Noise:
    """The noise of every noisy layer of some networks, drawn by one call on their device.

    Give it each network that computes: the online one, the target, and, if the online one is a low-precision copy, the
    original too: after an update the original's buffers are copied into the copy. A network given twice counts once.
    The state is that of the generator; the buffers belong to the networks' state. Networks without noisy layers draw
    nothing.
    """

    def __init__(self, *networks: nn.Module, generator: torch.Generator):
        layers = (part for network in networks for part in network.modules() if isinstance(part, NoisyLinear))
        self.layers, self.generator = list(dict.fromkeys(layers)), generator

    @torch.no_grad()
    def resample(self) -> None:
        """Draws new noise into the buffers, in place; all networks' samples are independent."""
        if not self.layers:
            return
        buffers = [noise for layer in self.layers for noise in (layer.noise_in, layer.noise_out)]
        sizes = [buffer.numel() for buffer in buffers]
        drawn = torch.randn(sum(sizes), generator=self.generator, device=buffers[0].device)
        torch._foreach_copy_(buffers, list((drawn.sign() * drawn.abs().sqrt()).split(sizes)))
