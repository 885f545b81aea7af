"""Concatenated ReLU (Shang et al. 2016; against loss of plasticity, Abbas et al. 2023)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nap.graph import NormalizedActivation, UnitLayer, hidden_units, parameter_spec
from plasticity.layers import draw_layer
from plasticity.method import SEED, Method, check_whole, make_generator


class ConcatenatedReLU(nn.Module):
    """[relu(x), relu(−x)] along the units' axis `dim`: [B, n, ...] -> [B, 2n, ...].

    The two halves are modules, so that code that traces a network sees each as a nonlinearity.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim
        self.positive: nn.Module = nn.ReLU()
        self.negative: nn.Module = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.positive(x), self.negative(-x)], self.dim)


class CReLU(Method):
    """Concatenated relu(x) and relu(-x).

    `prepare` replaces each ReLU between two layers and doubles the inputs of the layer that reads it, which is
    re-initialised (uniform Kaiming, torch's default, for its new fan-in). Widths stay, so that most weights double in
    number, unless `halve` halves the layer before each ReLU and leaves the reader as it is.

    A norm comes before the concatenation. If NaP comes after this method, as the command line orders them, each half
    has its own norm, norm(x) and norm(−x): equal at first, then each with its own scale and offset. If NaP comes
    before, both halves share one norm.
    Source: arXiv 2303.07507, Rainbow on Atari; the paper does not seem to state the widths of its layers.
    """

    def __init__(self, halve: bool = False, seed: int = SEED):
        self.halve, self.seed = halve, check_whole("crelu: seed", seed)

    def prepare(self, network: nn.Module) -> None:
        """Change the structure; ValueError, with the reason, if some ReLU of the network cannot be replaced."""
        found, generator = hidden_units(network), make_generator(network, self.seed)
        for name, reason in found.left_out.items():
            raise ValueError(f"crelu: {name} of {type(network).__name__} cannot be replaced: it {reason}")
        if frozen := [name for name, parameter in network.named_parameters() if not parameter.requires_grad]:
            raise ValueError(f"crelu: {frozen[0]} is frozen; give crelu before the method that freezes it")
        for layer in found.layers:
            convolution = not isinstance(layer.incoming, nn.Linear)
            self._replace(network, layer.name, ConcatenatedReLU(1 if convolution else -1))
            if self.halve:
                self._check_halving(layer.name, layer.units, layer.norm)
                _resize(layer.incoming, 0, layer.units // 2, generator)
            else:
                for reader in layer.outgoing:
                    _resize(reader, 1, 2 * reader.weight.shape[1], generator)

    @staticmethod
    def _replace(network: nn.Module, name: str, crelu: ConcatenatedReLU) -> None:
        part = network.get_submodule(name)
        activation = part.activation if isinstance(part, NormalizedActivation) else part
        if not isinstance(activation, nn.ReLU):
            raise ValueError(f"crelu: {name} is a {type(activation).__name__}, and only ReLU can be concatenated")
        if isinstance(part, NormalizedActivation):
            part.activation = crelu
        else:
            network.set_submodule(name, crelu)

    @staticmethod
    def _check_halving(name: str, units: int, norm: nn.Module | None) -> None:
        if units % 2 or norm is not None:
            why = f"its {units} units are odd" if units % 2 else "it has a norm already: give crelu before nap"
            raise ValueError(f"crelu: {name} cannot be halved: {why}")


def _resize(layer: UnitLayer, axis: int, size: int, generator: torch.Generator) -> None:
    """Gives a layer another number of outputs (axis 0) or inputs (1), and re-initialises it."""
    if parameter_spec(layer).coscaled:
        raise ValueError(
            f"crelu: a {type(layer).__name__} cannot be resized: its noise is of the old size; use no noise"
        )
    names = ("out_features", "in_features") if isinstance(layer, nn.Linear) else ("out_channels", "in_channels")
    setattr(layer, names[axis], size)
    shape = list(layer.weight.shape)
    shape[axis] = size
    layer.weight = nn.Parameter(layer.weight.new_empty(shape))
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias.new_empty(shape[0]))
    for name, value in draw_layer(layer, generator).items():
        getattr(layer, name).data.copy_(value)
