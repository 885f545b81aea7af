"""Which weight matrices a projection has: by name, by module or by predicate, whole or in equal parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from torch import nn

from nap.graph.weights import Weight, find_weights
from nap.suggest import suggest

Selection = Iterable[str] | Callable[[str, nn.Parameter], bool] | None


def choose(module: nn.Module, left_out: set[str], include: Selection, exclude: Selection) -> dict[str, Weight]:
    found = find_weights(module, free=True)
    whole = {
        id(p) for weight in found.values() if weight.rows is None for p in (weight.parameter, *weight.coscaled_params)
    }
    parts = {id(weight.parameter) for weight in found.values()} - whole
    owners = {id(p): m for m in module.modules() for p in m.parameters(recurse=False)}
    others = {
        name: Weight(name, owners[id(parameter)], parameter)
        for name, parameter in module.named_parameters()
        if parameter.ndim >= 2 and id(parameter) not in whole | parts
    }
    known = found | others
    added, removed = _matcher(include, known, "include"), _matcher(exclude, known, "exclude")
    return {
        name: weight
        for name, weight in known.items()
        if ((name in found and name not in left_out) or added(weight)) and not removed(weight)
    }


def split_weights(weights: list[Weight], parts: Mapping[str, int]) -> list[Weight]:
    known = {weight.name: weight for weight in weights}
    counts = [(_matcher(name, known, "split"), count) for name, count in parts.items()]
    found = [(weight, next((count for asked, count in counts if asked(weight)), None)) for weight in weights]
    return [part for weight, count in found for part in ([weight] if count is None else weight.split(count))]


def _matcher(selection: Selection, known: dict[str, Weight], option: str) -> Callable[[Weight], bool]:
    if selection is None:
        return lambda weight: False
    if callable(selection):
        return lambda weight: bool(selection(weight.name, weight.parameter))
    names = [selection] if isinstance(selection, str) else list(selection)

    def matches(weight_name: str, name: str) -> bool:
        return weight_name == name or weight_name.startswith((name + ".", name + "["))

    for name in names:
        if not any(matches(weight_name, name) for weight_name in known):
            raise ValueError(f"nap.Projection: {option} has {name!r}, which is no weight; {suggest(name, known)}")
    return lambda weight: any(matches(weight.name, name) for name in names)
