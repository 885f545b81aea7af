"""Norms of groups of tensors, and scaling them to other norms, in foreach calls."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nap.graph.norms import NORMS, norm_layers
from nap.graph.sharded import all_reduced, is_sharded, local_parts
from nap.graph.weights import Weight, frobenius_norms

TINY = 1e-30
ALMOST_ZERO = 1e-3
"""The length of an output's weight vector. Usual initialisations have 0.1 to 2, output layers of policies 0.01. One
step of Adam at a rate of 1e-4 moves a vector of 100 weights by 1e-3: it replaces one that is shorter."""


def rescale(groups: list[list[Tensor]], norms: list[Tensor], targets: list[Tensor], *, bound: bool = False) -> None:
    """Scales each group of tensors from its norm to its target; all groups in one foreach pass.

    bound: only those whose norm is above the target; no bit of the others changes.
    """
    if not groups:
        return
    norms, targets = local_parts(norms), local_parts(targets)
    torch._foreach_clamp_min_(norms, TINY)
    if bound:
        targets = list(torch._foreach_minimum(targets, norms))
    scales = torch._foreach_div(targets, norms)
    flat = local_parts([value for group in groups for value in group])
    torch._foreach_mul_(flat, [scale for scale, group in zip(scales, groups, strict=True) for _ in group])


def by_neuron(weight: Weight, value: Tensor) -> tuple[Tensor, int]:
    """A view of a weight's value with its neurons along the leading dimensions, and how many those are."""
    if weight.out_axis == 0:
        return value, 1
    groups = getattr(weight.owner, "groups", 1)  # [in, out of a group, ...]: the groups lie side by side in the inputs
    return value.unflatten(0, (groups, -1)).transpose(1, 2), 2


def refuse_spread_neurons(weights: list[Weight]) -> None:
    for weight in weights:
        groups = getattr(weight.owner, "groups", 1) if weight.out_axis else 1
        if is_sharded(weight.parameter) and (weight.rows is not None or groups > 1):
            raise ValueError(
                f'nap.Projection: {weight.name} is a group of rows of a sharded parameter, which mode "neuron" cannot '
                "measure: exclude it, or do not shard its layer"
            )


def length(weight: Weight, mode: str) -> float:
    """The norm, in that mode, of a weight whose outputs have weight vectors of length 1."""
    leading = by_neuron(weight, weight.value())
    return 1.0 if mode == "neuron" else math.sqrt(math.prod(leading[0].shape[: leading[1]]))


def neuron_norms(view: Tensor, leading: int) -> Tensor:
    dtype = torch.float64 if view.dtype is torch.float64 else torch.float32
    return all_reduced(torch.linalg.vector_norm(view, dim=tuple(range(leading, view.ndim)), keepdim=True, dtype=dtype))


def pair_norms(pairs: list[list[Tensor]]) -> list[Tensor]:
    """sqrt(sum scale^2 + sum offset^2) of each pair, or of a scale alone; a foreach call for each step."""
    if not pairs:
        return []
    norms = frobenius_norms([value for pair in pairs for value in pair])
    squares = torch._foreach_mul(norms, norms)
    remaining = iter(squares)
    parts = [[next(remaining) for _ in pair] for pair in pairs]
    if both := [part for part in parts if len(part) == 2]:
        torch._foreach_add_([part[0] for part in both], [part[1] for part in both])
    return list(torch._foreach_sqrt([part[0] for part in parts]))


def detached(pairs: list[list[nn.Parameter]]) -> list[list[Tensor]]:
    return [[parameter.detach() for parameter in pair] for pair in pairs]


def following(kept: list[Tensor], chosen: Sequence[int], now: list[Tensor]) -> list[Tensor]:
    """The chosen of the stored values, moved in `kept` to the present device and dtype if the module was."""
    found = [kept[i] for i in chosen]
    for place, (old, new) in enumerate(zip(found, now, strict=True)):
        if old.dtype is not new.dtype or (old.is_cpu, old.get_device()) != (new.is_cpu, new.get_device()):
            found[place] = kept[chosen[place]] = old.to(new.device, new.dtype)
    return found


def where_due(due: Tensor | None, targets: list[Tensor], now: list[Tensor]) -> list[Tensor]:
    """The targets; if `due` is a tensor that is false, the present values. Nothing waits for the device."""
    if due is None:
        return targets
    return [torch.where(due.to(old.device), new, old) for new, old in zip(targets, now, strict=True)]


def affine_parameters(module: nn.Module, frozen: bool) -> list[list[nn.Parameter]]:
    """Scale and offset of each norm. Decay skips frozen ones, since no gradient would work against it."""
    pairs = [
        [
            parameter
            for name, parameter in part.named_parameters(recurse=False)
            if (not isinstance(part, NORMS) or name in ("weight", "bias")) and (frozen or parameter.requires_grad)
        ]
        for part in norm_layers(module)
    ]
    return [pair for pair in pairs if pair]
