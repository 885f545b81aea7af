"""What decides how a module computes, short of its weights' values: to know again what was analysed before."""

from __future__ import annotations

from collections.abc import Hashable
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import nn

_SHAPED = (torch.Tensor, nn.Parameter)
Outline = tuple[Hashable, ...]
_OWN = frozenset(vars(nn.Module()))
_FUNCTIONS = (type, FunctionType, BuiltinFunctionType)
_PLAIN = (int, float, complex, str, bytes, type(None), torch.dtype, torch.device, *_FUNCTIONS)


def outline_of(part: nn.Module) -> tuple[Outline, bool]:
    """One module's class, parameters, hooks and plain attributes, and whether it has no attributes of another kind."""
    options = [(name, _plain(value)) for name, value in vars(part).items() if name not in _OWN]
    tensors = [
        (name, value if value is None else (value.shape if type(value) in _SHAPED else type(value), value.dtype))
        for held in (part._parameters, part._buffers)
        for name, value in held.items()
    ]
    hooks = tuple(len(held) for held in (part._forward_pre_hooks, part._forward_hooks))
    kind: Hashable = type(part)  # type: ignore[assignment]
    outline: Outline = (kind, getattr(type(part), "forward", None), hooks, tuple(tensors), *options)
    return outline, all(value is not type for _, value in options)


def outline_of_all(module: nn.Module) -> Outline:
    """The outlines of a module and its parts, with their names and with which of their parameters are shared."""
    first: dict[int, int] = {}
    shared = [first.setdefault(id(p), i) for i, (_, p) in enumerate(module.named_parameters(remove_duplicate=False))]
    return tuple((name, outline_of(part)[0]) for name, part in module.named_modules()) + tuple(shared)


def _plain(value: Any) -> Hashable:
    """The value if it can be compared, else the type `type`."""
    if isinstance(value, tuple | list):
        inner = tuple(map(_plain, value))
        return type if type in inner else inner
    return value if isinstance(value, _PLAIN) else type
