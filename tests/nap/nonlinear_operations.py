"""Which nonlinear operations a model runs without a norm before them, seen by torch's dispatcher: no code of `nap`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

LAYERS = {"mm", "addmm", "bmm", "baddbmm", "mv", "dot", "convolution", "embedding", "linear", "_convolution"}
NORMS = {
    "native_layer_norm", "native_group_norm", "native_batch_norm", "_native_batch_norm_legit", "_fused_rms_norm",
    "_native_batch_norm_legit_no_training", "_batch_norm_with_update", "_native_batch_norm_legit_functional",
    "cudnn_batch_norm", "rms_norm", "batch_norm", "group_norm", "layer_norm", "_batch_norm_no_update",
}  # fmt: skip
UNBOUNDED = {"relu", "gelu", "silu", "elu", "leaky_relu"}
"""Activations that bound nothing: even as a model's last operation they are to be listed."""
ACTIVATIONS = {
    "relu", "gelu", "silu", "elu", "leaky_relu", "mish", "hardswish", "hardsigmoid", "hardtanh", "selu", "celu",
    "_prelu_kernel", "glu", "softplus", "tanh", "sigmoid", "log_sigmoid_forward", "threshold", "softshrink",
}  # fmt: skip
ELEMENTWISE = {
    "exp", "expm1", "log", "log1p", "sin", "cos", "erf", "pow", "abs", "sign", "clamp", "clamp_min", "clamp_max",
    "maximum", "minimum", "round", "floor", "ceil", "sqrt", "rsqrt", "reciprocal", "_softmax", "_safe_softmax",
    "_log_softmax", "topk", "sort", "max", "min", "amax", "amin", "logsumexp", "cumprod", "prod", "std", "var",
    "linalg_vector_norm",
}  # fmt: skip
SOFTMAX = {"_softmax", "_safe_softmax"}
PRODUCTS = {"mul", "div", "bmm", "mm", "addcmul", "baddbmm", "dot", "mv"}
CREATION = re.compile(
    "^(empty|zeros|ones|full|rand|randn|new)(_|$)|^(bernoulli|argmax|argmin|multinomial|eq|ne|lt|le|gt|ge)"
)
NORM_CLASS = re.compile(r"Norm(\w*\d[dD])?$|Norm(2d)?Act?$|^ScaleNorm|LayerNorm|RMSNorm|GroupNorm|BatchNorm")


@dataclass
class Operation:
    """One nonlinear operation on values that no norm and no other nonlinearity comes right before."""

    name: str
    path: str
    followed: bool = False
    """Whether a layer or another nonlinearity comes behind it."""
    attention: bool = False


@dataclass
class Values:
    """What a tensor holds: of parameters alone, or computed by layers, `fresh` where neither a norm nor a nonlinearity
    came last."""

    parameters: bool = False
    fresh: bool = False
    behind: list[Operation] = field(default_factory=list)
    logits: list[Operation] = field(default_factory=list)


class Watch(TorchDispatchMode):
    """Follows every tensor through the operations that torch dispatches."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.found: list[Operation] = []
        self.values: dict[int, tuple[Tensor, Values]] = {}
        self.paths: list[str] = [""]
        self.in_norm = 0
        self.names = {part: name for name, part in model.named_modules()}

    def __enter__(self) -> Watch:
        hooks = torch.nn.modules.module
        self.hooks = [
            hooks.register_module_forward_pre_hook(self.called),
            hooks.register_module_forward_hook(self.returned),
        ]
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for hook in self.hooks:
            hook.remove()

    def called(self, module: nn.Module, args: Any) -> None:
        self.paths.append(self.names.get(module, self.paths[-1]))
        self.in_norm += is_norm(module)

    def returned(self, module: nn.Module, args: Any, out: Any) -> None:
        self.paths.pop()
        self.in_norm -= is_norm(module)
        if is_norm(module) and not self.in_norm:
            for tensor in tensors(out):
                self.note(tensor, Values())

    def note(self, tensor: Tensor, values: Values) -> None:
        self.values[id(tensor)] = (tensor, values)

    def of(self, tensor: Tensor) -> Values | None:
        if isinstance(tensor, nn.Parameter):
            return Values(parameters=True)
        return self.values.get(id(tensor), (None, None))[1]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **kwargs or {})
        given = [values for tensor in tensors((args, kwargs or {})) if (values := self.of(tensor)) is not None]
        name = func._schema.name.split("::")[1]
        if given and not CREATION.search(name):
            found = self.result(name if name.startswith("_") else name.rstrip("_"), given)
            for tensor in tensors(out):
                if tensor.is_floating_point():
                    self.note(tensor, found)
        return out

    def result(self, name: str, given: list[Values]) -> Values:
        """What an operation's result holds, and whether the operation is one to list."""
        learned = [values for values in given if not values.parameters]
        constant = len(learned) < len(given)
        if name in LAYERS and (constant or name == "embedding") and len(learned) < 2:
            follow(learned)
            return Values(fresh=True)
        if not learned:
            return Values(parameters=True)
        if name in NORMS or self.in_norm:
            follow(learned)
            return Values()
        behind = [operation for values in learned for operation in values.behind]
        logits = [operation for values in learned for operation in values.logits]
        fresh = [values for values in learned if values.fresh]
        if name in SOFTMAX:
            for operation in logits:
                operation.attention = True
        if name not in (PRODUCTS if len(learned) > 1 else ()) and name not in ACTIVATIONS | ELEMENTWISE:
            return Values(fresh=bool(fresh), behind=behind, logits=logits)
        if len(fresh) > (name in PRODUCTS):
            attends = name in SOFTMAX and bool(logits)
            operation = Operation(name, self.paths[-1], attention=attends)
            self.found.append(operation)
            capped = name in LAYERS or (name == "tanh" and logits)
            # A cap's result is still the logits; any other result counts as that of a nonlinearity.
            kept = [*logits, operation] if capped else []
            return Values(fresh=bool(capped), behind=[*behind, operation], logits=kept)
        if name in ACTIVATIONS:
            follow(learned)
        return Values(behind=behind, logits=logits)

    def unlisted(self, listed: list[str], root: str) -> list[str]:
        """The operations that should have been listed and are not."""
        places = [place_of(entry, root) for entry in listed]
        return sorted(
            {
                f"{operation.name} in {operation.path or root}"
                for operation in self.found
                if not operation.attention
                and (operation.followed or operation.name in UNBOUNDED)
                and not any(is_at(operation, *place) for place in places)
            }
        )


def is_norm(module: nn.Module) -> bool:
    return bool(NORM_CLASS.search(type(module).__name__))


def follow(values: list[Values]) -> None:
    for each in values:
        for operation in each.behind:
            operation.followed = True


def place_of(entry: str, root: str) -> tuple[str, bool]:
    """The module's name in an entry of a report, and whether the entry is of a function in its forward."""
    match = re.fullmatch(r"\w+\(\) in \w+\.forward(?: \((.*)\))?", entry)
    path = (match[1] or "") if match else entry
    return ("" if path == root else path), match is not None


def is_at(operation: Operation, path: str, function: bool) -> bool:
    return operation.path == path or (not function and operation.path.startswith(f"{path}."))


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors(item)
