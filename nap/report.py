"""The report on a model: which weights are scale-invariant, which are not and why, and which belong to the outputs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from torch import fx, nn
from torch.nn.utils.parametrize import ParametrizationList

from nap.graph.flow import Flow, width
from nap.graph.foreign import LINEAR_ROLES, role
from nap.graph.kinds import ENCODER_LAYERS, Kind, is_plain_block, name_of
from nap.graph.norms import BATCH_NORMS, NormalizedActivation
from nap.graph.traces import Trace, trace
from nap.graph.weights import MATRIX_LAYERS, Conv, Weight, find_weights

UNNORMED = "feeds a nonlinearity without a norm"
UNTRACED = "its use cannot be traced"
ONE_UNIT = "has one unit, which a norm would make constant"
_ENDS = {
    "add": "feeds a residual sum", "iadd": "feeds a residual sum",
    "sub": "feeds a sum", "mul": "feeds a product", "imul": "feeds a product", "cat": "feeds a concatenation",
    "matmul": "forms attention logits or values", "bmm": "forms attention logits or values",
    "softmax": "forms attention logits", "einsum": "forms attention logits or values",
    "scaled_dot_product_attention": "forms attention logits or values",
}  # fmt: skip
_STACKED = re.compile(r"((?:\w+\.)*?\w*[A-Za-z_]\w*\.)(\d+)(?=[.)]|$)")


@dataclass
class Report:
    """The report of `normalize` or `analyze`; weights by name, where `in_proj_weight[q]` is a part of a parameter."""

    scale_invariant: list[str] = field(default_factory=list)
    """Weights without a bias whose output goes straight into a norm. Their scale does not reach the output, except
    through the epsilon of a norm that the model already had, and on rows below the floor of a `FlooredNorm`."""
    projected_only: dict[str, str] = field(default_factory=dict)
    """Weights to project whose scale still matters, with the reason."""
    not_handled: list[tuple[str, str]] = field(default_factory=list)
    """(name, reason) of each nonlinearity that got no norm, and of each module that could not be analysed."""
    outputs: list[str] = field(default_factory=list)
    """Weights of the output layers, which are not projected; a weight tied to an embedding has its first name."""
    outputs_guessed: bool = False
    """True if the data flow could not be traced. The last registered linear layer or convolution is then the output."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Parts left unchanged, with the reason: layers of one unit before a nonlinearity, and parameters of two or more
    dimensions of unknown use. `Projection` projects them only if they are in `include`. After `normalize` also the
    nonlinearities that got no norm because their input has one unit."""
    dropped_biases: list[str] = field(default_factory=list)
    """Biases that `normalize` removed, by the names they had."""
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
            ("biases dropped", [(name, "") for name in self.dropped_biases]),
        ]
        text = "\n".join("\n  ".join([title + ":", *_lines(found)]) for title, found in sections if found)
        return text or "no weight matrix and no nonlinearity found"

    def _known_as(self, name: str) -> str:
        return f"{name} (tied: {', '.join(self.tied[name])})" if name in self.tied else name


def _lines(found: list[tuple[str, str]]) -> list[str]:
    """One line per name; equal names in a stack of blocks share a line: `layers.{0,1}.fc.weight: reason`."""
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
            alone = why == UNNORMED and width(weight.owner) == 1
            (report.left_out if alone else report.projected_only)[name] = ONE_UNIT if alone else why
        else:
            report.scale_invariant.append(name)
    return report


def _unseen(module: nn.Module, flows: list[Flow]) -> list[tuple[str, str]]:
    """Parts that no data flow shows: recurrent layers' inside, layers called as functions, computed weights, unknown
    functions."""
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
    """Whether a parametrization, weight_norm or spectral_norm computes the layer's weight."""
    return isinstance(layer, MATRIX_LAYERS) and "weight" not in layer._parameters


def _reasons(module: nn.Module, traced: Trace) -> dict[int, list[str | None]]:
    """Why the weights of a layer (by the layer's id) or a parameter (by its own) are not scale-invariant, by use."""
    reasons = _block_reasons(module)
    for flow in traced.flows:
        for node in flow.of(Kind.LAYER):
            layer = flow.modules[node]
            owner = layer.out_proj if isinstance(layer, nn.MultiheadAttention) else layer
            reasons.setdefault(id(owner), []).append(_reason(flow, node))
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
        if isinstance(part, ENCODER_LAYERS) and is_plain_block(part):
            for attention in part.children():
                if isinstance(attention, nn.MultiheadAttention):
                    found[id(attention.out_proj)] = ["feeds a residual sum"]
            inserted = isinstance(part.activation, NormalizedActivation)
            found[id(part.linear1)] = [None if inserted else UNNORMED]
            found[id(part.linear2)] = ["feeds a residual sum"]
    return found


def _reason(flow: Flow, layer: fx.Node) -> str | None:
    """Why a layer's weight is not scale-invariant, from where its values go; None if all go straight into a norm."""
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
    return fixed.get(kind) or _ENDS.get(name, f"feeds {name}")
