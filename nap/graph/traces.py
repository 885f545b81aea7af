"""The data flow of a whole model, or of the parts that can be traced, with the reasons for the others."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from textwrap import shorten
from typing import Any

from torch import nn

from nap.graph.copies import restored, scratch
from nap.graph.flow import Flow
from nap.graph.foreign import share_roles
from nap.graph.kinds import FUNCTION_NAMES, Kind, module_kind
from nap.graph.recorder import record
from nap.graph.tracer import as_root, follow, has_modes, has_options, names_in, wrapped

LARGE = 2**24
"""Models of more parameters are run without values where their code allows that: only shapes are needed."""


@dataclass
class Trace:
    """The data flow of a module; where it cannot be traced, those of its parts, and what was skipped."""

    flows: list[Flow] = field(default_factory=list)
    untraced: list[tuple[str, str]] = field(default_factory=list)
    """(name, reason) of each module whose forward cannot be traced, and of each activation that only it calls."""
    loose: set[nn.Module] = field(default_factory=set)
    """The layers and activations that an untraced forward may call."""
    whole: bool = True

    def calls(self) -> Counter[nn.Module]:
        """How often each module is called, as far as known; an untraced forward's calls are one."""
        parts: dict[str, Counter[nn.Module]] = {}
        for flow in self.flows:
            parts[flow.name] = parts.get(flow.name, Counter()) | Counter(flow.modules.values())
        return sum(parts.values(), Counter(self.loose))


def trace(module: nn.Module, example_inputs: Any = None) -> Trace:
    """The data flow of a module, of torch's wrappers around one too; the module stays as it is.

    example_inputs: what `nap.analyze` takes. The forward is run on them. Without them `torch.fx` traces it; where that
    fails, the forward is run on the inputs that the module itself offers as `dummy_inputs`, if it does.
    Raises ValueError if the forward fails on the given inputs.
    """
    if example_inputs is not None:
        return Trace(_runs(module, example_inputs))
    found = Trace()
    with scratch(module, "shared") as twin:
        share_roles(module, twin)
        _collect(module, twin, "", found)
    offered = getattr(_unwrapped(module), "dummy_inputs", None)
    if not found.whole and offered is not None:
        with suppress(Exception):  # the module's own code: anything may be raised
            inspect.signature(_unwrapped(module).forward).bind(**offered)
            return Trace(_runs(module, offered))
    return found


def _runs(module: nn.Module, example_inputs: Any) -> list[Flow]:
    """The flows of runs on each of the inputs in train and eval mode."""
    module = _unwrapped(module)
    several = example_inputs if isinstance(example_inputs, list) else [example_inputs]
    tensors = [*module.parameters(), *module.buffers()]
    on_meta = any(tensor.is_meta for tensor in tensors)
    if on_meta or sum(tensor.numel() for tensor in tensors) > LARGE:
        try:
            return _runs_on(module, several, "meta")
        except Exception:  # its code reads values
            if on_meta:
                raise
    return _runs_on(module, several, "copied")


def _runs_on(module: nn.Module, several: list[Any], tensors: str) -> list[Flow]:
    found: list[Flow] = []
    with scratch(module, tensors) as twin:
        share_roles(module, twin)
        for inputs in several:
            failed, modes = [], (True, False)[: 1 + has_modes(module)]
            for training in modes:
                try:
                    with restored(twin):
                        found.append(Flow(module, record(twin, inputs, training, tensors == "meta")))
                except Exception as error:  # as above
                    failed.append(error)
            if failed and (tensors == "meta" or len(failed) == len(modes)):
                said = f"{type(failed[0]).__name__}: {_first_sentence(_one_line(failed[0]))}"
                raise ValueError(f"nap: the forward of {type(module).__name__} fails on example_inputs, {said}")
    return found


def _unwrapped(module: nn.Module) -> nn.Module:
    while (inner := wrapped(module)) is not None:
        module = inner[1]
    return module


def _collect(module: nn.Module, twin: nn.Module, name: str, found: Trace) -> None:
    if (inner := wrapped(module)) is not None:
        key, module = inner
        return _collect(module, dict(twin.named_children())[key], _join(name, key), found)
    title = name or type(module).__name__
    container = getattr(type(module), "forward", None) is nn.Module.forward
    try:
        found.flows += [] if container else _flows(module, twin, name if not found.whole else "")
        if not container:
            return None
    except Exception as error:  # torch.fx runs the module's own code with stand-in values: anything may be raised
        found.untraced.append((title, _why_untraced(module, error)))
    if container and found.whole:
        found.untraced.append((title, "has no forward of its own: its parts are treated one by one"))
    found.whole = False
    twins = dict(twin.named_children())
    for child_name, child in module.named_children():
        full, kind = _join(name, child_name), module_kind(child)
        if kind is Kind.NONLINEAR:
            found.untraced.append((full, f"an activation whose use in {title} cannot be traced: put a norm before it"))
        if kind in (Kind.NONLINEAR, Kind.LAYER):
            found.loose.add(child)
        elif kind in (Kind.OTHER, Kind.BLOCK):
            _collect(child, twins[child_name], full, found)
    return None


def _flows(module: nn.Module, twin: nn.Module, name: str) -> list[Flow]:
    """The flows without optional arguments and with all of them, in train and eval mode: those that can be traced."""
    givens, modes = (False, True)[: 1 + has_options(module)], (True, False)[: 1 + has_modes(module)]
    found = [_flow(module, twin, name, False, True)]
    for given, training in list(product(givens, modes))[1:]:
        with suppress(Exception):  # as above
            found.append(_flow(module, twin, name, given, training))
    return found


def _flow(module: nn.Module, twin: nn.Module, name: str, given: bool, training: bool) -> Flow:
    root = as_root(twin)
    with restored(root):  # a stand-in that the forward stored would mislead the next trace
        graph = follow(root, given, training)
    return Flow(module, graph, name)


def _why_untraced(module: nn.Module, error: Exception) -> str:
    text = _one_line(error)
    if "control flow" in text:
        why = "branches on its input"
    elif "cannot be iterated" in text:
        why = "unpacks or iterates over its input"
    else:
        why = f"fails on stand-in values, {type(error).__name__}: {_first_sentence(text)}"
    called = sorted(_called_functions(module))
    functions = f"; it seems to call {', '.join(called)}, which got no norm" if called else ""
    return f"cannot be traced (its forward {why}), so its parts are treated one by one{functions}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _first_sentence(text: str) -> str:
    """The first sentence, whole unless it is very long: some of torch's messages are pages."""
    return shorten(re.split(r"(?<=[.!?]) ", text)[0].removesuffix("."), 300, placeholder=" ...")


def _called_functions(module: nn.Module) -> set[str]:
    """The names of activation functions in the code of a module's class, and among its attributes."""
    classes = [kind for kind in type(module).__mro__ if not kind.__module__.startswith("torch.nn.modules.module")]
    methods = [value for kind in classes for value in vars(kind).values() if inspect.isfunction(value)]
    named = {name.rstrip("_") for method in methods for name in names_in(method)}
    held = {getattr(value, "__name__", "") for value in vars(module).values() if callable(value)}
    return (named - {name for name, _ in module.named_children()} | held) & FUNCTION_NAMES


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
