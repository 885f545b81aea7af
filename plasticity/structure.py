"""Which parameters belong to a hidden unit: rows that make it, a norm's entries, columns that read it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import Tensor, fx, nn

from nap.graph import Flow, Kind, NormalizedActivation, coscaled_params, has_norm, name_of, trace
from nap.graph.weights import near
from nap.project import norm_layers
from plasticity.method import make_generator, moments

Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class UnitView:
    """Where the units of a hidden layer stand in one parameter."""

    owner: nn.Module
    name: str
    """"weight" or "bias", or what is the noise of one."""
    axis: int = 0
    """The parameter's axis that counts units."""
    span: int = 1
    """Consecutive entries of that axis per unit: H·W behind a flattened convolution."""

    @property
    def parameter(self) -> nn.Parameter:
        found = self.owner._parameters[self.name]
        assert found is not None
        return found

    def by_unit(self, tensor: Tensor) -> Tensor:
        """A view of a tensor of the parameter's shape, the units along its first axis: [units, ...]."""
        spread = tensor if self.span == 1 else tensor.unflatten(self.axis, (-1, self.span))
        return spread.movedim(self.axis, 0)

    @property
    def values(self) -> Tensor:
        """The parameter itself by unit, detached, to be written in place."""
        return self.by_unit(self.parameter.detach())

    def moments(self, optimizer: torch.optim.Optimizer) -> list[Tensor]:
        """The optimiser's moments by unit, to be written in place."""
        return [self.by_unit(moment) for moment in moments(optimizer, self.parameter)]


@dataclass(frozen=True)
class HiddenLayer:
    """The units behind one nonlinearity: neurons of a linear layer, channels of a convolution."""

    name: str
    """The nonlinearity's module name, under which its features come."""
    incoming: Layer
    norm: nn.Module | None
    outgoing: tuple[Layer, ...]
    spans: tuple[int, ...]
    """Columns of each outgoing layer that one unit has."""

    @property
    def units(self) -> int:
        return self.incoming.weight.shape[0]

    @property
    def fan_in(self) -> int:
        return self.incoming.weight[0].numel()

    @property
    def weight(self) -> UnitView:
        """The rows of incoming weights."""
        return UnitView(self.incoming, "weight")

    @property
    def bias(self) -> UnitView | None:
        return _slots(self.incoming).get("bias")

    @property
    def affine(self) -> dict[str, UnitView]:
        """The entries of the norm's "weight" (scale, initially 1) and "bias" (offset, 0)."""
        return {} if self.norm is None else _slots(self.norm)

    @property
    def columns(self) -> list[UnitView]:
        """The columns of outgoing weights."""
        return [UnitView(layer, "weight", 1, span) for layer, span in zip(self.outgoing, self.spans, strict=True)]

    @property
    def noise(self) -> list[tuple[UnitView, float]]:
        """The σ of the incoming weights and bias where the layer is noisy, with what they start at."""
        names = [*coscaled_params(self.incoming, "weight"), *coscaled_params(self.incoming, "bias")]
        return [(UnitView(self.incoming, name), _first_values(self.incoming)[name]) for name in names]

    @property
    def noise_columns(self) -> list[UnitView]:
        """The columns of the outgoing weights' σ."""
        readers = zip(self.outgoing, self.spans, strict=True)
        return [UnitView(layer, name, 1, span) for layer, span in readers for name in coscaled_params(layer, "weight")]

    @property
    def slots(self) -> list[UnitView]:
        """Everything that belongs to a unit."""
        bias = [self.bias] if self.bias is not None else []
        noise = [*(slot for slot, _ in self.noise), *self.noise_columns]
        return [self.weight, *bias, *self.affine.values(), *self.columns, *noise]


@dataclass
class Structure:
    """The hidden layers in the order of the computation, what had to be left out, and the output layers."""

    hidden: list[HiddenLayer] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    """Nonlinearities whose units cannot be mapped to parameters, with the reason."""
    outputs: dict[str, nn.Module] = field(default_factory=dict)
    """The layers that nothing but the network's output follows."""


def analyze(network: nn.Module) -> Structure:
    """Follows the network's forward from each nonlinearity back to its layer and on to those that read it.

    Raises ValueError if the forward cannot be traced.
    """
    traced = trace(network)
    if not traced.whole or not traced.flows:
        why = "; ".join(f"{name} {reason}" for name, reason in traced.untraced)
        raise ValueError(f"the hidden units of {type(network).__name__} cannot be found: {why}")
    flow, found = traced.flows[0], Structure()
    names = {module: name for name, module in reversed(list(network.named_modules()))}
    wrappers = {part.activation: part for part in network.modules() if isinstance(part, NormalizedActivation)}
    calls = Counter(flow.modules.values())
    for node in flow.of(Kind.NONLINEAR):
        if flow.is_output_map(node):
            continue
        module = flow.modules.get(node)
        name = flow.place(node) if module is None else names[wrappers.get(module, module)]
        try:
            found.hidden.append(_hidden_layer(name, flow, node, calls))
        except _Unmapped as reason:
            found.left_out[name] = str(reason)
    outputs = set().union(*(flow.output_parameters() for flow in traced.flows))
    found.outputs = {n: part for n, part in network.named_modules() if id(part._parameters.get("weight")) in outputs}
    return found


def hidden_layers(network: nn.Module, method: str = "plasticity") -> list[HiddenLayer]:
    """The hidden layers whose units can be mapped to parameters; ValueError, with the reasons, if there is none."""
    found = analyze(network)
    if not found.hidden:
        why = "; ".join(f"{name} {reason}" for name, reason in found.left_out.items()) or "it has no nonlinearity"
        raise ValueError(f"{method}: no hidden layer of {type(network).__name__} can be worked on: {why}")
    return found.hidden


class _Unmapped(Exception):
    """Why a nonlinearity's units cannot be mapped to parameters."""


def _hidden_layer(name: str, flow: Flow, node: fx.Node, calls: Counter[nn.Module]) -> HiddenLayer:
    if node not in flow.modules:
        raise _Unmapped("is called as a function: make it a module")
    if calls[flow.modules[node]] > 1:
        raise _Unmapped("is shared by several calls")
    before = flow.source(node.all_input_nodes[0], (Kind.SAME,))
    norm = flow.modules.get(before) if flow.kind(before) is Kind.NORM else None
    if flow.kind(before) is Kind.NORM:
        before = flow.source(before.all_input_nodes[0], (Kind.SAME,))
    incoming = _layer(flow, before, calls, "follows")
    if norm is None and has_norm(incoming):
        norm = incoming.get_submodule("norm")
    units = incoming.weight.shape[0]
    if norm is not None and any(slot.parameter.shape[0] != units for slot in _slots(norm).values()):
        raise _Unmapped("follows a norm whose entries are not the units")
    _only_reader(flow, before, node)
    readers = list(_readers(flow, node, flat=False, calls=calls))
    spans = [_span(units, layer, flat) for layer, flat in readers]
    return HiddenLayer(name, incoming, norm, tuple(layer for layer, _ in readers), tuple(spans))


def _layer(flow: Flow, node: fx.Node, calls: Counter[nn.Module], relation: str) -> Layer:
    layer = flow.modules.get(node)
    if not isinstance(layer, LAYERS) or isinstance(layer, nn.modules.conv._ConvTransposeNd):
        raise _Unmapped(f"{relation} {type(layer).__name__ if layer is not None else name_of(node)}")
    if calls[layer] > 1:
        raise _Unmapped(f"{relation} a layer that is called more than once")
    if getattr(layer, "groups", 1) != 1 or "weight" not in layer._parameters:
        raise _Unmapped(f"{relation} a layer with groups or with a computed weight")
    return layer


def _only_reader(flow: Flow, layer: fx.Node, nonlinearity: fx.Node) -> None:
    """Refuses a layer whose output goes past the nonlinearity as well, as in a residual block."""
    node = layer
    while node is not nonlinearity:
        readers = [user for user in node.users if flow.kind(user) is not Kind.SHAPE and not _leads_nowhere(flow, user)]
        if len(readers) != 1:
            raise _Unmapped("follows a layer that feeds something else too")
        node = readers[0]


def _readers(flow: Flow, node: fx.Node, flat: bool, calls: Counter[nn.Module]) -> Iterator[tuple[Layer, bool]]:
    """The layers that read a node's values, and whether positions were flattened on the way."""
    for user in node.users:
        kind = flow.kind(user)
        if _leads_nowhere(flow, user):
            continue
        if kind is Kind.SAME:
            yield from _readers(flow, user, flat, calls)
        elif kind is Kind.RESHAPE and _flattens(flow, user):
            yield from _readers(flow, user, True, calls)
        elif kind is not Kind.SHAPE:
            yield _layer(flow, user, calls, "feeds"), flat


def _leads_nowhere(flow: Flow, node: fx.Node) -> bool:
    """Whether nothing reads a value, as what a forward hook keeps."""
    return not node.users and flow.kind(node) is not Kind.OUTPUT


def _flattens(flow: Flow, node: fx.Node) -> bool:
    """Whether a reshape is [B, C, ...] -> [B, C·...], each channel's positions side by side."""
    module = flow.modules.get(node)
    if module is not None:
        return isinstance(module, nn.Flatten) and module.start_dim == 1 and module.end_dim == -1
    return name_of(node) == "flatten" and node.args[1:] == (1,) and not node.kwargs


def _span(units: int, layer: Layer, flat: bool) -> int:
    columns = layer.weight.shape[1]
    if columns % units or (columns != units and not flat):
        raise _Unmapped(f"feeds a layer of {columns} inputs, which are not its {units} units")
    return columns // units


def _slots(owner: nn.Module) -> dict[str, UnitView]:
    return {name: UnitView(owner, name) for name in ("weight", "bias") if owner._parameters.get(name) is not None}


def _first_values(layer: nn.Module) -> dict[str, float]:
    """What each σ of a noisy layer starts at, by its own word; the names are those of its `scales_with`."""
    return getattr(layer, "first_values", {})


def draw_layer(layer: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """Fresh values of a layer's own parameters, as its constructor draws them: new tensors of the same layout.

    Linear layers and convolutions: uniform within ±1/√fan_in, torch's default (Kaiming with a = √5). Norms: scale 1,
    offset 0. Embeddings: normal, padding 0. The σ of a noisy layer: its `first_values`. A layer that a network draws
    otherwise has the function as `drawn_by`: layer, generator -> its parameters by name.
    Raises ValueError for a module of another kind.
    """
    if (drawn_by := getattr(layer, "drawn_by", None)) is not None:
        return drawn_by(layer, generator)
    own = {name: p.detach() for name, p in layer._parameters.items() if p is not None}
    if isinstance(layer, (*LAYERS, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        bound = 1 / math.sqrt(layer.weight[0].numel())
        first = _first_values(layer)
        return {
            name: torch.full_like(p, first[name])
            if name in first
            else torch.empty_like(p).uniform_(-bound, bound, generator=generator)
            for name, p in own.items()
        }
    if isinstance(layer, nn.Embedding):
        fresh = {name: torch.empty_like(p).normal_(generator=generator) for name, p in own.items()}
        if layer.padding_idx is not None:
            fresh["weight"][layer.padding_idx] = 0
        return fresh
    if layer in norm_layers(layer):
        return {name: torch.full_like(p, float(name == "weight")) for name, p in own.items()}
    raise ValueError(f"it is not known how a {type(layer).__name__} draws its initial {', '.join(own)}")


def draw_network(network: nn.Module, layers: Sequence[str], generator: torch.Generator) -> dict[str, Tensor]:
    """Fresh values of the parameters of the named modules, by parameter name."""
    drawn = {name: draw_layer(network.get_submodule(name), generator) for name in layers}
    return {f"{name}.{key}" if name else key: value for name, own in drawn.items() for key, value in own.items()}


def choose_drawn(network: nn.Module, wanted: Sequence[str], method: str) -> list[str]:
    """`choose_layers` for a method that re-initialises them: ValueError at once for one that cannot be drawn."""
    chosen = choose_layers(network, wanted, method)
    try:
        draw_network(network, chosen, make_generator(network, 0))
    except ValueError as error:
        raise ValueError(f"{method}: {error}") from None
    return chosen


def choose_layers(network: nn.Module, wanted: Sequence[str], method: str = "plasticity") -> list[str]:
    """The names of the modules with parameters of their own that are wanted, in the network's order.

    A wanted name is "output" (the output layers), "all", or a module's name, `*` standing for anything; the parts of a
    module are wanted with it. Raises ValueError for a name that matches nothing, with the near match.
    """
    known = [name for name, part in network.named_modules() if any(p is not None for p in part._parameters.values())]
    outputs = list(analyze(network).outputs) if "output" in wanted else []
    chosen: set[str] = set()
    for name in wanted:
        patterns = {"output": outputs, "all": ["*"]}.get(name, [name, f"{name}.*"])
        matching = {layer for layer in known if any(fnmatchcase(layer, pattern) for pattern in patterns)}
        if not matching:
            raise ValueError(f"{method}: layers={name!r} is no layer of {type(network).__name__}; {near(name, known)}")
        chosen |= matching
    return [name for name in known if name in chosen]
