"""Normalize: a normalisation before every nonlinearity, and no bias that it makes redundant."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.parametrize import ParametrizationList

from nap.graph.flow import UNNORMED, Flow, Trace, has_norm, reason, trace, units
from nap.graph.foreign import LINEAR_ROLES, coscaled_params, role
from nap.graph.kinds import ENCODER_LAYERS, Kind
from nap.graph.norms import EPS, NormalizedActivation, make_norm
from nap.graph.weights import MATRIX_LAYERS, Conv, Weight, find_weights, near

MakeNorm = Callable[[int, int, Tensor], nn.Module | None]
UNTRACED = "its use cannot be traced"
ONE_UNIT = "has one unit, which a norm would make constant"
_STACKED = re.compile(r"((?:\w+\.)*?\w*[A-Za-z_]\w*\.)(\d+)(?=[.)]|$)")


@dataclass
class Report:
    """What `normalize` made of a module; weights by name, `in_proj_weight[q]` being a part of a parameter."""

    scale_invariant: list[str] = field(default_factory=list)
    """Weights whose output goes straight into a norm, with no bias: their scale does not reach the output (but by the
    epsilon of a norm that was there before)."""
    projected_only: dict[str, str] = field(default_factory=dict)
    """Weights to project whose scale still matters, with the reason."""
    not_handled: list[tuple[str, str]] = field(default_factory=list)
    """(name, reason) of each nonlinearity that got no norm, and of each module that could not be analysed."""
    outputs: list[str] = field(default_factory=list)
    """Weights of the output layers, which are not projected; one tied to an embedding stands under its first name."""
    outputs_guessed: bool = False
    """True if the data flow could not be traced: the output is then the last linear or convolution registered."""
    left_out: dict[str, str] = field(default_factory=dict)
    """What is left as it is, with the reason: layers of one unit before a nonlinearity, and parameters of two or more
    dimensions whose use is not known. `Projection` projects them only if told to. Of `normalize`, also the
    nonlinearities that got no norm because their input has one unit."""
    tied: dict[str, list[str]] = field(default_factory=dict)
    """The other names of weights that several modules share."""

    def __str__(self) -> str:
        guess = " (guessed: the last layer registered; `exclude` and `include` of Projection correct it)"
        sections = [
            ("scale-invariant", [(self._known_as(name), "") for name in self.scale_invariant]),
            ("projected, not scale-invariant", [(self._known_as(n), why) for n, why in self.projected_only.items()]),
            (
                f"output, not projected{guess if self.outputs_guessed else ''}",
                [(self._known_as(name), "") for name in self.outputs],
            ),
            ("left out, not projected unless included", list(self.left_out.items())),
            ("not handled", self.not_handled),
        ]
        text = "\n".join("\n  ".join([title + ":", *_lines(found)]) for title, found in sections if found)
        return text or "no weight matrix and no nonlinearity found"

    def _known_as(self, name: str) -> str:
        return f"{name} (tied: {', '.join(self.tied[name])})" if name in self.tied else name


def _lines(found: list[tuple[str, str]]) -> list[str]:
    """One line per name, and one for the same thing in several blocks of a stack: `layers.{0,1}.fc.weight: reason`."""
    groups: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
    for name, why in found:
        match = _STACKED.search(name)
        stack, number = match.groups() if match else (name, "")
        after = name[match.end() :] if match else ""
        before = name[: match.end(1)] if match else name
        groups.setdefault((before, after, why.replace(stack + number, f"{stack}*")), []).append((number, why))
    lines = []
    for (before, after, shared), members in groups.items():
        numbers = ",".join(number for number, _ in members)
        alone = len(members) == 1
        name, why = f"{before}{numbers if alone else f'{{{numbers}}}'}{after}", members[0][1] if alone else shared
        lines.append(f"{name}: {why}" if why else name)
    return lines


def normalize(module: nn.Module, *, norm: str = "layer", conv_axes: str = "channels", eps: float = EPS) -> Report:
    """Puts a norm before every nonlinearity of `module`, in place, and drops the biases that become redundant.

    Call it before the optimiser exists: parameters are added and removed. `norm` is "layer" (LayerNorm) or "rms"
    (RMSNorm). `conv_axes` says what a norm after a convolution covers: "channels" (each position by itself) or
    "channels_and_space" (batched input only). A nonlinearity that already follows a norm gets no second one, and a
    tanh or sigmoid that only bounds the output gets none, nor does one of a single unit, which a norm would make
    constant. Attention's softmax is not counted as a nonlinearity. What cannot be handled is listed in the report with
    the reason. Forwards are followed in train and eval mode, without and with their optional arguments, as far as each
    can be traced. Source: Lyle et al. 2024, arXiv 2407.01800.

    Raises ValueError for an unknown `norm` or `conv_axes`, and for a model that is compiled, wrapped for distributed
    training or lazy.
    """
    for option, value, known in (
        ("norm", norm, ("layer", "rms")),
        ("conv_axes", conv_axes, ("channels", "channels_and_space")),
    ):
        if value not in known:
            raise ValueError(f"nap.normalize: {option}={value!r} is unknown; {near(value, known)}")
    _refuse_finished(module)
    make: MakeNorm = partial(_make, norm=norm, conv_axes=conv_axes, eps=eps)
    without: list[tuple[str, str]] = []
    traced = trace(module)
    calls = traced.calls()
    for flow in traced.flows:
        tried = [(node, _insert(module, flow, node, traced, calls, make)) for node in flow.of(Kind.NONLINEAR)]
        without += [(_place(module, flow, node), why) for node, why in tried if why]
    for block in module.modules():
        if isinstance(block, ENCODER_LAYERS) and _is_plain(block):
            _normalize_block(block, make)
        elif isinstance(block, nn.TransformerEncoder):
            block.use_nested_tensor = False  # its check reads the biases that were removed
    _drop_biases(trace(module))
    report = analyze(module)
    report.left_out |= {name: why for name, why in without if why == ONE_UNIT}
    not_handled = [(name, why) for name, why in without if why != ONE_UNIT]
    report.not_handled = list(dict.fromkeys(not_handled + report.not_handled))
    return report


def analyze(module: nn.Module) -> Report:
    """The report on a module as it is: which weights are scale-invariant, and which belong to the output layers."""
    weights = find_weights(module)
    traced = trace(module)
    report = Report(outputs_guessed=not traced.whole)
    report.tied = {name: weight.tied for name, weight in weights.items() if weight.tied}
    report.not_handled = list(dict.fromkeys(traced.untraced + _unseen(module, traced.flows)))
    report.left_out = _left_out(module, weights)
    outputs = _last_registered(module) if report.outputs_guessed else set()
    outputs = outputs.union(*(flow.output_parameters() for flow in traced.flows if not report.outputs_guessed))
    reasons = _reasons(module, traced)
    for name, weight in weights.items():
        if id(weight.parameter) in outputs:
            report.outputs.append(name)
        elif why := _weight_reason(weight, reasons):
            alone = why == UNNORMED and units(weight.owner) == 1
            (report.left_out if alone else report.projected_only)[name] = ONE_UNIT if alone else why
        else:
            report.scale_invariant.append(name)
    return report


def _unseen(module: nn.Module, flows: list[Flow]) -> list[tuple[str, str]]:
    """What no flow shows: inside recurrent layers, functions that are layers, computed weights, unknown functions."""
    found = [
        (name or type(part).__name__, "a recurrent layer: its nonlinearities are inside one kernel and get no norm")
        for name, part in module.named_modules()
        if isinstance(part, nn.RNNBase | nn.RNNCellBase)
    ]
    found += [
        (name or type(part).__name__, "its weight is computed from other parameters at each call and is not projected")
        for name, part in module.named_modules()
        if _computes_weight(part)
    ]
    known = {id(weight.parameter) for weight in find_weights(module).values()}
    for flow in flows:
        found += [
            (flow.place(node), "a layer called as a function: its weights are not analysed")
            for node in flow.of(Kind.UNSEEN)
            if not (used := [value for value, use in flow.parameter_uses() if use is node and value.ndim > 1])
            or any(id(value) not in known for value in used)
        ]
        found += [
            (flow.place(node), "not linear, but no known activation: put a norm before it if it acts as one")
            for node in flow.of(Kind.ELEMENTWISE)
            if flow.learned(node) and not flow.is_output_map(node) and not flow.normalized(node.all_input_nodes[0])
        ]
    return found


def _left_out(module: nn.Module, weights: dict[str, Weight]) -> dict[str, str]:
    known = {id(parameter) for weight in weights.values() for parameter in (weight.parameter, *weight.coscaled_params)}
    owners = {id(p): owner for owner in module.modules() for p in owner.parameters(recurse=False)}
    return {
        name: "another weight is computed from it"
        if _computes_weight(owner := owners[id(parameter)]) or isinstance(owner, ParametrizationList)
        else f"a parameter of {type(owner).__name__}, whose use is not known"
        for name, parameter in module.named_parameters()
        if parameter.ndim > 1 and id(parameter) not in known
    }


def _computes_weight(layer: nn.Module) -> bool:
    """Whether a layer has a parametrization, weight_norm or spectral_norm in the place of its weight."""
    return isinstance(layer, MATRIX_LAYERS) and "weight" not in layer._parameters


def _reasons(module: nn.Module, traced: Trace) -> dict[int, list[str | None]]:
    """Why the weights of a layer (by the layer's id) or a parameter (by its own) are not scale-invariant, by use."""
    reasons = _block_reasons(module)
    for flow in traced.flows:
        for node in flow.of(Kind.LAYER):
            layer = flow.modules[node]
            owner = layer.out_proj if isinstance(layer, nn.MultiheadAttention) else layer
            reasons.setdefault(id(owner), []).append(reason(flow, node))
        for parameter, use in flow.parameter_uses():
            reasons.setdefault(id(parameter), []).append(f"is used by {flow.place(use)} too")
    for layer in traced.loose:
        reasons.setdefault(id(layer), []).append(UNTRACED)
    return reasons


def _weight_reason(weight: Weight, reasons: dict[int, list[str | None]]) -> str | None:
    if isinstance(weight.owner, nn.MultiheadAttention):
        value = weight.name.endswith(("[v]", "v_proj_weight"))
        return "forms attention values" if value else "forms attention logits"
    uses = [why for owner in weight.owners for why in reasons.get(id(owner), [UNTRACED])]
    bias = any(owner._parameters.get("bias") is not None for owner in weight.owners)
    found = next(filter(None, uses + reasons.get(id(weight.parameter), [])), None)
    return found or ("keeps its bias" if bias else None)


def _last_registered(module: nn.Module) -> set[int]:
    """The id of the weight of the linear layer or convolution that was registered last."""
    layers = [part for part in module.modules() if isinstance(part, (nn.Linear, *Conv)) or role(part) in LINEAR_ROLES]
    return {id(parameter) for part in layers[-1:] if (parameter := part._parameters.get("weight")) is not None}


def _block_reasons(module: nn.Module) -> dict[int, list[str | None]]:
    """The reasons for the layers inside torch's transformer layers and attention, which are not traced."""
    found: dict[int, list[str | None]] = {}
    for part in module.modules():
        if isinstance(part, ENCODER_LAYERS) and _is_plain(part):
            for attention in part.children():
                if isinstance(attention, nn.MultiheadAttention):
                    found[id(attention.out_proj)] = ["feeds a residual sum"]
            inserted = isinstance(part.activation, NormalizedActivation)
            found[id(part.linear1)] = [None if inserted else UNNORMED]
            found[id(part.linear2)] = ["feeds a residual sum"]
    return found


def _refuse_finished(module: nn.Module) -> None:
    for name, part in module.named_modules():
        place = name or type(part).__name__
        if hasattr(part, "_orig_mod") or part._compiled_call_impl is not None:
            raise ValueError(f"nap.normalize: {place} is compiled: normalise the model first, then compile it")
        if isinstance(part, torch.jit.ScriptModule):
            raise ValueError(f"nap.normalize: {place} is scripted: normalise the model first, then script it")
        if isinstance(part, nn.parallel.DistributedDataParallel):
            raise ValueError(f"nap.normalize: {place} holds its parameters: normalise the model first, then wrap it")
    find_weights(module)  # raises for a lazy layer


def _insert(
    module: nn.Module, flow: Flow, node: fx.Node, traced: Trace, calls: Counter[nn.Module], make: MakeNorm
) -> str | None:
    """Puts a norm before one nonlinearity; returns why it could not, or None."""
    source = node.all_input_nodes[0]
    if flow.normalized(source) or flow.is_output_map(node):
        return None
    if flow.squashes_last(node):
        return f"it may only bound the output: what follows {flow.name} cannot be traced; put a norm before it if not"
    layout = flow.layout(source)
    if layout is None:
        return "the width of its input is not known here (an input, a reshape, an unknown operation)"
    activation = flow.modules.get(node)
    owners = _holders(module, activation)
    if any(isinstance(owner, NormalizedActivation) for owner in owners.values()):
        return None  # wrapped a moment ago, for another trace of the same call
    if (norm := make(*layout)) is None:
        return ONE_UNIT
    plain_call = len(node.args) + len(node.kwargs) == 1 and node.kwargs.keys() <= {"input"}
    if activation is not None and plain_call and calls[activation] == 1 and owners and "" not in owners:
        wrapped = NormalizedActivation(norm, activation)
        for name in owners:
            module.set_submodule(name, wrapped)
        return None
    layer = flow.source(source, (Kind.SAME,))
    used = flow.modules.get(layer)
    if used is not None and flow.kind(layer) is Kind.LAYER and _feeds_only_nonlinearities(used, traced):
        used.register_module("norm", norm)
        used.register_forward_hook(_apply_norm)
        return None
    use = "it is shared by several calls" if activation is not None else "it is a function"
    return f"{use} and its input does not come from one layer alone: give each call its own activation module"


def _holders(module: nn.Module, activation: nn.Module | None) -> dict[str, nn.Module]:
    """Every name of an activation module, with the module that holds it."""
    if activation is None:
        return {}
    names = [name for name, part in module.named_modules(remove_duplicate=False) if part is activation]
    return {name: module.get_submodule(name.rpartition(".")[0]) for name in names}


def _feeds_only_nonlinearities(layer: nn.Module, traced: Trace) -> bool:
    if layer in traced.loose or isinstance(layer, nn.MultiheadAttention):
        return False
    ends = [(flow, end) for flow in traced.flows for call in flow.calls(layer) for end in flow.ends(call)]
    return all(flow.kind(end) is Kind.NONLINEAR for flow, end in ends)


def _apply_norm(layer: nn.Module, args: Any, output: Tensor) -> Tensor:
    return layer.get_submodule("norm")(output)


def _make(width: int, space: int, like: Tensor, *, norm: str, conv_axes: str, eps: float) -> nn.Module | None:
    """A new norm, or None for one that would cover a single value."""
    alone = width == 1 and (space == 0 or conv_axes == "channels")
    return None if alone else make_norm(width, space, norm, conv_axes, eps, like)


def _is_plain(block: nn.Module) -> bool:
    return any(type(block).forward is kind.forward for kind in ENCODER_LAYERS)


def _normalize_block(block: Any, make: MakeNorm) -> None:
    """Normalises the activation of one of torch's transformer layers."""
    if not isinstance(block.activation, NormalizedActivation):
        hidden = block.linear1
        if (norm := make(hidden.out_features, 0, hidden.weight)) is None:
            return
        function = {F.relu: nn.ReLU, F.gelu: nn.GELU}.get(block.activation)
        block.activation = NormalizedActivation(norm, function() if function else block.activation)
        # TransformerDecoderLayer.__setstate__ looks for it here, and else makes a copy with a relu of its own.
        block.__dict__["activation"] = block.activation
    block.activation_relu_or_gelu = 0  # or eval mode takes a fused kernel that does not call the activation
    block.linear1.bias = None


def _drop_biases(traced: Trace) -> None:
    into_norm: dict[nn.Module, bool] = {}
    for flow in traced.flows:
        for node in flow.of(Kind.LAYER):
            ends = list(flow.ends(node))
            straight = has_norm(flow.modules[node]) or (bool(ends) and all(flow.kind(end) is Kind.NORM for end in ends))
            into_norm[flow.modules[node]] = straight and into_norm.get(flow.modules[node], True)
    for layer, straight in into_norm.items():
        if straight and layer not in traced.loose:
            _drop_bias(layer)


def _drop_bias(layer: nn.Module) -> None:
    bias = layer._parameters.get("bias")
    if bias is None:
        return
    if isinstance(layer, (nn.Linear, *Conv)) and type(layer).forward.__module__.startswith("torch.nn"):
        layer.bias = None
    elif role(layer) in LINEAR_ROLES:  # whose forward may insist on a bias
        for name in ("bias", *coscaled_params(layer, "bias")):
            delattr(layer, name)
            layer.register_buffer(name, torch.zeros_like(bias.detach()), persistent=False)


def _place(module: nn.Module, flow: Flow, node: fx.Node) -> str:
    if node in flow.modules:
        names = (name for name, part in module.named_modules() if part is flow.modules[node])
        return next(names) or type(module).__name__
    return flow.place(node)
