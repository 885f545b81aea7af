"""Heads: from features to action values, or to a value distribution for each action."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from agents.networks.layers import NoisyLinear, NoisyOutputLinear, OutputLinear

Linear = Callable[[int, int], nn.Linear]
Kinds = tuple[Linear, Linear]
"""Constructors of a hidden layer of given inputs and units, and of an output layer."""


class Head(nn.Module):
    """Features [B, features] -> action values [B, A], or with `size` numbers for each action [B, A, size].

    size: the atoms' logits of C51 or the quantiles of QR-DQN; None for scalar values.
    hidden: units of a hidden layer in front of the outputs, one for each stream; None for outputs straight from the
        features, as where Dopamine's streams share the layer before them.
    dueling: V + A - mean over actions of A, each with its stream (arXiv 1511.06581 eq. 9), for each atom or quantile.
    noisy: every layer is a `NoisyLinear` with `sigma0`.

    The last layers are `advantage.output` and `value.output`; without dueling `advantage` gives the values themselves.
    """

    def __init__(
        self,
        features: int,
        num_actions: int,
        *,
        size: int | None = None,
        hidden: int | None = None,
        dueling: bool = False,
        noisy: bool = False,
        sigma0: float = 0.5,
    ):
        super().__init__()
        self.num_actions, self.size = num_actions, size
        kinds: Kinds = nn.Linear, OutputLinear
        if noisy:
            kinds = partial(NoisyLinear, sigma0=sigma0), partial(NoisyOutputLinear, sigma0=sigma0)
        self.advantage = _stream(kinds, features, hidden, num_actions * (size or 1))
        self.value = _stream(kinds, features, hidden, size or 1) if dueling else None

    def forward(self, features: Tensor) -> Tensor:
        advantage = self.advantage(features).unflatten(-1, (self.num_actions, self.size or 1))
        if self.value is not None:
            advantage = self.value(features).unsqueeze(1) + advantage - advantage.mean(1, keepdim=True)
        return advantage.squeeze(-1) if self.size is None else advantage


def _stream(kinds: Kinds, features: int, hidden: int | None, outputs: int) -> nn.Sequential:
    linear, output = kinds
    if hidden is None:
        return nn.Sequential(OrderedDict(output=output(features, outputs)))
    layers = OrderedDict(hidden=linear(features, hidden), activation=nn.ReLU(), output=output(hidden, outputs))
    return nn.Sequential(layers)
