"""Normalize: puts a normalisation before every nonlinearity and removes the biases that its offset replaces."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy

from nap.graph.flow import PASSING, Flow, reached_from
from nap.graph.foreign import LINEAR_ROLES, role
from nap.graph.kinds import ENCODER_LAYERS, Kind, is_plain_block, name_of
from nap.graph.linearity import attention_of
from nap.graph.norms import BATCH_NORMS, FLOOR, NormalizedActivation, NormalizedLayer, expected_variance, make_norm
from nap.graph.outlines import outline_of_all
from nap.graph.parameters import coscaled_params
from nap.graph.sharded import ORDER, is_sharded, prepare
from nap.graph.tracer import has_hooks
from nap.graph.traces import Trace, trace
from nap.graph.weights import Conv
from nap.report import ONE_UNIT, Report, describe, remembered
from nap.suggest import suggest

STOPPING = {"relu", "relu6", "hardshrink", "softshrink"}
"""Activations of slope zero at zero: no gradient reaches a norm before them from a row that is all zero."""
LEARNED = (Kind.LAYER, Kind.UNSEEN, Kind.BLOCK, Kind.NORM)


@dataclass(frozen=True)
class _Options:
    """The arguments of `normalize`."""

    norm: str
    conv_axes: str
    eps: float | None
    biases: str

    def check(self) -> None:
        for option, known in (
            ("norm", ("layer", "rms")),
            ("conv_axes", ("channels", "channels_and_space")),
            ("biases", ("replaced", "drop", "keep")),
        ):
            if (value := getattr(self, option)) not in known:
                raise ValueError(f"nap.normalize: {option}={value!r} is unknown; {suggest(value, known)}")

    @property
    def keeps_biases(self) -> bool:
        """Whether a layer before a new norm keeps its bias."""
        return self.biases == "keep" or (self.biases == "replaced" and self.norm == "rms")

    def make(self, width: int, space: int, like: Tensor, floor: float) -> nn.Module | None:
        """A new norm, or None for one that would cover a single value."""
        alone = width == 1 and (space == 0 or self.conv_axes == "channels")
        return None if alone else make_norm(width, space, self.norm, self.conv_axes, self.eps, like, floor)


def normalize(
    module: nn.Module,
    *,
    norm: str = "layer",
    conv_axes: str = "channels",
    eps: float | None = None,
    biases: str = "replaced",
    example_inputs: Any = None,
    outputs: Iterable[str] | None = None,
) -> Report:
    """Puts a norm before every nonlinearity of `module`, in place, and drops the biases that its offset replaces.

    Call it before the optimiser exists: parameters are added and removed. `norm` is "layer" (LayerNorm) or "rms"
    (RMSNorm). `conv_axes` says what a norm after a convolution covers: "channels" (each position by itself) or
    "channels_and_space" (batched input only). A nonlinearity that already follows a norm gets no second one, and a
    tanh or sigmoid that only bounds the output gets none, nor does one of a single unit, which a norm would make
    constant. Attention's softmax and a tanh that caps its logits are not counted as nonlinearities. What cannot be
    handled is listed in the report with the reason. Forwards are followed in train and eval mode: on `example_inputs`
    if given, which follows any code, else without and with their optional arguments, as far as each can be traced.
    `example_inputs` and `outputs`, the names of the output layers, are those of `nap.analyze`; a later `Projection` of
    the module knows them too.
    Source: Lyle et al. 2024, arXiv 2407.01800.

    eps: what each new norm adds to the variance. None chooses: 1e-12, or a `nap.FlooredNorm` where an all-zero row
    would let a huge gradient through, which is behind a layer whose input is learned and before a nonlinearity other
    than ReLU.
    biases: which biases of layers that feed norms alone are dropped. "replaced": before a new norm with an offset, and
    before a BatchNorm, whose running mean takes it over. "drop": before every norm, as the paper does. "keep": none.
    The report names them.

    Raises ValueError for an unknown `norm`, `conv_axes` or `biases`, and for a model that is compiled, wrapped for
    distributed training or lazy.
    """
    options = _Options(norm, conv_axes, eps, biases)
    options.check()
    _refuse_finished(module)
    names = {part: name for name, part in module.named_modules()}
    without: list[tuple[str, str]] = []
    example_inputs, given = remembered(module, example_inputs, outputs)
    traced = trace(module, example_inputs)
    before = outline_of_all(module)
    calls = traced.calls()
    for flow in traced.flows:
        attention = attention_of(flow)
        nodes = [node for node in flow.of(Kind.NONLINEAR) if node not in attention]
        tried = [(node, _insert(module, flow, node, traced, calls, options)) for node in nodes]
        without += [(_place(module, flow, node), why) for node, why in tried if why]
    for block in module.modules():
        if isinstance(block, ENCODER_LAYERS) and is_plain_block(block):
            _normalize_block(block, options)
        elif isinstance(block, nn.TransformerEncoder):
            block.use_nested_tensor = False  # its check reads the biases that were removed
    if outline_of_all(module) != before:
        traced = trace(module, example_inputs)
    dropped = [] if biases == "keep" else _drop_biases(module, traced, every=biases == "drop")
    report = describe(module, traced, example_inputs, given)
    report.dropped_biases = [f"{names[layer]}.bias" for layer in dropped]
    report.left_out |= {name: why for name, why in without if why == ONE_UNIT}
    not_handled = [(name, why) for name, why in without if why != ONE_UNIT]
    report.not_handled = list(dict.fromkeys(not_handled + report.not_handled))
    return report


def _refuse_finished(module: nn.Module) -> None:
    prepare("nap.normalize", module)
    if sharded := [name for name, value in module.named_parameters() if is_sharded(value)]:
        raise ValueError(f"nap.normalize: {sharded[0]} is sharded; the order is {ORDER}")
    for name, parameter in module.named_parameters():
        if is_lazy(parameter):
            layer = name.rpartition(".")[0] or type(module).__name__
            raise ValueError(f"nap.normalize: {layer} is lazy and has no weight yet: run one batch first")
    for name, part in module.named_modules():
        place = name or type(part).__name__
        if hasattr(part, "_orig_mod") or part._compiled_call_impl is not None:
            raise ValueError(f"nap.normalize: {place} is compiled: normalise the model first, then compile it")
        if isinstance(part, torch.jit.ScriptModule):
            raise ValueError(f"nap.normalize: {place} is scripted: normalise the model first, then script it")
        if isinstance(part, nn.parallel.DistributedDataParallel):
            raise ValueError(f"nap.normalize: {place} holds its parameters: normalise the model first, then wrap it")


def _insert(
    module: nn.Module, flow: Flow, node: fx.Node, traced: Trace, calls: Counter[nn.Module], options: _Options
) -> str | None:
    """Puts a norm before one nonlinearity; returns the reason if it cannot, or None."""
    source = next(iter(node.all_input_nodes), None)
    if source is None or flow.normalized(source) or flow.is_output_map(node):  # None: called without values
        return None
    if flow.squashes_last(node):
        return f"it may only bound the output: what follows {flow.name} cannot be traced; put a norm before it if not"
    layout = flow.layout(source) or flow.read_layout(node)
    if layout is None:
        return "the width of its input is not known here (an input, a reshape, an unknown operation)"
    if layout[2].is_complex():
        return "its input is complex, and the norms here are of real numbers"
    activation = flow.modules.get(node)
    owners = _holders(module, activation)
    if any(isinstance(owner, NormalizedActivation) for owner in owners.values()):
        return None  # wrapped a moment ago, for another trace of the same call
    layer = flow.source(source, (Kind.SAME,))
    floor = _floor(flow, node, options.keeps_biases, like=layout[2])
    if (norm := options.make(*layout, floor)) is None:
        return ONE_UNIT
    if activation is not None and _is_plain_call(node) and calls[activation] == 1 and owners and "" not in owners:
        wrapped = NormalizedActivation(norm, activation)
        for name in owners:
            module.set_submodule(name, wrapped)
        return None
    used = flow.modules.get(layer)
    if used is not None and flow.kind(layer) is Kind.LAYER and _feeds_only_nonlinearities(used, traced):
        _wrap_layer(module, used, options.make(*(flow.layout(layer) or layout), floor))
        return None
    use = "it is shared by several calls" if activation is not None else "it is a function"
    return f"{use} and its input does not come from one layer alone: give each call its own activation module"


def _holders(module: nn.Module, activation: nn.Module | None) -> dict[str, nn.Module]:
    """Every name of an activation module, with the module that holds it."""
    if activation is None:
        return {}
    names = [name for name, part in module.named_modules(remove_duplicate=False) if part is activation]
    return {name: module.get_submodule(name.rpartition(".")[0]) for name in names}


def _is_plain_call(node: fx.Node) -> bool:
    return len(node.args) + len(node.kwargs) == 1 and node.kwargs.keys() <= {"input"}


def _feeds_only_nonlinearities(layer: nn.Module, traced: Trace) -> bool:
    if layer in traced.loose or isinstance(layer, nn.MultiheadAttention) or has_hooks(layer):
        return False
    calls = [(flow, call) for flow in traced.flows for call in flow.calls(layer)]
    ends = all(flow.kind(end) is Kind.NONLINEAR for flow, call in calls for end in flow.ends(call))
    return ends and all(_is_plain_call(call) for _, call in calls)


def _wrap_layer(module: nn.Module, layer: nn.Module, norm: nn.Module | None) -> None:
    owners = _holders(module, layer)
    if norm is None or any(isinstance(owner, NormalizedLayer) for owner in owners.values()):
        return  # wrapped a moment ago, for another call or trace
    wrapped = NormalizedLayer(layer, norm)
    for name in owners:
        module.set_submodule(name, wrapped)


def _floor(flow: Flow, node: fx.Node, keeps_biases: bool, like: Tensor) -> float:
    """The floor of a norm before a nonlinearity: 0 if the gradient of an all-zero row reaches nothing learned there.

    The layer before the norm takes none itself, unless by a bias that was zero at first: its weight's gradient is the
    product with its input.
    """
    module = flow.modules.get(node)
    if (name_of(node) if module is None else type(module).__name__.lower()) in STOPPING:
        return 0
    layer = flow.source(node.all_input_nodes[0], PASSING)
    if flow.kind(layer) is not Kind.LAYER:
        return FLOOR * expected_variance(like)
    if keeps_biases and flow.modules[layer]._parameters.get("bias") is not None:
        return 10 * FLOOR * max(1, expected_variance(like))  # large, as its weight is not scale-invariant anyway
    given = all(_is_given(flow, source) for source in layer.all_input_nodes)
    return 0 if given else FLOOR * expected_variance(like)


def _is_given(flow: Flow, node: fx.Node) -> bool:
    """Whether a value comes from the model's input alone."""
    before = {node, *reached_from(node, back=True)}
    return not flow.name and not any(other.op == "get_attr" or flow.kind(other) in LEARNED for other in before)


def _normalize_block(block: Any, options: _Options) -> None:
    """Normalises the activation of one of torch's transformer layers."""
    if not isinstance(block.activation, NormalizedActivation):
        hidden = block.linear1
        function = {F.relu: nn.ReLU, F.gelu: nn.GELU}.get(block.activation)
        activation = function() if function else block.activation
        floor = 0 if isinstance(activation, nn.ReLU) else FLOOR * expected_variance(hidden.weight)
        norm = options.make(hidden.out_features, 0, hidden.weight, floor)
        if norm is None:
            return
        block.activation = NormalizedActivation(norm, activation)
        # TransformerDecoderLayer.__setstate__ looks for it here, and else makes a copy with a relu of its own.
        block.__dict__["activation"] = block.activation
    block.activation_relu_or_gelu = 0  # or eval mode takes a fused kernel that does not call the activation


def _drop_biases(module: nn.Module, traced: Trace, every: bool) -> list[nn.Module]:
    """Drops the biases whose place an offset takes, or `every` one before a norm; returns the layers that had one."""
    new = {part.norm for part in module.modules() if isinstance(part, NormalizedActivation | NormalizedLayer)}
    taking = {
        norm for norm in new if isinstance(norm, nn.Module) and (every or norm._parameters.get("bias") is not None)
    }
    replaced: dict[nn.Module, bool] = {}
    folds: dict[nn.Module, nn.Module] = {}
    for flow in traced.flows:
        for node in flow.of(Kind.LAYER):
            layer, ends = flow.modules[node], list(flow.ends(node))
            if (batch_norm := _folding(flow, node, traced)) is not None:
                folds[layer] = batch_norm
            into = all(flow.kind(end) is Kind.NORM and (every or flow.modules.get(end) in taking) for end in ends)
            fits = bool(ends) and (into or batch_norm is not None)
            replaced[layer] = fits and replaced.get(layer, True)
    for block in module.modules():
        if (
            isinstance(block, ENCODER_LAYERS)
            and is_plain_block(block)
            and getattr(block.activation, "norm", None) in taking
        ):
            replaced[block.linear1] = True
    used = {id(parameter) for flow in traced.flows for parameter, _ in flow.parameter_uses()}
    found = [layer for layer, fits in replaced.items() if fits and layer not in traced.loose]
    found = [layer for layer in found if id(layer._parameters.get("bias")) not in used]
    return [layer for layer in found if _drop_bias(layer, folds.get(layer))]


def _folding(flow: Flow, node: fx.Node, traced: Trace) -> nn.Module | None:
    """The BatchNorm or InstanceNorm that takes a constant per channel from a layer's output, and gets nothing else."""
    layer, end = flow.modules[node], next(iter(node.users), None)
    norm = None if end is None or len(node.users) > 1 else flow.modules.get(end)
    if not isinstance(norm, BATCH_NORMS) or traced.calls()[norm] != 1:
        return None
    flat = isinstance(layer, nn.Linear) and isinstance(norm, nn.BatchNorm1d)
    return norm if flat or isinstance(layer, Conv) else None


def _drop_bias(layer: nn.Module, batch_norm: Any = None) -> bool:
    bias = layer._parameters.get("bias")
    if bias is None:
        return False
    if batch_norm is not None and batch_norm.running_mean is not None:
        batch_norm.running_mean -= bias.detach().to(batch_norm.running_mean.dtype)
    if isinstance(layer, (nn.Linear, *Conv)) and type(layer).forward.__module__.startswith("torch.nn"):
        layer.bias = None
        return True
    if role(layer) not in LINEAR_ROLES:
        return False
    noise = coscaled_params(layer, "bias")
    if not noise and role(_without_bias(layer)) in LINEAR_ROLES:
        layer.register_parameter("bias", None)
        return True
    for name in ("bias", *noise):  # its forward insists on a bias
        delattr(layer, name)
        layer.register_buffer(name, torch.zeros_like(bias.detach()), persistent=False)
    return True


def _without_bias(layer: nn.Module) -> nn.Module:
    twin = copy.deepcopy(layer)
    twin.register_parameter("bias", None)
    return twin


def _place(module: nn.Module, flow: Flow, node: fx.Node) -> str:
    if node in flow.modules:
        names = (name for name, part in module.named_modules() if part is flow.modules[node])
        return next(names) or type(module).__name__
    return flow.place(node)
