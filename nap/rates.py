"""Parameter groups: weight decay by kind of parameter, and learning rates by layer."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nap.graph.norms import norm_layers, scales_of
from nap.graph.weights import find_weights
from nap.report import analyze
from nap.schedules.schedule import Schedule
from nap.suggest import suggest

RATES = ("constant", "fast-features", "slow-features", "even-ratio")


def param_groups(
    module: nn.Module,
    lr: float | Tensor,
    *,
    weight_decay: float = 0.0,
    scale_decay: float = 0.0,
    rates: str = "constant",
    outputs: Iterable[str] | None = None,
) -> list[dict[str, Any]]:
    """Parameter groups for a torch optimiser, with every parameter of `module` in exactly one of them.

    weight_decay: of every parameter of two or more dimensions outside the norms. Offsets and biases have none.
    scale_decay: of the scales of norm layers, which lets a normalised and projected network lower its attention logits
        (arXiv 2507.20057, section 4). How a decay works is the optimiser's: decoupled in AdamW, a gradient in Adam.
    rates: the layers' learning rates (arXiv 2507.20057, section 5 and figure 5). "constant": `lr` for all;
        "fast-features": a tenth of it for the output layers, which are those of `nap.analyze`; "slow-features": a tenth
        of it for everything else; "even-ratio": proportional to the mean |w| of each layer's weights as they are now,
        with the mean over all parameters, each counted once, equal to `lr`. A layer is a module that has weight
        matrices, its bias included. Norms and free-standing parameters have `lr` in "even-ratio", and so has a layer
        of zeros, which could not move otherwise.

    outputs: the names of the output layers, as `nap.analyze` takes them.

    If `lr` is a tensor, each group gets its own copy. `name` describes the group; `share` is the factor on `lr` with
    "even-ratio". A schedule made on the optimiser multiplies each group's rate. Call it
    after `nap.normalize`, which adds and removes parameters.
    Raises ValueError for unknown `rates`, for a number that is negative or not finite, for a `scale_decay` that finds
    no scale, and for rates of the output layers where there is none.
    """
    if rates not in RATES:
        raise ValueError(f"nap.param_groups: rates={rates!r} is unknown; {suggest(rates, RATES)}")
    for option, value in (("lr", lr), ("weight_decay", weight_decay), ("scale_decay", scale_decay)):
        if (isinstance(value, Tensor) and value.numel() != 1) or not 0 <= float(value) < math.inf:
            raise ValueError(f"nap.param_groups: {option}={value!r} must be one number, finite and at least 0")
    norms = norm_layers(module)
    scales = {id(scale) for part in norms for scale in scales_of(part)}
    if scale_decay and not scales:
        raise ValueError(f"nap.param_groups: scale_decay={scale_decay!r}, but no norm layer here has a scale")
    offsets = {id(parameter) for part in norms for parameter in part.parameters(recurse=False)} - scales
    parts, factors = _factors(module, rates, outputs)
    found: dict[tuple[str, str, float], list[nn.Parameter]] = defaultdict(list)
    for parameter in module.parameters():
        scale = id(parameter) in scales
        matrix = parameter.ndim >= 2 and not scale and id(parameter) not in offsets
        kind, decay = ("weights", weight_decay) if matrix else ("scales", scale_decay) if scale else ("offsets", 0.0)
        found[parts.get(id(parameter), ""), kind if decay else "no decay", decay].append(parameter)
    return [
        {
            "params": parameters,
            "lr": lr.detach() * factors[part] if isinstance(lr, Tensor) else lr * factors[part],
            "weight_decay": decay,
            "name": f"{part} {kind}".strip(),
        }
        | ({"share": factors[part]} if rates == "even-ratio" else {})
        for (part, kind, decay), parameters in found.items()
    ]


def refresh_rates(module: nn.Module, optimizer: Optimizer, schedule: Schedule | None = None) -> None:
    """Brings "even-ratio" rates up to date with the present weights, in place: those that new groups would have.

    `optimizer` has groups of `param_groups(module, ..., rates="even-ratio")`, all or some of them, and `schedule` is
    the one on it, if any: its peaks change, and each lr is the new peak times the shape of the present step. Each rate
    is multiplied by its group's new share over the old one, which is 1 where no weight moved. A tensor lr is filled, so
    nothing recompiles. Reads the weights' sizes from the device once, which waits for it.
    Raises ValueError if the groups are others, or if the optimiser has a schedule that was not passed.
    """
    parts, factors = _factors(module, "even-ratio")
    groups = optimizer.param_groups
    owners = [{parts.get(id(parameter), "") for parameter in group["params"]} for group in groups]
    if any(len(owner) > 1 for owner in owners) or not all("share" in group for group in groups):
        raise ValueError('nap.refresh_rates: the optimizer needs the groups of param_groups(..., rates="even-ratio")')
    if schedule is None and any("initial_lr" in group for group in groups):
        raise ValueError("nap.refresh_rates: a schedule is at work on this optimizer; pass it as the third argument")
    present = schedule.peaks if schedule is not None else [float(group["lr"]) for group in groups]
    shares = [factors[owner.pop()] if owner else group["share"] for owner, group in zip(owners, groups, strict=True)]
    pairs = zip(present, groups, shares, strict=True)
    rates = [rate if share == group["share"] else rate / group["share"] * share for rate, group, share in pairs]
    for group, share in zip(groups, shares, strict=True):
        group["share"] = share
    if schedule is not None:
        schedule.set_peaks(rates)
        return
    for group, rate in zip(groups, rates, strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def _factors(
    module: nn.Module, rates: str, given: Iterable[str] | None = None
) -> tuple[dict[int, str], dict[str, float]]:
    """The layer that sets each parameter's rate, and each layer's share of the rate."""
    if rates == "even-ratio":
        parts = _layers(module)
        return parts, {"": 1.0} | _even_ratio(module, parts)
    if rates == "constant":
        return {}, {"": 1.0}
    outputs = set(analyze(module, outputs=given).outputs)
    ids = {id(weight.parameter) for name, weight in find_weights(module).items() if name in outputs}
    if not ids:
        raise ValueError(f"nap.param_groups: rates={rates!r}, but no output layer was found")
    owners = [part for part in module.modules() if any(id(p) in ids for p in part.parameters(recurse=False))]
    parts = {id(parameter): "output" for owner in owners for parameter in owner.parameters(recurse=False)}
    return parts, {"": 1.0, "output": 0.1} if rates == "fast-features" else {"": 0.1, "output": 1.0}


def _layers(module: nn.Module) -> dict[int, str]:
    """The layer of each parameter that belongs to one, the first of those that share it."""
    parts: dict[int, str] = {}
    owners = {id(weight.owner): weight.owner for weight in find_weights(module).values()}
    for name, part in module.named_modules():
        if id(part) in owners:
            for parameter in part.parameters(recurse=False):
                parts.setdefault(id(parameter), name or type(part).__name__)
    return parts


@torch.no_grad()
def _even_ratio(module: nn.Module, parts: dict[int, str]) -> dict[str, float]:
    """Each layer's mean |w| over the mean of those of all layers, counted by parameter."""
    weights = {id(weight.parameter): weight.parameter.detach() for weight in find_weights(module).values()}
    if not weights:
        return {}
    double = any(weight.dtype is torch.float64 for weight in weights.values())
    sums = torch._foreach_norm(list(weights.values()), 1, torch.float64 if double else torch.float32)
    totals: dict[str, float] = defaultdict(float)
    counts: dict[str, int] = defaultdict(int)
    for (key, weight), total in zip(weights.items(), torch.stack(list(sums)).tolist(), strict=True):
        totals[parts[key]] += total
        counts[parts[key]] += weight.numel()
    sizes: dict[str, int] = defaultdict(int)
    for parameter in module.parameters():
        sizes[parts.get(id(parameter), "")] += parameter.numel()
    means = {layer: total / counts[layer] for layer, total in totals.items() if 0 < total < math.inf}
    whole = sum(sizes[layer] for layer in means)
    return {layer: means[layer] * whole / _weighted(means, sizes) if layer in means else 1.0 for layer in totals}


def _weighted(values: dict[str, float], sizes: dict[str, int]) -> float:
    return sum(value * sizes[layer] for layer, value in values.items())
