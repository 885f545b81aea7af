"""Modules of other libraries, recognised by what they compute: linear layers, norms and elementwise activations."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from enum import Enum, auto
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from nap.generators import generators_kept
from nap.graph.outlines import Outline, outline_of
from nap.graph.parameters import parameter_spec
from nap.graph.sharded import own_class


class Role(Enum):
    """What a module without children computes."""

    LINEAR = auto()  # x @ weight.T + bias
    TRANSPOSED_LINEAR = auto()  # x @ weight + bias, as transformers' Conv1D
    NORM = auto()  # the same for x and 3x
    ACTIVATION = auto()  # elementwise and not affine
    UNKNOWN = auto()


Random = Callable[..., Tensor]
LINEAR_ROLES = (Role.LINEAR, Role.TRANSPOSED_LINEAR)
_known: WeakKeyDictionary[nn.Module, Role] = WeakKeyDictionary()
_like: dict[Outline, Role] = {}


def role(module: nn.Module) -> Role:
    """What another library's module computes, found once by running a copy of it on a few random numbers."""
    if own_class(module).__module__.startswith("torch.") or not _is_small(module):
        return Role.UNKNOWN
    if module not in _known:
        outline, whole = outline_of(module)
        _known[module] = (_like.get(outline) if whole else None) or _probe(module)
        if whole and not module._modules:
            _like[outline] = _known[module]
    return _known[module]


def share_roles(module: nn.Module, twin: nn.Module) -> None:
    """Finds the roles of a module's parts, and gives them to the parts of its copy: probing one runs it."""
    for part, other in zip(module.modules(), twin.modules(), strict=True):
        found = role(part)
        if part in _known:
            _known[other] = found


def _is_small(module: nn.Module) -> bool:
    coscaled = parameter_spec(module).coscaled
    parameters = {n: p for n, p in module._parameters.items() if p is not None and n not in coscaled}
    if any(is_lazy(parameter) or not parameter.is_floating_point() for parameter in parameters.values()):
        return False
    shapes = {name: parameter.shape for name, parameter in parameters.items()}
    # A norm's scale may be stored as [1, C, 1, 1]; a weight [1, C] is a matrix.
    vectors = [n for n, s in shapes.items() if s.numel() == max(s, default=1) and (n != "weight" or len(s) != 2)]
    matrices = [name for name in shapes if name not in vectors]
    linear = matrices == ["weight"] and len(shapes["weight"]) == 2
    return not module._modules and len(shapes) <= 2 and (linear or not matrices)


def norm_scales(norm: nn.Module) -> list[nn.Parameter]:
    """The parameters of another library's norm, whatever their names, that multiply rather than add."""
    random = _random()
    with torch.no_grad(), generators_kept():
        twin = _twin(norm, random)
        own = {name: parameter for name, parameter in twin._parameters.items() if parameter is not None}
        x = next(x for x in _inputs(twin, random) if (out := _call(twin, x)) is not None and out.shape == x.shape)
        other = random(*x.shape)
        added = {name: _adds(twin, parameter, x, other) for name, parameter in own.items()}
    return [parameter for name, parameter in norm.named_parameters(recurse=False) if not added[name]]


def _adds(module: nn.Module, parameter: nn.Parameter, x: Tensor, other: Tensor) -> bool:
    """Whether a parameter changes the output by the same amount for any input."""
    before = [module.forward(value) for value in (x, other)]
    parameter.add_(1)
    after = [module.forward(value) for value in (x, other)]
    parameter.sub_(1)
    return _close(after[0] - before[0], after[1] - before[1])


def _random() -> Random:
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator)


def _twin(module: nn.Module, random: Random) -> nn.Module:
    """A copy with random parameters."""
    twin = copy.deepcopy(module)
    if any(tensor.is_meta for tensor in (*twin.parameters(), *twin.buffers())):
        twin.to_empty(device="cpu")
        for buffer in twin.buffers():
            buffer.zero_()
    twin = twin.to("cpu", torch.float32).eval()
    for parameter in twin.parameters():
        parameter.copy_(random(*parameter.shape))
    return twin


def _inputs(module: nn.Module, random: Random) -> Iterator[Tensor]:
    """Inputs of the shapes that a module with such parameters may take."""
    width = max((parameter.numel() for parameter in module.parameters() if parameter.numel() > 1), default=8)
    yield from (random(*shape) for shape in ((4, width), (2, 3, width), (2, width, 3, 3)))


def _probe(module: nn.Module) -> Role:
    random = _random()
    with torch.no_grad(), generators_kept():
        try:
            twin = _twin(module, random)
        except Exception:  # anything may be raised by another library's module: it is then not known
            return Role.UNKNOWN
        weight = twin._parameters.get("weight")
        if weight is not None and weight.ndim == 2:
            return next((kind for kind in LINEAR_ROLES if _is_linear(twin, kind, random)), Role.UNKNOWN)
        for x in _inputs(twin, random):
            other = random(*x.shape)
            if _is_elementwise(twin, x, other):
                return Role.UNKNOWN if _is_affine(twin, x, other) else Role.ACTIVATION
            if _is_scale_free(twin, x, other):
                return Role.NORM
    return Role.UNKNOWN


def _call(module: nn.Module, x: Tensor) -> Tensor | None:
    try:
        out = module.forward(x.clone())  # not by call: fx patches that while it traces, and hooks are not its own
    except Exception:  # the wrong shape for it, or more arguments wanted
        return None
    return out if isinstance(out, Tensor) and out.is_floating_point() else None


def _close(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-5)


def _is_linear(module: nn.Module, kind: Role, random: Random) -> bool:
    weight, bias = module._parameters["weight"], module._parameters.get("bias")
    assert weight is not None
    matrix = weight if kind is Role.TRANSPOSED_LINEAR else weight.T
    x = random(2, 3, matrix.shape[0])
    expected = x @ matrix
    return _close(_call(module, x), expected if bias is None or bias.shape != matrix.shape[1:] else expected + bias)


def _is_elementwise(module: nn.Module, x: Tensor, other: Tensor) -> bool:
    kept = other > 0
    a, b = _call(module, x), _call(module, other)
    if a is None or b is None or not a.shape == b.shape == x.shape:
        return False
    return _close(_call(module, torch.where(kept, x, other)), torch.where(kept, a, b))


def _is_affine(module: nn.Module, x: Tensor, other: Tensor) -> bool:
    a, b, both, zero = (module.forward(value) for value in (x, other, x + other, torch.zeros_like(x)))
    return _close(a + b, both + zero)


def _is_scale_free(module: nn.Module, x: Tensor, other: Tensor) -> bool:
    out = _call(module, x)
    same_shape = out is not None and out.shape == x.shape
    return same_shape and _close(out, _call(module, 3 * x)) and not _close(out, _call(module, other))
