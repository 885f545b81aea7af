"""The layers that a method works on: those with hidden units, those that the user names, and their fresh values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from experiment.values import suggest
from nap.graph import HiddenLayer, UnitLayer, hidden_units, norm_layers, parameter_spec
from plasticity.method import make_generator, moments


def hidden_layers(network: nn.Module, method: str = "plasticity") -> list[HiddenLayer]:
    """The hidden layers whose units can be mapped to parameters; ValueError, with the reasons, if there is none."""
    found = hidden_units(network)
    if not found.layers:
        why = "; ".join(f"{name} {reason}" for name, reason in found.left_out.items()) or "it has no nonlinearity"
        raise ValueError(f"{method}: no hidden layer of {type(network).__name__} can be worked on: {why}")
    return found.layers


def unit_moments(layer: HiddenLayer, optimizer: Optimizer) -> Iterator[Tensor]:
    """The optimiser's state of all parameters of a layer's units, by unit, to be written in place."""
    for slot in layer.slots:
        yield from (slot.by_unit(moment) for moment in moments(optimizer, slot.parameter))


def draw_layer(layer: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """Fresh values of a layer's own parameters, as its constructor draws them: new tensors of the same layout.

    Linear layers and convolutions: uniform within ±1/√fan_in, torch's default (Kaiming with a = √5). Norms: scale 1,
    offset 0. Embeddings: normal, padding 0. What the layer's `ParameterSpec` states comes first.
    Raises ValueError for a module of another kind.
    """
    spec = parameter_spec(layer)
    if spec.draw is not None:
        return spec.draw(layer, generator)
    own = {name: p.detach() for name, p in layer._parameters.items() if p is not None}
    if isinstance(layer, UnitLayer | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        bound = 1 / math.sqrt(layer.weight[0].numel())
        return {
            name: torch.full_like(p, spec.initial[name])
            if name in spec.initial
            else torch.empty_like(p).uniform_(-bound, bound, generator=generator)
            for name, p in own.items()
        }
    if isinstance(layer, nn.Embedding):
        fresh = {name: torch.empty_like(p).normal_(generator=generator) for name, p in own.items()}
        if layer.padding_idx is not None:
            fresh["weight"][layer.padding_idx] = 0
        return fresh
    if layer in norm_layers(layer):
        return {name: torch.full_like(p, float(name == "weight")) for name, p in own.items()}
    raise ValueError(f"it is not known how a {type(layer).__name__} draws its initial {', '.join(own)}")


def draw_network(network: nn.Module, layers: Sequence[str], generator: torch.Generator) -> dict[str, Tensor]:
    """Fresh values of the parameters of the named modules, by parameter name."""
    drawn = {name: draw_layer(network.get_submodule(name), generator) for name in layers}
    return {f"{name}.{key}" if name else key: value for name, own in drawn.items() for key, value in own.items()}


def choose_drawn(network: nn.Module, wanted: Sequence[str], method: str) -> list[str]:
    """`choose_layers` for a method that re-initialises them: ValueError at once for one that cannot be drawn."""
    chosen = choose_layers(network, wanted, method)
    try:
        draw_network(network, chosen, make_generator(network, 0))
    except ValueError as error:
        raise ValueError(f"{method}: {error}") from None
    return chosen


def choose_layers(network: nn.Module, wanted: Sequence[str], method: str = "plasticity") -> list[str]:
    """The names of the modules with parameters of their own that are wanted, in the network's order.

    A wanted name is "output" (the output layers), "all", or a module's name, with `*` as a wildcard. A module includes
    its parts. Raises ValueError for a name that matches nothing, with the closest match.
    """
    known = [name for name, part in network.named_modules() if any(p is not None for p in part._parameters.values())]
    outputs = list(hidden_units(network).outputs) if "output" in wanted else []
    chosen: set[str] = set()
    for name in wanted:
        patterns = {"output": outputs, "all": ["*"]}.get(name, [name, f"{name}.*"])
        matching = {layer for layer in known if any(fnmatchcase(layer, pattern) for pattern in patterns)}
        if not matching:
            hint = suggest(name, known, list_all=True)
            raise ValueError(f"{method}: layers={name!r} is no layer of {type(network).__name__}{hint}")
        chosen |= matching
    return [name for name in known if name in chosen]
