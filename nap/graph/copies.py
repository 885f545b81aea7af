"""Running a module's code without changing the module: on a copy, with the global generators put back."""

from __future__ import annotations

import copy
import random
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from nap.generators import generators_kept

_OPAQUE = (type, ModuleType, FunctionType, BuiltinFunctionType)


@contextmanager
def scratch(module: nn.Module, tensors: str) -> Iterator[nn.Module]:
    """A copy of a module to run, the module itself where it cannot be copied; then it is put back.

    tensors: "copied"; "meta", without values, which costs neither memory nor time; or "shared" parameters, for code
        that only stand-in values pass through.
    The generators of Python, numpy and torch are put back in any case.
    """
    with _generators_kept():
        try:
            twin = _copy(module, tensors)
        except Exception:  # locks, handles of other processes and the like
            if tensors == "meta":
                raise
            twin = module
        if twin is not module:
            yield twin
            return
        with restored(module, tensors=True):
            yield module


def _copy(module: nn.Module, tensors: str) -> nn.Module:
    memo: dict[int, Any] = {}
    for value in _reachable(module)[1]:
        if tensors == "meta":
            memo[id(value)] = _without_values(value)
        elif tensors == "shared" and isinstance(value, nn.Parameter):
            memo[id(value)] = value
        elif not value.is_leaf:  # a computed weight; deepcopy refuses it
            memo[id(value)] = value.detach().clone()
    return copy.deepcopy(module, memo)


def _without_values(value: Tensor) -> Tensor:
    empty = torch.empty_like(value, device="meta")
    return nn.Parameter(empty, value.requires_grad) if isinstance(value, nn.Parameter) else empty


@contextmanager
def restored(module: nn.Module, tensors: bool = False) -> Iterator[None]:
    """Puts back the attributes of a module and of its parts afterwards, also what lists, dicts and objects hold.

    tensors: put back the values of parameters and buffers too.
    """
    holders, values = _reachable(module)
    saved = [(holder, holder.copy()) for holder in holders]
    kept = [(value, value.detach().clone()) for value in values if not value.is_meta] if tensors else []
    try:
        yield
    finally:
        for holder, before in saved:
            _refill(holder, before)
        with torch.no_grad():
            for value, before in kept:
                if not torch.equal(value, before):  # batch norms write without a new version
                    value.copy_(before)


def _reachable(module: nn.Module) -> tuple[list[Any], list[Tensor]]:
    """The containers and the tensors that a module holds, directly or in other containers and objects."""
    holders: dict[int, Any] = {}
    tensors: dict[int, Tensor] = {}
    pending: list[Any] = [module]
    while pending:
        value = pending.pop()
        if isinstance(value, Tensor):
            tensors[id(value)] = value
        elif isinstance(value, tuple | frozenset):
            pending += value
        elif isinstance(value, dict | list | set | deque):
            if value and id(value) not in holders:
                pending += value.values() if isinstance(value, dict) else value
            holders[id(value)] = value
        elif isinstance(value, MethodType):
            pending.append(value.__self__)
        elif not isinstance(value, _OPAQUE) and isinstance(own := getattr(value, "__dict__", None), dict):
            pending.append(own)
    return list(holders.values()), list(tensors.values())


def _refill(holder: Any, before: Any) -> None:
    """Gives a container its former content, if that is another."""
    if isinstance(holder, dict):
        same = list(holder) == list(before) and all(holder[key] is before[key] for key in before)
    else:
        same = len(holder) == len(before) and all(a is b for a, b in zip(holder, before, strict=True))
    if not same:
        holder.clear()
        (holder.extend if isinstance(holder, list | deque) else holder.update)(before)


@contextmanager
def _generators_kept() -> Iterator[None]:
    state, numpy = random.getstate(), sys.modules.get("numpy")
    numpys = numpy.random.get_state() if numpy else None
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with generators_kept(devices):
            yield
    finally:
        random.setstate(state)
        if numpy:
            numpy.random.set_state(numpys)
