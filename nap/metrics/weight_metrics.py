"""Effective learning rates, rotation and norms, per weight matrix, without a host sync."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn, optim

from nap.attach import unwrap
from nap.graph.weights import find_weights, frobenius_norms, joint_norms
from nap.hyperball import fixed_scales
from nap.metrics.angles import angle
from nap.metrics.step_scaling import exponent_of, relative_rate


def weight_norms(module: nn.Module) -> dict[str, Tensor]:
    """The Frobenius norm of every weight matrix by name, scalars; of a noisy layer that of μ and σ together."""
    weights = find_weights(module, free=True)
    return dict(zip(weights, joint_norms([weight.values() for weight in weights.values()]), strict=True))


def effective_lr(module: nn.Module, optimizer: optim.Optimizer, *, exponent: int | None = None) -> dict[str, Tensor]:
    """The effective learning rate of every weight matrix that `optimizer` owns, by name: lr / ||W||^p.

    It is in proportion to the angle by which a step turns W: exact for scale-invariant weights, an approximation for
    others (arXiv 2507.20057, section 2.3). p is 2 for SGD, whose step scales with the gradient; 1 for Adam's relatives,
    whose step does not; and 0 where the step is relative to ||W||, as Adafactor's, LARS's, Lamb's and, times its
    `update_scale`, that of `Projection(update="fixed")`: the rate is then the angle itself. `exponent` is p; without
    it, p of an optimiser that is not known is measured once. Raises ValueError if that cannot be done.
    """
    optimizer = unwrap(optimizer)
    groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    weights, fixed = find_weights(module, free=True), fixed_scales(optimizer)
    rates = {}
    for name, norm in weight_norms(module).items():
        parameter = weights[name].parameter
        if id(parameter) in fixed:
            rates[name] = torch.ones_like(norm) * groups[id(parameter)]["lr"] * fixed[id(parameter)]
        elif id(parameter) in groups:
            exponent = exponent_of(optimizer) if exponent is None else exponent
            rate = relative_rate(optimizer, parameter, norm) if exponent == 0 else groups[id(parameter)]["lr"]
            rates[name] = rate / norm**exponent
    return rates


def snapshot(module: nn.Module, *, copy: bool = True) -> dict[str, Tensor]:
    """Every weight matrix by name, of a noisy layer μ; without `copy` they share storage with the parameters."""
    values = {name: weight.value() for name, weight in find_weights(module, free=True).items()}
    return {name: value.clone() for name, value in values.items()} if copy else values


def rotation(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The angle, in radians, between two versions of each weight matrix (`snapshot` before and after).

    The quantity of Kosson et al. 2024, arXiv 2305.17212, which takes the arccos of the cosine; in float32 that is 0 for
    every angle below 3e-4. The difference of two close matrices is exact, so its part across `before` gives the angle.
    Raises ValueError if the names differ.
    """
    if before.keys() != after.keys():
        raise ValueError(f"nap.rotation: the two have different weights: {sorted(before.keys() ^ after.keys())}")
    return {name: angle(before[name], after[name]) for name in before}


def gradient_norms(module: nn.Module) -> dict[str, Tensor]:
    """The Frobenius norm of the gradient of every weight matrix that has one, of a noisy layer μ's, by name."""
    values: dict[str, Tensor] = {}
    for name, weight in find_weights(module, free=True).items():
        if (grad := weight.parameter.grad) is not None:
            grad = grad.to_dense() if grad.is_sparse else grad  # of a sparse embedding, rows not yet summed
            values[name] = grad if weight.rows is None else grad[weight.rows]
    return dict(zip(values, frobenius_norms(list(values.values())), strict=True))


def update_ratio(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """||W' - W|| / ||W|| of each weight matrix (`snapshot` before and after); 0 where nothing moved.

    One step apart it is the update/weight ratio; since initialisation, how far each layer has left it.
    Raises ValueError if the names differ.
    """
    moved, size = _moves("update_ratio", before, after)
    return {name: _ratio(moved[name], size[name]) for name in before}


def laziness(initial: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> Tensor:
    """||w - w_0|| / ||w_0|| of all weight matrices together, a scalar (Kumar et al. 2023, arXiv 2310.06110).

    Small in lazy training, which leaves the features where they were. Raises ValueError if the names differ.
    """
    moved, size = _moves("laziness", initial, now)
    return _ratio(*(torch.stack(list(norms.values())).norm() for norms in (moved, size)))


def _moves(
    where: str, before: Mapping[str, Tensor], after: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    if before.keys() != after.keys() or not before:
        differing = sorted(before.keys() ^ after.keys()) or "none at all"
        raise ValueError(f"nap.{where}: the two have different weights: {differing}")
    old = list(before.values())
    moved = frobenius_norms(list(torch._foreach_sub([after[name] for name in before], old)))
    return dict(zip(before, moved, strict=True)), dict(zip(before, frobenius_norms(old), strict=True))


def _ratio(moved: Tensor, size: Tensor) -> Tensor:
    return torch.where(moved == 0, moved, moved / size)
