"""Which parameters belong to a hidden unit: rows that make it, a norm's entries, columns that read it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor, fx, nn

from nap.graph.flow import Flow
from nap.graph.kinds import Kind, name_of
from nap.graph.norms import NormalizedActivation
from nap.graph.parameters import coscaled_params, parameter_spec
from nap.graph.traces import trace

UnitLayer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
"""A layer whose outputs are units: neurons of a linear layer, channels of a convolution."""


@dataclass(frozen=True)
class UnitView:
    """The entries of one parameter by unit of a hidden layer."""

    owner: nn.Module
    name: str
    """"weight", "bias", or a parameter that is the noise of one."""
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


@dataclass(frozen=True)
class HiddenLayer:
    """The units behind one nonlinearity: neurons of a linear layer, channels of a convolution."""

    name: str
    """The nonlinearity's module name, under which its features come."""
    incoming: UnitLayer
    norm: nn.Module | None
    outgoing: tuple[UnitLayer, ...]
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
        """The σ of the incoming weights and bias of a noisy layer, with their initial values."""
        names = [*coscaled_params(self.incoming, "weight"), *coscaled_params(self.incoming, "bias")]
        return [(UnitView(self.incoming, name), parameter_spec(self.incoming).initial[name]) for name in names]

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
class HiddenUnits:
    """The hidden layers in the order of the computation, the nonlinearities left out, and the output layers."""

    layers: list[HiddenLayer] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    """Nonlinearities whose units cannot be mapped to parameters, with the reason."""
    outputs: dict[str, nn.Module] = field(default_factory=dict)
    """The layers that only the network's output follows."""


def hidden_units(network: nn.Module) -> HiddenUnits:
    """Maps hidden units to parameters: from each nonlinearity back to its layer, and on to the layers that read it.

    Raises ValueError if the forward cannot be traced.
    """
    traced = trace(network)
    if not traced.whole or not traced.flows:
        why = "; ".join(f"{name} {reason}" for name, reason in traced.untraced)
        raise ValueError(f"the hidden units of {type(network).__name__} cannot be found: {why}")
    flow, found = traced.flows[0], HiddenUnits()
    names = {module: name for name, module in reversed(list(network.named_modules()))}
    wrappers = {part.activation: part for part in network.modules() if isinstance(part, NormalizedActivation)}
    calls = Counter(flow.modules.values())
    for node in flow.of(Kind.NONLINEAR):
        if flow.is_output_map(node):
            continue
        module = flow.modules.get(node)
        name = flow.place(node) if module is None else names[wrappers.get(module, module)]
        try:
            found.layers.append(_hidden_layer(name, flow, node, calls))
        except _Unmapped as reason:
            found.left_out[name] = str(reason)
    outputs = set().union(*(flow.output_parameters() for flow in traced.flows))
    found.outputs = {n: part for n, part in network.named_modules() if id(part._parameters.get("weight")) in outputs}
    return found


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
    units = incoming.weight.shape[0]
    if norm is not None and any(slot.parameter.shape[0] != units for slot in _slots(norm).values()):
        raise _Unmapped("follows a norm whose entries are not the units")
    _only_reader(flow, before, node)
    readers = list(_readers(flow, node, flat=False, calls=calls))
    spans = [_span(units, layer, flat) for layer, flat in readers]
    return HiddenLayer(name, incoming, norm, tuple(layer for layer, _ in readers), tuple(spans))


def _layer(flow: Flow, node: fx.Node, calls: Counter[nn.Module], relation: str) -> UnitLayer:
    layer = flow.modules.get(node)
    if not isinstance(layer, UnitLayer) or isinstance(layer, nn.modules.conv._ConvTransposeNd):
        raise _Unmapped(f"{relation} {type(layer).__name__ if layer is not None else name_of(node)}")
    if calls[layer] > 1:
        raise _Unmapped(f"{relation} a layer that is called more than once")
    if getattr(layer, "groups", 1) != 1 or "weight" not in layer._parameters:
        raise _Unmapped(f"{relation} a layer with groups or with a computed weight")
    return layer


def _only_reader(flow: Flow, layer: fx.Node, nonlinearity: fx.Node) -> None:
    """Refuses a layer whose output also bypasses the nonlinearity, as in a residual block."""
    node = layer
    while node is not nonlinearity:
        readers = [user for user in node.users if flow.kind(user) is not Kind.SHAPE and not _leads_nowhere(flow, user)]
        if len(readers) != 1:
            raise _Unmapped("follows a layer that feeds something else too")
        node = readers[0]


def _readers(flow: Flow, node: fx.Node, flat: bool, calls: Counter[nn.Module]) -> Iterator[tuple[UnitLayer, bool]]:
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
    """Whether no operation reads a value, for example a copy that a forward hook keeps."""
    return not node.users and flow.kind(node) is not Kind.OUTPUT


def _flattens(flow: Flow, node: fx.Node) -> bool:
    """Whether a reshape is [B, C, ...] -> [B, C·...], each channel's positions side by side."""
    module = flow.modules.get(node)
    if module is not None:
        return isinstance(module, nn.Flatten) and module.start_dim == 1 and module.end_dim == -1
    return name_of(node) == "flatten" and node.args[1:] == (1,) and not node.kwargs


def _span(units: int, layer: UnitLayer, flat: bool) -> int:
    columns = layer.weight.shape[1]
    if columns % units or (columns != units and not flat):
        raise _Unmapped(f"feeds a layer of {columns} inputs, which are not its {units} units")
    return columns // units


def _slots(owner: nn.Module) -> dict[str, UnitView]:
    return {name: UnitView(owner, name) for name in ("weight", "bias") if owner._parameters.get(name) is not None}
