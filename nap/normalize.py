"""Normalize: puts a normalisation before every nonlinearity and removes the biases that it makes redundant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from nap.graph.flow import Flow, has_norm
from nap.graph.foreign import LINEAR_ROLES, role
from nap.graph.kinds import ENCODER_LAYERS, Kind, is_plain_block
from nap.graph.norms import EPS, NormalizedActivation, make_norm
from nap.graph.outlines import outline_of_all
from nap.graph.parameters import coscaled_params
from nap.graph.sharded import ORDER, is_sharded, prepare
from nap.graph.traces import Trace, trace
from nap.graph.weights import Conv, find_weights
from nap.report import ONE_UNIT, Report, describe, remembered
from nap.suggest import suggest

MakeNorm = Callable[[int, int, Tensor], nn.Module | None]


def normalize(
    module: nn.Module,
    *,
    norm: str = "layer",
    conv_axes: str = "channels",
    eps: float = EPS,
    example_inputs: Any = None,
    outputs: Iterable[str] | None = None,
) -> Report:
    """Puts a norm before every nonlinearity of `module`, in place, and drops the biases that become redundant.

    Call it before the optimiser exists: parameters are added and removed. `norm` is "layer" (LayerNorm) or "rms"
    (RMSNorm). `conv_axes` says what a norm after a convolution covers: "channels" (each position by itself) or
    "channels_and_space" (batched input only). A nonlinearity that already follows a norm gets no second one, and a
    tanh or sigmoid that only bounds the output gets none, nor does one of a single unit, which a norm would make
    constant. Attention's softmax is not counted as a nonlinearity. What cannot be handled is listed in the report with
    the reason. Forwards are followed in train and eval mode: on `example_inputs` if given, which follows any code, else
    without and with their optional arguments, as far as each can be traced. `example_inputs` and `outputs`, the names
    of the output layers, are those of `nap.analyze`; a later `Projection` of the module knows them too.
    Source: Lyle et al. 2024, arXiv 2407.01800.

    Raises ValueError for an unknown `norm` or `conv_axes`, and for a model that is compiled, wrapped for distributed
    training or lazy.
    """
    for option, value, known in (
        ("norm", norm, ("layer", "rms")),
        ("conv_axes", conv_axes, ("channels", "channels_and_space")),
    ):
        if value not in known:
            raise ValueError(f"nap.normalize: {option}={value!r} is unknown; {suggest(value, known)}")
    _refuse_finished(module)
    make: MakeNorm = partial(_make, norm=norm, conv_axes=conv_axes, eps=eps)
    without: list[tuple[str, str]] = []
    example_inputs, names = remembered(module, example_inputs, outputs)
    traced = trace(module, example_inputs)
    before = outline_of_all(module)
    calls = traced.calls()
    for flow in traced.flows:
        tried = [(node, _insert(module, flow, node, traced, calls, make)) for node in flow.of(Kind.NONLINEAR)]
        without += [(_place(module, flow, node), why) for node, why in tried if why]
    for block in module.modules():
        if isinstance(block, ENCODER_LAYERS) and is_plain_block(block):
            _normalize_block(block, make)
        elif isinstance(block, nn.TransformerEncoder):
            block.use_nested_tensor = False  # its check reads the biases that were removed
    if outline_of_all(module) != before:
        traced = trace(module, example_inputs)
    _drop_biases(traced)
    report = describe(module, traced, example_inputs, names)
    report.left_out |= {name: why for name, why in without if why == ONE_UNIT}
    not_handled = [(name, why) for name, why in without if why != ONE_UNIT]
    report.not_handled = list(dict.fromkeys(not_handled + report.not_handled))
    return report


def _refuse_finished(module: nn.Module) -> None:
    prepare("nap.normalize", module)
    if sharded := [name for name, value in module.named_parameters() if is_sharded(value)]:
        raise ValueError(f"nap.normalize: {sharded[0]} is sharded; the order is {ORDER}")
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
    """Puts a norm before one nonlinearity; returns the reason if it cannot, or None."""
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
