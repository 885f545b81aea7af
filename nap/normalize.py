"""Normalize: a normalisation before every nonlinearity, and no bias that it makes redundant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx, nn

from .flow import ENCODER_LAYERS, Flow, Kind, flows, has_norm, name_of, reason
from .norms import EPS, NormalizedActivation, make_norm
from .weights import MATRIX_LAYERS, Conv, Weight, find_weights, near

MakeNorm = Callable[[int, int, Tensor], nn.Module]


@dataclass
class Report:
    """What `normalize` made of a module; weights by name, `in_proj_weight[q]` being a part of a parameter."""

    scale_invariant: list[str] = field(default_factory=list)
    """Weights whose output goes straight into a norm, with no bias: their scale does not reach the output."""
    projected_only: dict[str, str] = field(default_factory=dict)
    """Weights to project whose scale still matters, with the reason."""
    not_handled: list[tuple[str, str]] = field(default_factory=list)
    """(name, reason) of each nonlinearity that got no norm, and of each module that could not be analysed."""
    outputs: list[str] = field(default_factory=list)
    """Weights of the output layers, which are not projected."""
    outputs_guessed: bool = False
    """True if the data flow could not be traced: the output is then the last linear or convolution registered."""

    def __str__(self) -> str:
        guessed = " (guessed: the last one registered)" if self.outputs_guessed else ""
        sections = [
            ("scale-invariant", self.scale_invariant),
            ("projected, not scale-invariant", [f"{name}: {why}" for name, why in self.projected_only.items()]),
            (f"output, not projected{guessed}", self.outputs),
            ("not handled", [f"{name}: {why}" for name, why in self.not_handled]),
        ]
        return "\n".join("\n  ".join([title + ":", *lines]) for title, lines in sections if lines)


def normalize(module: nn.Module, *, norm: str = "layer", conv_axes: str = "channels", eps: float = EPS) -> Report:
    """Puts a norm before every nonlinearity of `module`, in place, and drops the biases that become redundant.

    Call it before the optimiser exists: parameters are added and removed. `norm` is "layer" (LayerNorm) or "rms"
    (RMSNorm). `conv_axes` says what a norm after a convolution covers: "channels" (each position by itself) or
    "channels_and_space" (batched input only). A nonlinearity that already follows a norm gets no second one, and a
    tanh or sigmoid that only bounds the output gets none. What cannot be handled is listed in the report with the
    reason. Source: Lyle et al. 2024, arXiv 2407.01800.

    Raises ValueError for an unknown `norm` or `conv_axes`.
    """
    for option, value, known in (
        ("norm", norm, ("layer", "rms")),
        ("conv_axes", conv_axes, ("channels", "channels_and_space")),
    ):
        if value not in known:
            raise ValueError(f"nap.normalize: {option}={value!r} is unknown; {near(value, known)}")
    make: MakeNorm = partial(_make, norm=norm, conv_axes=conv_axes, eps=eps)
    not_handled: list[tuple[str, str]] = []
    traced, _ = flows(module)
    calls = Counter(id(used) for flow in traced for used in flow.modules.values())
    for flow in traced:
        tried = [(node, _insert(module, flow, node, calls, make)) for node in flow.of(Kind.NONLINEAR)]
        not_handled += [(_place(module, flow, node), why) for node, why in tried if why]
    for block in module.modules():
        if isinstance(block, ENCODER_LAYERS) and _is_plain(block):
            _normalize_block(block, make)
        elif isinstance(block, nn.TransformerEncoder):
            block.use_nested_tensor = False  # its check reads the biases that were removed
    traced, _ = flows(module)
    _drop_biases(traced)
    report = analyze(module)
    report.not_handled = not_handled + report.not_handled
    return report


def analyze(module: nn.Module) -> Report:
    """The report on a module as it is: which weights are scale-invariant, and which belong to the output layers."""
    traced, untraced = flows(module)
    weights = find_weights(module)
    report = Report(outputs_guessed=bool(untraced) and untraced[0][0] == type(module).__name__)
    report.not_handled = untraced + [
        (name, "a recurrent layer: its nonlinearities are inside one kernel")
        for name, part in module.named_modules()
        if isinstance(part, nn.RNNBase | nn.RNNCellBase)
    ]
    report.not_handled += [
        (_place(module, flow, node), "a layer called as a function: its weights are not analysed")
        for flow in traced
        for node in flow.of(Kind.UNSEEN)
    ]
    outputs = _output_parameters(weights, traced, report.outputs_guessed)
    reasons = _block_reasons(module)
    for flow in traced:
        for node in flow.of(Kind.LAYER):
            reasons.setdefault(id(flow.modules[node]), []).append(reason(flow, node))
    for name, weight in weights.items():
        if id(weight.parameter) in outputs:
            report.outputs.append(name)
        elif why := _weight_reason(weight, reasons.get(id(weight.owner))):
            report.projected_only[name] = why
        else:
            report.scale_invariant.append(name)
    return report


def _weight_reason(weight: Weight, reasons: list[str | None] | None) -> str | None:
    if isinstance(weight.owner, nn.MultiheadAttention):
        value = weight.name.endswith(("[v]", "v_proj_weight"))
        return "forms attention values" if value else "forms attention logits"
    if reasons is None:
        return "its use cannot be traced"
    bias = getattr(weight.owner, "bias", None) is not None
    return next(filter(None, reasons), None) or ("keeps its bias" if bias else None)


def _output_parameters(weights: dict[str, Weight], traced: list[Flow], guessed: bool) -> set[int]:
    if guessed:
        layers = [weight for weight in weights.values() if isinstance(weight.owner, (nn.Linear, *Conv))]
        return {id(weight.parameter) for weight in layers[-1:]}
    last: set[nn.Module] = set().union(*(flow.output_layers() for flow in traced))
    owners = {layer.out_proj if isinstance(layer, nn.MultiheadAttention) else layer for layer in last}
    return {id(owner._parameters["weight"]) for owner in owners}


def _block_reasons(module: nn.Module) -> dict[int, list[str | None]]:
    """The reasons for the layers inside torch's transformer layers and attention, which are not traced."""
    found: dict[int, list[str | None]] = {}
    for part in module.modules():
        if isinstance(part, nn.MultiheadAttention):
            found[id(part.out_proj)] = ["feeds a residual sum"]
        elif isinstance(part, ENCODER_LAYERS) and _is_plain(part):
            inserted = isinstance(part.activation, NormalizedActivation)
            found[id(part.linear1)] = [None if inserted else "feeds a nonlinearity without a norm"]
            found[id(part.linear2)] = ["feeds a residual sum"]
    return found


def _insert(module: nn.Module, flow: Flow, node: fx.Node, calls: Counter[int], make: MakeNorm) -> str | None:
    """Puts a norm before one nonlinearity; returns why it could not, or None."""
    source = node.args[0]
    if not isinstance(source, fx.Node) or flow.normalized(source) or flow.is_output_map(node):
        return None
    layout = flow.layout(source)
    if layout is None:
        return "the width of its input is not known here (an input, a reshape, an unknown operation)"
    activation = flow.modules.get(node)
    names = [name for name, part in module.named_modules(remove_duplicate=False) if part is activation]
    if activation is not None and calls[id(activation)] == 1 and names != [""]:
        wrapped = NormalizedActivation(make(*layout), activation)
        for name in names:
            module.set_submodule(name, wrapped)
        return None
    layer = flow.source(source, (Kind.SAME,))
    used = flow.modules.get(layer)
    ends = [end for call in flow.calls(used) for end in flow.ends(call)]
    if isinstance(used, MATRIX_LAYERS) and all(flow.kind(end) is Kind.NONLINEAR for end in ends):
        used.register_module("norm", make(*layout))
        used.register_forward_hook(_apply_norm)
        return None
    use = "it is shared by several calls" if activation is not None else "it is a function"
    return f"{use} and its input does not come from one layer alone: give each call its own activation module"


def _apply_norm(layer: nn.Module, args: Any, output: Tensor) -> Tensor:
    return layer.get_submodule("norm")(output)


def _make(width: int, space: int, like: Tensor, *, norm: str, conv_axes: str, eps: float) -> nn.Module:
    return make_norm(width, space, norm, conv_axes, eps, like)


def _is_plain(block: nn.Module) -> bool:
    return any(type(block).forward is kind.forward for kind in ENCODER_LAYERS)


def _normalize_block(block: Any, make: MakeNorm) -> None:
    """Normalises the activation of one of torch's transformer layers."""
    if not isinstance(block.activation, NormalizedActivation):
        hidden = block.linear1
        norm = make(hidden.out_features, 0, hidden.weight)
        function = {F.relu: nn.ReLU, F.gelu: nn.GELU}.get(block.activation)
        block.activation = NormalizedActivation(norm, function() if function else block.activation)
    block.activation_relu_or_gelu = 0  # or eval mode takes a fused kernel that does not call the activation
    block.linear1.bias = None


def _drop_biases(traced: list[Flow]) -> None:
    into_norm: dict[nn.Module, bool] = {}
    for flow in traced:
        for node in flow.of(Kind.LAYER):
            ends = list(flow.ends(node))
            straight = has_norm(flow.modules[node]) or (bool(ends) and all(flow.kind(end) is Kind.NORM for end in ends))
            into_norm[flow.modules[node]] = straight and into_norm.get(flow.modules[node], True)
    for layer, straight in into_norm.items():
        if straight and isinstance(layer, (nn.Linear, *Conv)):
            layer.bias = None


def _place(module: nn.Module, flow: Flow, node: fx.Node) -> str:
    if node in flow.modules:
        names = (name for name, part in module.named_modules() if part is flow.modules[node])
        return next(names) or type(module).__name__
    return f"{name_of(node)}() in {type(module).__name__}.forward"
