"""The report on a model: which weights are scale-invariant, which are not and why, and which belong to the outputs."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from torch import fx, nn
from torch.nn.utils.parametrize import ParametrizationList

from nap.graph.axes import width
from nap.graph.flow import Flow, factors_of
from nap.graph.kinds import ENCODER_LAYERS, SUMMING, Kind, is_plain_block, name_of
from nap.graph.linearity import uncalled, unhandled
from nap.graph.norms import BATCH_NORMS, NormalizedActivation
from nap.graph.outlines import Outline, outline_of_all
from nap.graph.sharded import unsharded
from nap.graph.traces import Trace, trace
from nap.graph.weights import MATRIX_LAYERS, Weight, find_weights
from nap.suggest import suggest

UNNORMED = "feeds a nonlinearity without a norm"
UNTRACED = "its use cannot be traced"
MENDING = "give example_inputs=, which the forward is run on, or outputs="
UNCALLED = "the forward does not call it, so it got no norm: normalise it by itself, or give other example_inputs="
COMPUTES = "another weight is computed from it"
ONE_UNIT = "has one unit, which a norm would make constant"
UNLINEAR = {
    Kind.PRODUCT: "a product of two learned values, so not linear: put a norm before it",
    Kind.ELEMENTWISE: "not linear, but no known activation: put a norm before it if it acts as one",
    Kind.OTHER: "not known to be linear: put a norm before it if it acts as an activation",
}
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
    outputs_unknown: list[str] = field(default_factory=list)
    """Those of `outputs` that may be hidden layers: nothing is known of what follows them."""
    outputs_given: list[str] = field(default_factory=list)
    """The names that were given as `outputs=`."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Parts left unchanged, with the reason: layers of one unit before a nonlinearity, and parameters of two or more
    dimensions of unknown use. `Projection` projects them only if they are in `include`. After `normalize` also the
    nonlinearities that got no norm because their input has one unit."""
    dropped_biases: list[str] = field(default_factory=list)
    """Biases that `normalize` removed, by the names they had."""
    tied: dict[str, list[str]] = field(default_factory=dict)
    """The other names of weights that several modules share."""

    def __str__(self) -> str:
        known = [name for name in self.outputs if name not in self.outputs_unknown]
        sections = [
            ("scale-invariant", [(self._known_as(name), "") for name in self.scale_invariant]),
            ("projected, not scale-invariant", [(self._known_as(n), why) for n, why in self.projected_only.items()]),
            (
                f"output, not projected{' (given)' if self.outputs_given else ''}",
                [(self._known_as(name), "") for name in known],
            ),
            (
                f"maybe output, so not projected: nothing is known of what follows; {MENDING}",
                [(self._known_as(name), "") for name in self.outputs_unknown],
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
    stacks: dict[tuple[str, str], list[str]] = {}
    for name, why in found:
        base, _, index = name.removesuffix("]").rpartition("[")
        key = (base, why) if name.endswith("]") and index.isdigit() else (name, why)
        stacks.setdefault(key, []).append(f"[{index}]" if key[0] == base else "")
    for (base, why), members in stacks.items():
        name = base + (members[0] if len(members) == 1 else f"{members[0][:-1]}..{members[-1][1:]}")
        match = _STACKED.search(name)
        stack, number = match.groups() if match else (name, "")
        after = name[match.end() :] if match else ""
        before = name[: match.end(1)] if match else name
        groups.setdefault((before, after, why.replace(stack + number, f"{stack}*")), []).append((number, why))
    lines = []
    for (before, after, shared), numbered in groups.items():
        numbers = ",".join(number for number, _ in numbered)
        alone = len(numbered) == 1
        name, why = f"{before}{numbers if alone else f'{{{numbers}}}'}{after}", numbered[0][1] if alone else shared
        lines.append(f"{name}: {why}" if why else name)
    return lines


@dataclass(frozen=True)
class _Known:
    """What was found of a module, and what was given for it."""

    outline: Outline
    report: Report
    example_inputs: Any


_known: WeakKeyDictionary[nn.Module, _Known] = WeakKeyDictionary()


def analyze(module: nn.Module, example_inputs: Any = None, outputs: Iterable[str] | None = None) -> Report:
    """The report on a module as it is: which weights are scale-invariant, and which belong to the output layers.

    example_inputs: what the forward is called with: a tensor, a tuple of arguments, or a dict of keyword arguments; a
        list of these for several calls. The forward is then run on them, in train and eval mode, and any code is
        followed. Without them it is traced with stand-in values, which branches on data or shapes stop.
    outputs: names of the modules or parameters that are the output layers, in place of those found.

    What is not given is as it was in the last call for this module, by `normalize`, `Projection` or `param_groups` too;
    while the module's structure stays, they share one analysis. Nothing of the module changes, nor do the global random
    generators.
    Raises ValueError if the forward fails on example_inputs, and for a name in `outputs` that has no weight.
    """
    with unsharded(module):
        known = _known.get(module)
        if known is not None and example_inputs is outputs is None and known.outline == outline_of_all(module):
            return copy.deepcopy(known.report)
        example_inputs, outputs = remembered(module, example_inputs, outputs)
        return describe(module, trace(module, example_inputs), example_inputs, outputs)


def remembered(module: nn.Module, example_inputs: Any, outputs: Iterable[str] | None) -> tuple[Any, list[str]]:
    """What an analysis was given, or the last one of the same module where this one was given nothing."""
    known = _known.get(module, _Known((), Report(), None))
    return (
        known.example_inputs if example_inputs is None else example_inputs,
        known.report.outputs_given if outputs is None else [outputs] if isinstance(outputs, str) else list(outputs),
    )


def describe(module: nn.Module, traced: Trace, example_inputs: Any, outputs: list[str]) -> Report:
    """The report on a module of this data flow, remembered with what `analyze` was given."""
    weights = find_weights(module, free=True)
    report = Report(outputs_given=outputs)
    report.tied = {name: weight.tied for name, weight in weights.items() if weight.tied}
    report.not_handled = list(dict.fromkeys(traced.untraced + _unseen(module, traced)))
    report.left_out = _left_out(module, weights)
    reasons, given = _reasons(module, traced), _given(weights, report.outputs_given)
    last: dict[bool, set[int]] = {whole: set() for whole in (True, False)}
    for flow in traced.flows:
        last[not flow.name].update(flow.output_parameters())
    for name, weight in weights.items():
        why = _weight_reason(weight, reasons)
        unknown = why == UNTRACED or id(weight.parameter) in last[False]
        if weight.free and name not in given and why is not None and why.startswith((UNTRACED, COMPUTES, "is used by")):
            unclear = f"a parameter of {type(weight.owner).__name__}, whose use is not known"
            report.left_out[name] = COMPUTES if why == COMPUTES else unclear
        elif name in given or (not given and (unknown or id(weight.parameter) in last[True])):
            report.outputs.append(name)
            report.outputs_unknown += [name] if unknown and not given else []
        elif why:
            alone = why == UNNORMED and not weight.free and width(weight.owner) == 1
            (report.left_out if alone else report.projected_only)[name] = ONE_UNIT if alone else why
        else:
            report.scale_invariant.append(name)
    _known[module] = _Known(outline_of_all(module), copy.deepcopy(report), example_inputs)
    return report


def _given(weights: dict[str, Weight], names: list[str]) -> set[str]:
    """The weights that names of modules or parameters mean."""
    found: set[str] = set()
    for given in names:
        meant = {
            name
            for name, weight in weights.items()
            if any(full == given or full.startswith((f"{given}.", f"{given}[")) for full in (name, *weight.tied))
        }
        if not meant:
            owners = dict.fromkeys(name.rpartition(".")[0] for name in weights)
            raise ValueError(f"nap: outputs has {given!r}, which has no weight; {suggest(given, [*weights, *owners])}")
        found |= meant
    return found


def _unseen(module: nn.Module, traced: Trace) -> list[tuple[str, str]]:
    """Parts that no data flow shows: recurrent layers' inside, layers called as functions, computed weights, unknown
    functions, parts that are not called."""
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
    found += [(name, UNCALLED) for name in uncalled(module, traced)]
    weights = find_weights(module, free=True).values()
    layers = {id(weight.parameter) for weight in weights if not weight.free}
    free = {id(weight.parameter) for weight in weights if weight.free}
    for flow in traced.flows:
        found += [
            (flow.place(node), "a layer called as a function: its weights are not analysed")
            for node in flow.of(Kind.UNSEEN)
            if not (used := [value for value, use in flow.parameter_uses() if use is node and value.ndim > 1])
            or not all(
                id(value) in layers or (id(value) in free and flow.is_plain_weight(value, node)) for value in used
            )
        ]
        found += [
            (flow.place(node), UNLINEAR[flow.kind(node)])
            for node in unhandled(flow)
            if not isinstance(flow.modules.get(node), nn.RNNBase | nn.RNNCellBase)
        ]
    return found


def _left_out(module: nn.Module, weights: dict[str, Weight]) -> dict[str, str]:
    known = {id(parameter) for weight in weights.values() for parameter in (weight.parameter, *weight.coscaled_params)}
    owners = {id(p): owner for owner in module.modules() for p in owner.parameters(recurse=False)}
    return {
        name: COMPUTES
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
            reasons.setdefault(id(parameter), []).append(_use_reason(flow, parameter, use))
    for layer in traced.loose:
        reasons.setdefault(id(layer), []).append(UNTRACED)
    return reasons


def _use_reason(flow: Flow, parameter: nn.Parameter, use: fx.Node) -> str | None:
    """Why a parameter that code uses without calling its module is not scale-invariant there."""
    if flow.kind(use) is not Kind.UNSEEN:
        return f"is used by {flow.place(use)} too"
    if not flow.is_plain_weight(parameter, use):
        return COMPUTES
    name, factors = name_of(use), factors_of(use)
    learned = any(factor not in flow.parameters for factor in factors[2:])
    if name in SUMMING or (learned and name.startswith(("linear", "conv"))):
        return "feeds a sum"
    bias = any(value.ndim == 1 for factor in factors for value in flow.parameters.get(factor, ()))
    return _reason(flow, use) or ("keeps its bias" if bias else None)


def _weight_reason(weight: Weight, reasons: dict[int, list[str | None]]) -> str | None:
    if isinstance(weight.owner, nn.MultiheadAttention):
        value = weight.name.endswith(("[v]", "v_proj_weight"))
        return "forms attention values" if value else "forms attention logits"
    calls = [] if weight.free else [why for owner in weight.owners for why in reasons.get(id(owner), [])]
    uses = calls + reasons.get(id(weight.parameter), [])
    bias = not weight.free and any(owner._parameters.get("bias") is not None for owner in weight.owners)
    found = next(filter(None, uses), None) if uses else UNTRACED
    return found or ("keeps its bias" if bias else None)


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
    ends = list(flow.ends(layer))
    return next(filter(None, (_end_reason(flow, end) for end in ends)), None) if ends else UNTRACED


def _end_reason(flow: Flow, end: fx.Node) -> str | None:
    kind, module = flow.kind(end), flow.modules.get(end)
    if kind is Kind.NORM:
        batch = isinstance(module, BATCH_NORMS) or name_of(end) in ("batch_norm", "instance_norm")
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
