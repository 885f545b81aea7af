"""What a user's layer states about its parameters, for code that scales or re-initialises them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ParameterSpec:
    """States the roles of a layer's parameters, in the layer's attribute `parameter_spec`.

    Torch's own layers need none.

    coscaled: {own parameter: "weight" or "bias"}. The output is linear in the two together: c times both gives c times
        the output. `nap.Projection` keeps the norm of the pair, not of each. In eval mode the output must not depend on
        the own parameter. A linear layer with learned noise has {"weight_sigma": "weight", "bias_sigma": "bias"}.
    initial: {own parameter: the number that each of its entries starts at}, of every coscaled one. A method that
        re-initialises single units, or the layer, sets it again.
    draw: draw(layer, generator) returns fresh values of the layer's parameters, by name and in new tensors, as its
        constructor makes them. None: methods draw as torch's own layers do.
    Raises ValueError for a coscaled parameter without an initial value.
    """

    coscaled: Mapping[str, str] = field(default_factory=dict)
    initial: Mapping[str, float] = field(default_factory=dict)
    draw: Callable[[nn.Module, torch.Generator], dict[str, Tensor]] | None = None

    def __post_init__(self) -> None:
        for name in self.coscaled.keys() - self.initial.keys():
            raise ValueError(f"nap.graph.ParameterSpec: coscaled has {name!r}, whose initial value is not given")


def parameter_spec(layer: nn.Module) -> ParameterSpec:
    """The `ParameterSpec` of a layer; an empty one if the layer has none."""
    stated = getattr(layer, "parameter_spec", None)
    return stated if isinstance(stated, ParameterSpec) else ParameterSpec()


def coscaled_params(layer: nn.Module, name: str) -> list[str]:
    """The layer's parameters that its output is linear in together with the one of that name."""
    coscaled = parameter_spec(layer).coscaled
    return [own for own, of in coscaled.items() if of == name and layer._parameters.get(own) is not None]
