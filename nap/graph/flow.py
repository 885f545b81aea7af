"""The data flow of a module, traced by `torch.fx`: which operation feeds which, for normalisation and projection."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from nap.graph.foreign import Role, role
from nap.graph.kinds import ARITHMETIC, MATMULS, SQUASHING, Kind, function_kind, module_kind, name_of
from nap.graph.tracer import follow, is_followed
from nap.graph.weights import Conv

PASSING = (Kind.SAME, Kind.RESHAPE)


class Flow:
    """The data flow of a module, or of a part of one whose own flow is unknown.

    name: the part's name in the whole module, empty for the whole. given: arguments that default to None are traced as
    tensors instead. training: the mode to trace in.
    Raises an exception of any type when torch.fx cannot trace the module's `forward`.
    """

    def __init__(self, module: nn.Module, name: str = "", given: bool = False, training: bool = True) -> None:
        root = module if is_followed(module) else nn.Sequential(module)
        for part in module.modules():
            role(part)  # found now: it runs modules, which a running trace would record
        self.name, self.root = name, root
        self.nodes = list(follow(root, given, training).nodes)
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
        """The first users of a node's values, seen through operations that pass the scale on."""
        for user in node.users:
            kind = self.kind(user)
            if kind in PASSING:
                yield from self.ends(user)
            elif kind is not Kind.SHAPE:
                yield user

    def source(self, node: fx.Node, through: tuple[Kind, ...]) -> fx.Node:
        """The origin of a node's values, seen through operations of the given kinds."""
        while self.kind(node) in through and node.all_input_nodes:
            node = node.all_input_nodes[0]
        return node

    def normalized(self, node: fx.Node) -> bool:
        """Whether the values of a node come straight from a norm."""
        return self.kind(self.source(node, PASSING)) is Kind.NORM

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
        found = next((found for found in inputs if found is not None), None)
        return None if found is None else self._pooled(node, *found)

    def _pooled(self, node: fx.Node, width: int, space: int, like: Tensor) -> tuple[int, int, Tensor] | None:
        """The layout behind a node, which may pool features too where it pools more dimensions than are spatial."""
        module = self.modules.get(node)
        match = re.search(r"pool(\d)d$", (name_of(node) if module is None else type(module).__name__).lower())
        if match is None or (dims := int(match[1])) <= space:
            return width, space, like
        if len(node.all_input_nodes) > 1 or node.args[:1] != (node.all_input_nodes[0],):
            return None
        pool: Any = node.target if module is None else module
        shape = [1] + [64] * (dims - 1 - space) + [width] + [64] * space
        return pool(torch.zeros(shape), *node.args[1:], **node.kwargs).shape[-1 - space], space, like

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
                found[node] = _output_weight(self.modules[node])
            elif kind is Kind.UNSEEN or (used and name_of(node) in MATMULS):
                found[node] = used
            else:
                pending += node.all_input_nodes
        # A residual stream carries earlier layers to the output too; only the last of them is the output layer.
        return set().union(*(used for node, used in found.items() if not found.keys() & _reached(node)))


def width(layer: nn.Module) -> int:
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
