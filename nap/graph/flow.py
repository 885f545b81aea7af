"""What feeds what: the data flow of a module, traced by `torch.fx`, as normalisation and projection need to see it."""

from __future__ import annotations

import inspect
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from textwrap import shorten
from typing import Any

from torch import Tensor, fx, jit, nn

from nap.graph.foreign import Role, role
from nap.graph.kinds import (
    ARITHMETIC,
    BATCH_NORMS,
    FUNCTION_NAMES,
    MATMULS,
    NORMS,
    SQUASHING,
    Kind,
    function_kind,
    is_leaf,
    module_kind,
    name_of,
)
from nap.graph.weights import Conv

__all__ = ["NORMS", "UNNORMED", "Flow", "Trace", "has_norm", "reason", "trace", "units", "wrapped"]

PASSING = (Kind.SAME, Kind.RESHAPE)
UNNORMED = "feeds a nonlinearity without a norm"
_REASONS = {
    "add": "feeds a residual sum", "iadd": "feeds a residual sum",
    "sub": "feeds a sum", "mul": "feeds a product", "imul": "feeds a product", "cat": "feeds a concatenation",
    "matmul": "forms attention logits or values", "bmm": "forms attention logits or values",
    "softmax": "forms attention logits", "einsum": "forms attention logits or values",
    "scaled_dot_product_attention": "forms attention logits or values",
}  # fmt: skip


class Flow:
    """The data flow of a module, or of a part of one whose own flow is unknown.

    name: the part's name in the whole module, empty for the whole. given: arguments that default to None are traced as
    tensors instead. training: the mode to trace in.
    Raises an exception of any type when torch.fx cannot trace the module's `forward`.
    """

    def __init__(self, module: nn.Module, name: str = "", given: bool = False, training: bool = True) -> None:
        leaf = _Tracer().is_leaf_module(module, "")
        root = nn.Sequential(module) if leaf else module
        for part in module.modules():
            role(part)  # found now: it runs modules, which a running trace would record
        self.name, self.root = name, root
        self.nodes = list(_trace(root, given, training).nodes)
        self.modules = {node: root.get_submodule(str(node.target)) for node in self.nodes if node.op == "call_module"}

    def kind(self, node: fx.Node) -> Kind:
        if node.op == "call_module":
            return module_kind(self.modules[node])
        if node.op == "output":
            return Kind.OUTPUT
        return Kind.OTHER if node.op in ("placeholder", "get_attr") else function_kind(node)

    def of(self, kind: Kind) -> list[fx.Node]:
        """The nodes of one kind, in the order of the computation."""
        return [node for node in self.nodes if self.kind(node) is kind]

    def calls(self, module: nn.Module | None) -> list[fx.Node]:
        """The nodes that call a module."""
        return [node for node, called in self.modules.items() if called is module]

    def place(self, node: fx.Node) -> str:
        """Where a function is called: `relu() in Block.forward`, with the block's name."""
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        path, kind = stack[-1] if stack else ("", type(self.root))
        full = ".".join(part for part in (self.name, path) if part)
        return f"{name_of(node)}() in {kind.__name__}.forward" + (f" ({full})" if full else "")

    def ends(self, node: fx.Node) -> Iterator[fx.Node]:
        """What a node's values reach first, other than operations that pass their scale through."""
        for user in node.users:
            kind = self.kind(user)
            if kind in PASSING:
                yield from self.ends(user)
            elif kind is not Kind.SHAPE:
                yield user

    def source(self, node: fx.Node, through: tuple[Kind, ...]) -> fx.Node:
        """What a node's values come from, seen through operations of the given kinds."""
        while self.kind(node) in through and node.all_input_nodes:
            node = node.all_input_nodes[0]
        return node

    def normalized(self, node: fx.Node) -> bool:
        """Whether the values of a node come straight from a norm."""
        node = self.source(node, PASSING)
        return self.kind(node) is Kind.NORM or (self.kind(node) is Kind.LAYER and has_norm(self.modules[node]))

    def layout(self, node: fx.Node) -> tuple[int, int, Tensor] | None:
        """(features, spatial dimensions after them, a tensor of the device and dtype), or None where unknown."""
        kind = self.kind(node)
        if kind is Kind.LAYER:
            return _layer_layout(self.modules[node])
        if kind is Kind.BLOCK:
            norm = next(m for m in self.modules[node].modules() if isinstance(m, nn.LayerNorm))
            return norm.normalized_shape[0], 0, norm.weight
        if node.op == "call_function" and node.target is operator.getitem:
            source = node.args[0]
            attention = isinstance(source, fx.Node) and isinstance(self.modules.get(source), nn.MultiheadAttention)
            return self.layout(source) if attention and isinstance(source, fx.Node) else None
        kept = kind in (Kind.SAME, Kind.NORM, Kind.NONLINEAR, Kind.ELEMENTWISE) or name_of(node) in ARITHMETIC
        if not kept or name_of(node) == "glu" or isinstance(self.modules.get(node), nn.GLU):
            return None
        inputs = (self.layout(source) for source in node.all_input_nodes)
        return next((found for found in inputs if found is not None), None)

    def is_output_map(self, node: fx.Node) -> bool:
        """Whether a nonlinearity only bounds the module's output, as the tanh of a policy does."""
        return not self.name and self.squashes_last(node)

    def squashes_last(self, node: fx.Node) -> bool:
        """Whether a nonlinearity is of the kind that bounds outputs, and no layer or nonlinearity is behind it here."""
        module = self.modules.get(node)
        name = type(module).__name__ if module is not None else name_of(node)
        squashes = name.lower() in {squash.lower() for squash in SQUASHING} or self.kind(node) is Kind.ELEMENTWISE
        later = (Kind.LAYER, Kind.UNSEEN, Kind.BLOCK, Kind.NONLINEAR, Kind.NORM)
        return squashes and not any(self.kind(reached) in later for reached in _reached(node))

    def learned(self, node: fx.Node) -> bool:
        """Whether a node's values come from a layer."""
        return any(self.kind(before) in (Kind.LAYER, Kind.UNSEEN, Kind.BLOCK) for before in _reached(node, back=True))

    def parameter_uses(self) -> list[tuple[nn.Parameter, fx.Node]]:
        """The parameters that the traced code uses itself rather than by calling their module, with each use."""
        read = [(_attribute(self.root, str(node.target)), node) for node in self.nodes if node.op == "get_attr"]
        return [(value, use) for value, node in read if isinstance(value, nn.Parameter) for use in self.ends(node)]

    def output_parameters(self) -> set[int]:
        """The ids of the last weights: no norm, nonlinearity or later layer is between them and the module's output."""
        found: dict[fx.Node, set[int]] = {}
        direct = self.parameter_uses()
        pending = [source for node in self.of(Kind.OUTPUT) for source in node.all_input_nodes]
        visited: set[fx.Node] = set()
        while pending:
            node = pending.pop()
            kind = self.kind(node)
            bounded = kind in (Kind.NONLINEAR, Kind.ELEMENTWISE) and not self.is_output_map(node)
            if node in visited or bounded or kind in (Kind.NORM, Kind.BLOCK):
                continue
            visited.add(node)
            used = {id(value) for value, use in direct if use is node and value.ndim > 1}
            if kind is Kind.LAYER:
                if not has_norm(layer := self.modules[node]):
                    found[node] = _output_weight(layer)
            elif kind is Kind.UNSEEN or (used and name_of(node) in MATMULS):
                found[node] = used
            else:
                pending += node.all_input_nodes
        # A residual stream carries earlier layers to the output too; only the last of them is the output layer.
        return set().union(*(used for node, used in found.items() if not found.keys() & _reached(node)))


def has_norm(layer: nn.Module) -> bool:
    """Whether `normalize` attached a norm to the layer's own output."""
    return "norm" in layer._modules and module_kind(layer.get_submodule("norm")) is Kind.NORM


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


def trace(module: nn.Module) -> Trace:
    """The data flow of a module, of torch's wrappers around one too."""
    found = Trace()
    _collect(module, "", found)
    return found


def _collect(module: nn.Module, name: str, found: Trace) -> None:
    if (inner := wrapped(module)) is not None:
        key, module = inner
        return _collect(module, _join(name, key), found)
    title = name or type(module).__name__
    container = getattr(type(module), "forward", None) is nn.Module.forward
    try:
        found.flows += [] if container else _flows(module, name if not found.whole else "")
        if not container:
            return None
    except Exception as error:  # torch.fx runs the module's own code with stand-in values: anything may be raised
        found.untraced.append((title, _why_untraced(module, error)))
    if container and found.whole:
        found.untraced.append((title, "has no forward of its own: its parts are treated one by one"))
    found.whole = False
    for child_name, child in module.named_children():
        full, kind = _join(name, child_name), module_kind(child)
        if kind is Kind.NONLINEAR:
            found.untraced.append((full, f"an activation whose use in {title} cannot be traced: put a norm before it"))
        if kind in (Kind.NONLINEAR, Kind.LAYER):
            found.loose.add(child)
        elif kind in (Kind.OTHER, Kind.BLOCK):
            _collect(child, full, found)
    return None


def _flows(module: nn.Module, name: str) -> list[Flow]:
    """The flows without optional arguments and with all of them, in train and eval mode: those that can be traced."""
    found = [Flow(module, name)]
    givens, modes = (False, True)[: 1 + _has_options(module)], (True, False)[: 1 + _has_modes(module)]
    for given, training in list(product(givens, modes))[1:]:
        with suppress(Exception):  # as above
            found.append(Flow(module, name, given, training))
    return found


def wrapped(module: nn.Module) -> tuple[str, nn.Module] | None:
    """The module inside one of torch's wrappers (compiled, data parallel), with its name there."""
    if type(module).__module__.startswith("torch."):
        for name in ("_orig_mod", "module"):
            if module._modules.keys() == {name}:
                return name, module.get_submodule(name)
    return None


def _why_untraced(module: nn.Module, error: Exception) -> str:
    text = " ".join(str(error).split())
    if "control flow" in text:
        why = "branches on its input"
    elif "cannot be iterated" in text:
        why = "unpacks or iterates over its input"
    else:
        why = f"fails on stand-in values, {type(error).__name__}: {_first_sentence(text)}"
    called = sorted(_called_functions(module))
    functions = f"; it seems to call {', '.join(called)}, which got no norm" if called else ""
    return f"cannot be traced (its forward {why}), so its parts are treated one by one{functions}"


def _first_sentence(text: str) -> str:
    """The first sentence, whole unless it is very long: some of torch's messages are pages."""
    return shorten(re.split(r"(?<=[.!?]) ", text)[0].removesuffix("."), 300, placeholder=" ...")


def _called_functions(module: nn.Module) -> set[str]:
    """The names of activation functions in the code of a module's class, and among its attributes."""
    classes = [kind for kind in type(module).__mro__ if not kind.__module__.startswith("torch.nn.modules.module")]
    methods = [value for kind in classes for value in vars(kind).values() if inspect.isfunction(value)]
    named = {name.rstrip("_") for method in methods for name in _names_in(method)}
    held = {getattr(value, "__name__", "") for value in vars(module).values() if callable(value)}
    return (named - {name for name, _ in module.named_children()} | held) & FUNCTION_NAMES


def reason(flow: Flow, layer: fx.Node) -> str | None:
    """Why a layer's weight is not scale-invariant, from where its values go; None if all go straight into a norm."""
    if has_norm(flow.modules[layer]):
        return None
    reasons = [why for end in flow.ends(layer) if (why := _end_reason(flow, end))]
    return reasons[0] if reasons else None


def _end_reason(flow: Flow, end: fx.Node) -> str | None:
    kind, module = flow.kind(end), flow.modules.get(end)
    if kind is Kind.NORM:
        batch = isinstance(module, BATCH_NORMS) or name_of(end) == "batch_norm"
        return "feeds a BatchNorm, whose running statistics do not follow its scale in eval mode" if batch else None
    if kind is Kind.LAYER:
        attention = isinstance(module, nn.MultiheadAttention)
        return "forms attention logits or values" if attention else "feeds another layer with no norm between"
    fixed = {
        Kind.UNSEEN: "feeds another layer with no norm between",
        Kind.BLOCK: "feeds a residual sum",
        Kind.NONLINEAR: UNNORMED,
        Kind.OUTPUT: f"leaves {flow.name}, and what follows cannot be traced" if flow.name else "reaches the output",
    }
    name = name_of(end) if module is None else type(module).__name__
    return fixed.get(kind) or _REASONS.get(name, f"feeds {name}")


class _Tracer(fx.Tracer):
    given = False

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_leaf(m) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if (inner := wrapped(m)) is not None:
            return inner[1](*args, **kwargs)
        return super().call_module(m, lambda *a, **k: m._call_impl(*a, **k), args, kwargs)  # not what m.compile() made

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        # fx's own fails on decorated forwards. An argument with a default takes it, since a stand-in is never None; but
        # a first argument always stands for the input.
        parameters = _arguments(self.root)
        required = [self._stand_in(p.name) for p in parameters if p.default is p.empty and p.kind is not p.KEYWORD_ONLY]
        optional = [
            p for p in parameters if p.default is None and (self.given or (p is parameters[0] and not required))
        ]
        named = [p for p in parameters if p.default is p.empty and p.kind is p.KEYWORD_ONLY]
        by_name = {p.name: self._stand_in(p.name) for p in optional + named if p.kind is not p.POSITIONAL_ONLY}
        return lambda root: root_fn(root, *required, **by_name), [self.root]

    def _stand_in(self, name: str) -> fx.Proxy:
        return self.create_proxy("placeholder", name, (), {})


def _arguments(module: nn.Module) -> list[inspect.Parameter]:
    parameters = inspect.signature(module.forward).parameters.values()
    return [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _has_options(module: nn.Module) -> bool:
    return not is_leaf(module) and any(parameter.default is None for parameter in _arguments(module)[1:])


def _has_modes(module: nn.Module) -> bool:
    """Whether the code of a forward asks for the mode."""
    return any("training" in _names_in(type(part).forward) for part in module.modules() if not is_leaf(part))


def _names_in(method: Any) -> tuple[str, ...]:
    """The attributes and globals that a function's code names; none of what is not Python."""
    return getattr(getattr(inspect.unwrap(method), "__code__", None), "co_names", ())


def _trace(root: nn.Module, given: bool, training: bool) -> fx.Graph:
    # A forward that stores an intermediate value on its module would leave a stand-in there: the attributes are put
    # back, the mode too.
    if any(isinstance(module, jit.ScriptModule) for module in root.modules()):
        raise TypeError("TorchScript has no Python code to follow")
    attributes = [(module, dict(module.__dict__)) for module in root.modules()]
    tracer = _Tracer()
    tracer.given = given
    try:
        for module in root.modules():
            module.training = training
        return tracer.trace(root)
    finally:
        for module, saved in attributes:
            module.__dict__.clear()
            module.__dict__.update(saved)


def units(layer: nn.Module) -> int:
    """The number of output features of a layer."""
    layout = _layer_layout(layer)
    return layout[0] if layout is not None else 0


def _layer_layout(layer: nn.Module) -> tuple[int, int, Tensor] | None:
    if isinstance(layer, Conv):
        return layer.out_channels, len(layer.kernel_size), layer.weight
    if isinstance(layer, nn.MultiheadAttention):
        return layer.embed_dim, 0, layer.out_proj.weight
    weight = layer.weight
    assert isinstance(weight, Tensor)
    features_last = isinstance(layer, nn.Embedding) or role(layer) is Role.TRANSPOSED_LINEAR
    return weight.shape[1 if features_last else 0], 0, weight


def _output_weight(layer: nn.Module) -> set[int]:
    """The id of the layer's last weight; none if that is computed from others, as a parametrization does."""
    last = layer.out_proj if isinstance(layer, nn.MultiheadAttention) else layer
    weight = last._parameters.get("weight")
    return set() if weight is None else {id(weight)}


def _attribute(root: nn.Module, path: str) -> Any:
    owner, _, name = path.rpartition(".")
    return getattr(root.get_submodule(owner), name, None)


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _reached(node: fx.Node, back: bool = False) -> set[fx.Node]:
    """The nodes after a node in the flow, or before it."""
    found: set[fx.Node] = set()
    pending = [node]
    while pending:
        current = pending.pop()
        for other in current.all_input_nodes if back else current.users:
            if other not in found:
                found.add(other)
                pending.append(other)
    return found
