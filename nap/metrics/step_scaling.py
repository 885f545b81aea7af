"""How an optimiser's steps scale with a weight's norm: what its effective learning rate divides by."""

from __future__ import annotations

import copy
import inspect
import math
import re
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn, optim

from nap.generators import generators_kept
from nap.metrics.angles import angle

CLASSES: dict[int, tuple[type[optim.Optimizer], ...]] = {
    2: (optim.SGD, optim.ASGD),
    1: (
        optim.Adam, optim.Adamax, optim.NAdam, optim.RAdam, optim.RMSprop, optim.Adagrad, optim.Adadelta, optim.Rprop,
        optim.SparseAdam, optim.Muon,
    ),
    0: (optim.Adafactor,),
}  # fmt: skip
NAMES = {"muon": 1, "lion": 1, "soap": 1, "rprop": 1, "adam": 1, "adamw": 1, "lars": 0, "lamb": 0, "adafactor": 0}
"""Classes of other libraries, without `fused`, `paged` and the number of bits."""
SIZES, STEPS, COUNTED = (1.0, 3.0), 24, 8
_measured: WeakKeyDictionary[optim.Optimizer, int] = WeakKeyDictionary()


def exponent_of(optimizer: optim.Optimizer) -> int:
    """p, where a step turns a scale-invariant weight W by an angle in proportion to 1 / ||W||^p: 2, 1 or 0.

    2 where the step scales with the gradient (SGD), 1 where it has a size of its own (Adam), 0 where it is relative to
    ||W|| (LARS). An optimiser that is not known is measured, once, on a small problem with the options of its first
    group. Raises ValueError if that fails, or if no p fits.
    """
    for exponent, kinds in CLASSES.items():
        if isinstance(optimizer, kinds):
            return exponent
    name = re.sub(r"^(fused|paged)|\d+bit$", "", type(optimizer).__name__.lower())
    if name in NAMES:
        absolute = name == "adafactor" and not optimizer.param_groups[0].get("scale_parameter", True)
        return 1 if absolute else NAMES[name]
    if optimizer not in _measured:
        _measured[optimizer] = _measure(optimizer)
    return _measured[optimizer]


def relative_rate(optimizer: optim.Optimizer, parameter: nn.Parameter, norm: Tensor) -> float | Tensor:
    """The length of a step relative to the weight's norm, for an optimiser whose p is 0, but for its clipping.

    That is lr, times a trust coefficient if there is one. torch's Adafactor takes 1 / sqrt(updates) where that is less.
    An Adafactor's step is relative to its option eps[1] where that is more than the weight's root mean square.
    """
    group = next(group for group in optimizer.param_groups if any(p is parameter for p in group["params"]))
    if (rate := group["lr"]) is None:
        raise ValueError(f"nap.effective_lr: {type(optimizer).__name__} has lr=None: it sets a rate of its own")
    for trust in ("trust_coefficient", "trust_coeff"):
        rate = rate * group.get(trust, 1)
    if isinstance(optimizer, optim.Adafactor) and (state := optimizer.state.get(parameter)):
        rate = torch.as_tensor(rate).minimum(torch.as_tensor(state["step"]).rsqrt())
    if isinstance(eps := group.get("eps"), tuple):
        rate = rate * (eps[1] * math.sqrt(parameter.numel()) / norm).clamp_min(1)
    return rate


def _measure(optimizer: optim.Optimizer) -> int:
    name = type(optimizer).__name__
    hint = (
        "pass exponent=2 if its steps scale with the gradient as SGD's, 1 if they do not as Adam's, 0 if they are "
        "relative to the weight's norm"
    )
    try:
        found = _exponent(optimizer)
    except Exception as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"nap.effective_lr: {name} is not known and cannot be tried ({why}); {hint}") from None
    if not abs(found - round(found)) <= 0.25 or round(found) not in CLASSES:
        what = f"its steps turn a weight W by 1 / ||W||^{found:.2g}, which no formula fits"
        raise ValueError(f"nap.effective_lr: {name} is not known, and {what}; {hint}")
    return round(found)


def _exponent(optimizer: optim.Optimizer) -> float:
    """The measured p, at a rate with which the weights turn neither too little nor too far."""
    rate = float(optimizer.param_groups[0]["lr"]) or 1e-3
    for power in (0, -1, 1, -2, 2, -3, 3, -4, 4):
        small, large = (_turned(optimizer, size, rate * 10**power) for size in SIZES)
        if min(small, large) > 1e-4 and max(small, large) < 0.2:
            return math.log(small / large) / math.log(SIZES[1] / SIZES[0])
    raise ArithmeticError("no rate turns the weights by a fair angle")


@torch.enable_grad()
def _turned(optimizer: optim.Optimizer, size: float, rate: float) -> float:
    """The mean angle of the last steps on a scale-invariant matrix with entries of that size."""
    device = optimizer.param_groups[0]["params"][0].device
    random = torch.Generator().manual_seed(0)
    weight = nn.Parameter((torch.randn(6, 8, generator=random) * size).to(device))
    angles = []
    with generators_kept():
        made = _another(optimizer, weight, rate)
        for _ in range(STEPS):
            inputs, wanted = (torch.randn(16, n, generator=random).to(device) for n in (8, 6))
            before = weight.detach().clone()
            made.zero_grad()
            (inputs @ (weight / weight.norm()).T - wanted).square().mean().backward()
            made.step()
            angles.append(angle(before, weight.detach()))
    return float(torch.stack(angles[-COUNTED:]).mean())


def _another(optimizer: optim.Optimizer, weight: nn.Parameter, rate: float) -> optim.Optimizer:
    """A new optimiser of the same class and options, without weight decay, for one weight."""
    group: dict[str, Any] = {k: copy.deepcopy(v) for k, v in optimizer.param_groups[0].items() if k != "params"}
    group |= {"lr": rate} | ({"weight_decay": 0.0} if "weight_decay" in group else {})
    known: set[str] = set()
    for kind in type(optimizer).__mro__:
        parameters = inspect.signature(vars(kind).get("__init__", kind)).parameters
        known |= parameters.keys()
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values()):
            break
    made = type(optimizer)([weight], **{name: value for name, value in group.items() if name in known})
    made.param_groups[0].update(group)  # what the constructor does not name, too
    return made
