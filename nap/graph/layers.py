"""Which modules' outputs are the features of a model, and how such an output becomes a matrix of features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from nap.graph.kinds import ENCODER_LAYERS, Kind, module_kind, name_of
from nap.graph.norms import NormalizedActivation
from nap.graph.traces import trace
from nap.suggest import suggest

Layers = dict[str, tuple[nn.Module, int | None]]


def feature_layers(model: nn.Module, wanted: Iterable[str] | Mapping[str, int] | None = None) -> Layers:
    """The modules whose outputs are features, by name, each with the axis of its units where that is given.

    Wanted names may contain `*`. By default: every nonlinearity that is a module, except one that only bounds the
    model's output.
    Raises ValueError for a wanted name that matches no module. By default also if there is no nonlinearity, or if one
    is a function, whose output cannot be watched.
    """
    return _nonlinearities(model) if wanted is None else _matching(model, wanted)


def _nonlinearities(model: nn.Module) -> Layers:
    hidden = [(flow, node) for flow in trace(model).flows for node in flow.of(Kind.NONLINEAR)]
    functions = [name_of(node) for flow, node in hidden if node not in flow.modules and not flow.is_output_map(node)]
    functions += [
        part.activation.__name__
        for part in model.modules()
        if isinstance(part, ENCODER_LAYERS) and not isinstance(part.activation, nn.Module)
    ]
    left_out: list[object] = [flow.modules.get(node) for flow, node in hidden if flow.is_output_map(node)]
    left_out += [part.activation for part in model.modules() if isinstance(part, NormalizedActivation)]
    found: Layers = {
        name: (part, None)
        for name, part in model.named_modules()
        if (isinstance(part, NormalizedActivation) or is_nonlinearity(part)) and part not in left_out
    }
    if not found or functions:
        raise ValueError(_unseen(model, functions))
    return found


def is_nonlinearity(module: nn.Module) -> bool:
    """Whether a module is an elementwise nonlinearity of torch or of another library."""
    return module_kind(module) is Kind.NONLINEAR


def _matching(model: nn.Module, wanted: Iterable[str] | Mapping[str, int]) -> Layers:
    axes: Mapping[str, int | None] = wanted if isinstance(wanted, Mapping) else dict.fromkeys(wanted)
    modules = dict(model.named_modules())
    for pattern in axes:
        if not any(fnmatchcase(name, pattern) for name in modules):
            known = suggest(pattern, filter(None, modules))
            raise ValueError(f"nap.graph.feature_layers: layer {pattern!r} is not in {type(model).__name__}; {known}")
    return {name: (part, axes[p]) for p in axes for name, part in modules.items() if fnmatchcase(name, p)}


def as_units(x: Tensor, axis: int | None) -> Tensor:
    """[inputs and positions, units]: every unit over all inputs and positions, a view of `x` where possible."""
    return x.movedim(_unit_axis(x, axis), 0).flatten(1).T


def as_rows(x: Tensor, axis: int | None, most: int) -> Tensor:
    """[rows, features]: a row per input where positions follow the units (convolutions), else one per position.

    More than `most` rows are thinned evenly.
    """
    rows = x.flatten(0, -2) if _unit_axis(x, axis) == x.ndim - 1 else x.flatten(1)
    if len(rows) <= most:
        return rows
    return rows[torch.arange(most, device=x.device) * len(rows) // most]


def _unit_axis(x: Tensor, axis: int | None) -> int:
    if axis is None:
        return 1 if x.ndim > 3 else x.ndim - 1
    return axis % x.ndim


def _unseen(model: nn.Module, functions: list[str]) -> str:
    why = f"{functions[0]}() is called as a function" if functions else "no nonlinearity is a module"
    names = [name for name, _ in model.named_modules() if name]
    return (
        f"nap.graph.feature_layers: {why} in {type(model).__name__}, so that its output cannot be watched; "
        f"make it a module or choose layers= from {', '.join(names) or 'nothing: it has no named modules'}"
    )
