"""Finds out, in words for a user, when a projection would miss the parameters that are trained."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import replace
from operator import is_
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from nap.graph.norms import norm_layers
from nap.graph.parameters import coscaled_params
from nap.graph.weights import Weight


class Identity:
    """Whether a module still has the parameters that it had when this object was made; asks in microseconds."""

    def __init__(self, module: nn.Module, watched: set[int]) -> None:
        """watched: the ids of the parameters."""
        self._module = module
        self._names = {id(p): name for name, p in module.named_parameters() if id(p) in watched}
        self._tables: list[dict[str, Any]]
        self._keys: list[str]
        self._values: list[Any]
        self._count = self._follow()

    def missing(self) -> list[str]:
        """The names of the parameters that are no longer where they were, under their own last name."""
        if all(map(is_, map(dict.get, self._tables, self._keys), self._values)):
            return []
        old = self._tables, self._keys, self._values
        count = self._follow()  # a wrapper around a layer moves its parameters, and keeps them
        gone = [self._names[known] for (known, key), times in self._count.items() if count[known, key] < times]
        if gone:  # the next call is to find it again
            self._tables, self._keys, self._values = old
        return gone

    def _follow(self) -> Counter[tuple[int, str]]:
        """Remembers each entry of a module's table on the way from the root to a watched parameter."""
        modules = dict(self._module.named_modules())
        entries: dict[tuple[int, str], tuple[dict[str, Any], Any]] = {}
        count: Counter[tuple[int, str]] = Counter()
        for path, owner in modules.items():
            own = {key: value for key, value in owner._parameters.items() if id(value) in self._names}
            entries |= {(id(owner._parameters), key): (owner._parameters, value) for key, value in own.items()}
            count.update((id(value), key) for key, value in own.items())
            while own and path:
                parent, _, key = path.rpartition(".")
                entries[id(modules[parent]._modules), key] = modules[parent]._modules, modules[path]
                path = parent
        self._tables, self._values = [table for table, _ in entries.values()], [value for _, value in entries.values()]
        self._keys = [key for _, key in entries]
        return count


def warn_of_strangers(module: nn.Module, projected: set[int], held: set[int]) -> None:
    """Warns of trained parameters, projected ones and those of the norms, that no attached optimiser holds."""
    norms = {id(parameter) for norm in norm_layers(module) for parameter in norm.parameters(recurse=False)}
    watched = (projected | norms) - held
    strangers = [name for name, p in module.named_parameters() if id(p) in watched and p.requires_grad]
    if strangers:
        warnings.warn(
            f"nap.Projection: no attached optimiser holds {_listed(strangers)}: build the optimiser after "
            "nap.normalize; if there are several, attach all: projection.attach(first, second)",
            stacklevel=5,
        )


def warn_of_a_new_count(optimizer: Any, held: set[int]) -> None:
    """Warns if the optimiser has updated a parameter before, as after a resume without the projection's state."""
    for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
        state = optimizer.state.get(parameter, {}) if id(parameter) in held else {}
        if state and float(state.get("step", 1)) > 0:
            warnings.warn(
                "nap.Projection: the optimiser has made updates and this projection none, so it keeps the norms of the "
                "weights as they were when it was made; after a resume call projection.load_state_dict(saved state)",
                stacklevel=5,
            )
            return


def warn_of_almost_zero(names: list[str]) -> None:
    """Warns of matrices that are left alone, since projection would keep them at almost zero for ever."""
    if names:
        warnings.warn(
            f"nap.Projection: {_listed(names)} has outputs whose weights are almost zero. They are not projected, or "
            "they would stay there: initialise them larger, or load the state of the projection that they had",
            stacklevel=4,
        )


def bare(module: nn.Module) -> nn.Module:
    """The module inside the wrappers of torch."""
    while isinstance(module, (AveragedModel, nn.DataParallel, DistributedDataParallel)) or hasattr(module, "_orig_mod"):
        module = module._orig_mod if hasattr(module, "_orig_mod") else module.module  # type: ignore[assignment]
    return module


def counterpart(weight: Weight, module: nn.Module, other: nn.Module) -> Weight:
    """The weight of the same name in another module; ValueError if there is none of its shape."""
    paths = {id(part): path for path, part in bare(module).named_modules()}
    parts = dict(bare(other).named_modules())
    owners: list[Any] = [parts.get(paths[id(owner)]) for owner in (weight.owners or [weight.owner])]
    key = weight.name.partition("[")[0].rpartition(".")[2]
    found: list[Any] = [
        owners[0]._parameters.get(name) if owners[0] else None for name in (key, *coscaled_params(weight.owner, key))
    ]
    for parameter, new in zip([weight.parameter, *weight.coscaled_params], found, strict=True):
        if new is None or new.shape != parameter.shape:
            raise ValueError(
                f"nap.Projection: the module has no {weight.name} of shape {tuple(parameter.shape)}: for_module takes "
                "a copy or an average of the projected module, without a parametrization or pruning of its own"
            )
    return replace(weight, owner=owners[0], owners=owners, parameter=found[0], coscaled_params=found[1:])


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
