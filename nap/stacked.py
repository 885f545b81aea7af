"""Project many networks of one structure at once, whose parameters lie in stacked tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import torch
from torch import Tensor

from nap.project import Projection
from nap.rescale import TINY

CHUNK = 512
"""Values that are summed in a row: longer sums in float32 lose the small ones."""


class StackedProjection:
    """The projections of N networks whose parameters are views of stacked tensors [N, ...], in a few calls for all.

    projections: those of the networks, of one structure and with the same options. Each keeps its own norms and its own
        count of updates, and may go on alone. whole: the stacked tensor of a parameter of the first network.

    Raises ValueError for options that are not stacked: mode "neuron", and updates of a fixed length.
    """

    def __init__(self, projections: Sequence[Projection], whole: Callable[[Tensor], Tensor]) -> None:
        first = projections[0]
        if first.mode != "frobenius" or first.update != "free":
            raise ValueError("nap.StackedProjection: only whole matrices and free updates are stacked")
        self.projections = list(projections)
        weights = [first._weights[i] for i in first._moving]
        self._groups = [
            [_part(whole(p).detach(), weight.rows) for p in (weight.parameter, *weight.coscaled_params)]
            for weight in weights
        ]
        self._targets = [torch.stack([p._targets[i] for p in projections]) for i in first._moving]
        units = [[whole(parameter).detach() for parameter in unit] for unit in first._affine]
        initial = [torch.stack([p._affine_initial[i] for p in projections]) for i in range(len(units))]
        self._decaying: list[Tensor] = []
        if first.affine == "joint":
            self._groups, self._targets = self._groups + units, self._targets + initial
        elif units:
            self._decaying, self._initial = [value for (value,) in units], initial

    def step(self) -> None:
        """Counts one update of each network, and projects if it is an `every`-th one."""
        due = [projection._counts[0].add(projection.every, None) for projection in self.projections]
        if due[0] is not False:
            self.project()

    @torch.no_grad()
    def project(self) -> None:
        """Rescales every matrix to its own network's norm, and treats the norms' scale and offset as `affine` says."""
        if self._decaying:
            torch._foreach_lerp_(self._decaying, self._initial, self.projections[0].decay)
        if not self._groups:
            return
        norms = torch.stack([reduce(torch.hypot, map(_norms, group)) for group in self._groups])
        targets = torch.stack(self._targets).to(norms.clamp_min_(TINY))
        if self.projections[0].bound:
            targets = targets.minimum(norms)
        scales = targets.div_(norms).unbind(0)
        scaled = [(value, scale) for scale, group in zip(scales, self._groups, strict=True) for value in group]
        torch._foreach_mul_([value for value, _ in scaled], [_along(scale, value) for value, scale in scaled])


def _part(whole: Tensor, rows: slice | int | None) -> Tensor:
    return whole if rows is None else whole[:, rows]


def _norms(value: Tensor) -> Tensor:
    """The norm of each network's tensor: [N, ...] -> [N], float64 if the values are, else float32."""
    axes = sorted(range(1, value.ndim), key=value.stride, reverse=True)  # as stored nothing is copied
    flat = value.permute(0, *axes).flatten(1)
    if value.is_cpu and flat.shape[1] > CHUNK and flat.shape[1] % CHUNK == 0:
        flat = torch.linalg.vector_norm(flat.unflatten(1, (-1, CHUNK)), dim=2)
    return torch.linalg.vector_norm(flat, dim=1)


def _along(scale: Tensor, value: Tensor) -> Tensor:
    return scale.to(value.dtype).view(-1, *[1] * (value.ndim - 1))
