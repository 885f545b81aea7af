"""The data flow of a module: which operation feeds which, for normalisation and projection."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from nap.graph.axes import layer_layout, moved_axis, read_layout
from nap.graph.kinds import (
    ARITHMETIC,
    DIVISIONS,
    FIRST_COUNTS,
    MATMULS,
    PARTS,
    SCATTERS,
    SQUASHING,
    Kind,
    function_kind,
    module_kind,
    name_of,
)
from nap.graph.tracer import as_root

PASSING = (Kind.SAME, Kind.RESHAPE)
_SPACES = {"linear": 0, "embedding": 0, "conv1d": 1, "conv2d": 2, "conv3d": 3}


class Flow:
    """The data flow of a module, or of a part of one whose own flow is unknown.

    graph: the operations of the module's forward, traced or run; its names are those of `as_root(module)`.
    name: the part's name in the whole module, empty for the whole.
    """

    def __init__(self, module: nn.Module, graph: fx.Graph, name: str = "") -> None:
        self.name, self.module, self.root, self.nodes = name, module, as_root(module), list(graph.nodes)
        parts = dict(self.root.named_modules(remove_duplicate=False))
        self.modules: dict[fx.Node, nn.Module] = {
            node: parts[str(node.target)] for node in self.nodes if node.op == "call_module"
        }
        self.parameters: dict[fx.Node, frozenset[nn.Parameter]] = {}
        """The parameters that a node's values are computed from, if from nothing else."""
        self.learned: set[fx.Node] = set()
        """The nodes whose values come from layers."""
        self._kinds: dict[fx.Node, Kind] = {}
        self._layouts: dict[fx.Node, tuple[int, int, Tensor] | None] = {}
        for node in self.nodes:
            self._kinds[node] = self._kind(node)
            self._note(node)

    def kind(self, node: fx.Node) -> Kind:
        return self._kinds[node]

    def _kind(self, node: fx.Node) -> Kind:
        if node.op == "call_module":
            own = vars(module := self.modules[node]).get("forward")  # functools.wraps claims to do what the class does
            return module_kind(module) if own is None or hasattr(own, "__wrapped__") else Kind.OTHER
        if node.op == "output":
            return Kind.OUTPUT
        if node.op in ("placeholder", "get_attr"):
            return Kind.OTHER
        sources = node.all_input_nodes
        if sources and all(self._kinds[source] is Kind.SHAPE for source in sources):
            return Kind.SHAPE
        kind = function_kind(node)
        if kind is Kind.NORM and any(factor in self.learned for factor in factors_of(node)[1:]):
            return Kind.OTHER  # a scale that layers compute
        if name_of(node) == "lerp" and any(factor in self.learned for factor in factors_of(node)[2:]):
            return Kind.PRODUCT  # by a computed share
        return self._product(node) if kind is Kind.PRODUCT else kind

    def _product(self, node: fx.Node) -> Kind:
        """The kind of a product: a layer if one factor is a weight; linear if only one factor is learned."""
        factors = factors_of(node)
        weights = [factor for factor in factors if any(value.ndim > 1 for value in self.parameters.get(factor, ()))]
        if name_of(node) in MATMULS and weights and any(factor not in self.parameters for factor in factors):
            return Kind.UNSEEN
        if name_of(node) in DIVISIONS and any(factor in self.learned for factor in factors[1:]):
            return Kind.ELEMENTWISE
        if name_of(node) in DIVISIONS and not isinstance(node.args[0], fx.Node) and factors[0] in self.learned:
            return Kind.ELEMENTWISE
        return Kind.PRODUCT if sum(factor in self.learned for factor in factors) > 1 else Kind.LINEAR

    def _note(self, node: fx.Node) -> None:
        """Notes what a node's values are computed from: layers, or parameters and constants alone."""
        if self._kinds[node] is Kind.SHAPE:
            return
        sources = [source for source in node.all_input_nodes if self._kinds[source] is not Kind.SHAPE]
        if name_of(node) in FIRST_COUNTS:
            sources = sources[:1]
        if node.op == "get_attr":
            value = _attribute(self.root, str(node.target))
            self.parameters[node] = frozenset([value] if isinstance(value, nn.Parameter) else [])
        elif any(source in self.learned for source in sources) or self._learns(node):
            self.learned.add(node)
        elif node.op != "placeholder" and all(source in self.parameters for source in sources):
            self.parameters[node] = frozenset().union(*(self.parameters[source] for source in sources))

    def _learns(self, node: fx.Node) -> bool:
        unknown = self.modules.get(node) if self._kinds[node] is Kind.OTHER else None
        held = unknown is not None and next(unknown.parameters(), None) is not None
        return held or self._kinds[node] in (Kind.LAYER, Kind.UNSEEN, Kind.BLOCK)

    def of(self, kind: Kind) -> list[fx.Node]:
        """The nodes of one kind, in the order of the computation."""
        return [node for node in self.nodes if self.kind(node) is kind]

    def calls(self, module: nn.Module | None) -> list[fx.Node]:
        """The nodes that call a module."""
        return [node for node, called in self.modules.items() if called is module]

    def place(self, node: fx.Node) -> str:
        """Where an operation is: a module's name, or `relu() in Block.forward`, with the block's name."""
        if node in self.modules:
            path = str(node.target) if self.root is self.module else str(node.target).partition(".")[2]
            return ".".join(filter(None, (self.name, path))) or type(self.module).__name__
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

    def name_of(self, node: fx.Node) -> str:
        """The plain name of an operation, of a module too: `softmax` for the function and for nn.Softmax."""
        return type(self.modules[node]).__name__.lower() if node in self.modules else name_of(node)

    def normalized(self, node: fx.Node) -> bool:
        """Whether the values of a node come straight from a norm."""
        return self.kind(self.source(node, PASSING)) is Kind.NORM

    def layout(self, node: fx.Node) -> tuple[int, int, Tensor] | None:
        """(features, spatial dimensions after them, a tensor of the device and dtype), or None where unknown."""
        if node not in self._layouts:
            found, shape = self._layout(node), node.meta.get("shape")
            if found is not None and shape is not None:
                features, space, _ = found
                found = found if len(shape) > space and shape[-1 - space] == features else None
            self._layouts[node] = found
        return self._layouts[node]

    def _layout(self, node: fx.Node) -> tuple[int, int, Tensor] | None:
        kind = self.kind(node)
        if kind is Kind.LAYER:
            return layer_layout(self.modules[node])
        if kind is Kind.UNSEEN:
            return self._function_layout(node)
        if kind is Kind.BLOCK:
            norm = next(m for m in self.modules[node].modules() if isinstance(m, nn.LayerNorm))
            return norm.normalized_shape[0], 0, norm.weight
        if node.op == "call_function" and node.target is operator.getitem:
            return self._part_layout(node) or self._moved_layout(node)
        kept = kind in (Kind.SAME, Kind.NORM, Kind.NONLINEAR, Kind.ELEMENTWISE) or name_of(node) in ARITHMETIC
        kept = kept or (name_of(node) in SCATTERS and "shape" in node.meta)  # message passing
        if not kept or self.name_of(node) == "glu":
            return self._moved_layout(node) if kind is Kind.RESHAPE else None
        inputs = (self.layout(source) for source in node.all_input_nodes)
        found = next((found for found in inputs if found is not None), None)
        return None if found is None else self._pooled(node, *found)

    def _pooled(self, node: fx.Node, width: int, space: int, like: Tensor) -> tuple[int, int, Tensor] | None:
        """The layout behind a node, which may pool features too where it pools more dimensions than are spatial."""
        match = re.search(r"pool(\d)d$", self.name_of(node))
        if match is None or (dims := int(match[1])) <= space:
            return width, space, like
        if len(node.all_input_nodes) > 1 or node.args[:1] != (node.all_input_nodes[0],):
            return None
        pool: Any = self.modules.get(node, node.target)
        shape = [1] + [64] * (dims - 1 - space) + [width] + [64] * space
        return pool(torch.zeros(shape), *node.args[1:], **node.kwargs).shape[-1 - space], space, like

    def _part_layout(self, node: fx.Node) -> tuple[int, int, Tensor] | None:
        """The layout of one result of several: attention's output, or a part of a linear layer's features."""
        source = node.args[0]
        if not isinstance(source, fx.Node):
            return None
        if isinstance(self.modules.get(source), nn.MultiheadAttention):
            return self.layout(source) if node.args[1] == 0 else None
        if name_of(source) not in PARTS:
            return None
        features = source.all_input_nodes[0]
        found, whole, part = self.layout(features), features.meta.get("shape"), node.meta.get("shape")
        if found is None or not whole or not part or len(whole) != len(part):
            return None
        axis = len(whole) - 1 - found[1]
        same = whole[:axis] == part[:axis] and whole[axis + 1 :] == part[axis + 1 :]
        return (part[axis], found[1], found[2]) if same else None

    def _moved_layout(self, node: fx.Node) -> tuple[int, int, Tensor] | None:
        """The layout behind an operation that moves axes or shortens them."""
        source = node.all_input_nodes[0] if node.all_input_nodes else node
        if "shape" not in source.meta or (found := self.layout(source)) is None:
            return None
        axis = moved_axis(node, self.name_of(node), len(source.meta["shape"]) - 1 - found[1])
        shape = node.meta["shape"] if axis is not None else ()
        return None if axis is None else (shape[axis], len(shape) - 1 - axis, found[2])

    def _function_layout(self, node: fx.Node) -> tuple[int, int, Tensor] | None:
        """The layout of a layer called as a function, from its weight."""
        factors = [f for f in node.all_input_nodes if any(v.ndim > 1 for v in self.parameters.get(f, ()))]
        weights = {value for factor in factors for value in self.parameters[factor] if value.ndim > 1}
        if len(factors) != 1 or (len(weights) != 1 and "shape" not in factors[0].meta):
            return None
        like, name = next(iter(weights)), name_of(node)
        shape, out = factors[0].meta.get("shape", like.shape), node.meta.get("shape", ())
        space = _SPACES.get(name)
        if space is not None and len(shape) == space + 2:
            return shape[1 if name == "embedding" else 0], space, like
        return (out[-1], 0, like) if name in MATMULS and out and out[-1] in shape[-2:] else None

    def read_layout(self, node: fx.Node) -> tuple[int, int, Tensor] | None:
        """The layout of learned values as the linear layers and convolutions behind them read it."""
        shape: tuple[int, ...] = node.meta.get("shape", ())
        layouts = []
        for user in node.users if shape and node in self.learned else ():
            kind, layer = self.kind(user), self.modules.get(user)
            if kind is Kind.SAME:
                layouts.append(self.read_layout(user))
            elif kind is not Kind.SHAPE:
                layouts.append(read_layout(layer) if layer is not None and kind is Kind.LAYER else None)
        found = layouts[0] if layouts else None
        if found is None or any(each is None or each[:2] != found[:2] for each in layouts):
            return None
        return found if shape[-1 - found[1]] == found[0] else None

    def is_output_map(self, node: fx.Node) -> bool:
        """Whether a nonlinearity only bounds the module's output, as the tanh of a policy does."""
        return not self.name and self.squashes_last(node)

    def squashes_last(self, node: fx.Node) -> bool:
        """Whether a nonlinearity is of the kind that bounds outputs, and only such ones and no layer are behind it."""
        later = (Kind.LAYER, Kind.UNSEEN, Kind.BLOCK, Kind.NORM)
        return self._squashes(node) and not any(
            self.kind(reached) in later or (self.kind(reached) is Kind.NONLINEAR and not self._squashes(reached))
            for reached in reached_from(node)
        )

    def _squashes(self, node: fx.Node) -> bool:
        unknown = self.kind(node) in (Kind.ELEMENTWISE, Kind.OTHER)
        return unknown or self.name_of(node) in {squash.lower() for squash in SQUASHING}

    def parameter_uses(self) -> list[tuple[nn.Parameter, fx.Node]]:
        """The parameters that the code uses itself rather than by calling their module, with each operation on them.

        What is computed from parameters alone counts as them.
        """
        return [
            (value, use)
            for node, values in self.parameters.items()
            for use in node.users
            if use not in self.parameters and self.kind(use) is not Kind.SHAPE
            for value in values
        ]

    def is_plain_weight(self, parameter: nn.Parameter, use: fx.Node) -> bool:
        """Whether a layer called as a function multiplies by a parameter itself, not by what is computed from it."""
        factors = [factor for factor in use.all_input_nodes if parameter in self.parameters.get(factor, ())]
        return all(self.source(factor, PASSING).op == "get_attr" for factor in factors)

    def output_parameters(self) -> set[int]:
        """The ids of the last weights: no norm, nonlinearity or later layer is between them and the module's output.

        Also those of layers whose values go nowhere that is known.
        """
        found: dict[fx.Node, set[int]] = {}
        direct = self.parameter_uses()
        pending = [source for node in self.of(Kind.OUTPUT) for source in node.all_input_nodes]
        pending += [node for node in self.of(Kind.LAYER) + self.of(Kind.UNSEEN) if not self._leads_on(node)]
        visited: set[fx.Node] = set()
        while pending:
            node = pending.pop()
            kind = self.kind(node)
            bounded = kind in (Kind.NONLINEAR, Kind.ELEMENTWISE) and not self.squashes_last(node)
            if node in visited or bounded or kind in (Kind.NORM, Kind.BLOCK):
                continue
            visited.add(node)
            if kind is Kind.LAYER:
                found[node] = _output_weight(self.modules[node])
            elif kind is Kind.UNSEEN:
                found[node] = {id(value) for value, use in direct if use is node and value.ndim > 1}
            else:
                pending += node.all_input_nodes
        # A residual stream carries earlier layers to the output too; only the last of them is the output layer.
        return set().union(*(used for node, used in found.items() if not found.keys() & reached_from(node)))

    def _leads_on(self, node: fx.Node) -> bool:
        """Whether an operation that matters, or the output, follows a layer."""
        later = (Kind.LAYER, Kind.UNSEEN, Kind.BLOCK, Kind.NORM, Kind.NONLINEAR, Kind.OUTPUT)
        return any(self.kind(other) in later for other in reached_from(node))


def factors_of(node: fx.Node) -> list[fx.Node]:
    """The nodes among a call's arguments, each as often as it stands there."""
    found: list[fx.Node] = []

    def note(source: fx.Node) -> fx.Node:
        found.append(source)
        return source

    fx.node.map_arg((node.args, node.kwargs), note)
    return found


def _output_weight(layer: nn.Module) -> set[int]:
    """The id of the layer's last weight; none if that is computed from others, as a parametrization does."""
    last = layer.out_proj if isinstance(layer, nn.MultiheadAttention) else layer
    weight = last._parameters.get("weight")
    return set() if weight is None else {id(weight)}


def _attribute(root: nn.Module, path: str) -> Any:
    owner, _, name = path.rpartition(".")
    return getattr(root.get_submodule(owner), name, None)


def reached_from(node: fx.Node, back: bool = False) -> set[fx.Node]:
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
