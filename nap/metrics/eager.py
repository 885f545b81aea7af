"""Passes through a model without the code that torch.compile made of its parts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch
from torch import nn

_lock = Lock()
_inside: list[Any] = []
"""The stance that was set, once for each thread inside: the last one takes it back."""


@contextmanager
def eagerly(model: nn.Module) -> Iterator[None]:
    """Compiled parts of the model run eagerly inside: code that is compiled calls no hook, or is compiled again by it.

    torch's stance belongs to the whole process: meanwhile the compiled code of other threads runs eagerly too. So a
    model without compiled parts leaves it alone.
    """
    if not has_compiled_parts(model):
        yield
        return
    with _lock:
        _inside.append(_inside[0] if _inside else torch.compiler.set_stance("force_eager"))
    try:
        yield
    finally:
        with _lock:
            stance = _inside.pop()
            if not _inside:
                stance.__exit__(None, None, None)


def has_compiled_parts(model: nn.Module) -> bool:
    """Whether a module is compiled, or has a method or attribute that is."""
    if "torch._dynamo" not in sys.modules:
        return False
    return any(
        module._compiled_call_impl is not None
        or hasattr(module, "_orig_mod")
        or _has_compiled_method(type(module))
        or any(map(_is_compiled, vars(module).values()))
        for module in model.modules()
    )


def _has_compiled_method(kind: type[nn.Module]) -> bool:
    own = (base for base in kind.__mro__ if base not in nn.Module.__mro__)
    return any(_is_compiled(value) for base in own for value in vars(base).values())


def _is_compiled(value: object) -> bool:
    return callable(value) and hasattr(value, "_torchdynamo_orig_callable")
