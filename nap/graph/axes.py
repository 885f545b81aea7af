"""Which axis holds the features behind operations that move axes, told by the shapes of a run."""

from __future__ import annotations

import operator
from math import prod
from typing import Any

from torch import fx

_SWAPS = {"transpose", "swapaxes", "swapdims"}
_ROW_MAJOR = {
    "view", "reshape", "view_as", "reshape_as", "flatten", "ravel", "unflatten", "squeeze", "unsqueeze", "contiguous",
}  # fmt: skip
"""Operations that keep the order of the entries."""


def moved_axis(node: fx.Node, name: str, axis: int) -> int | None:
    """The axis that an axis of the first argument becomes in the result of a call, or None where unknown."""
    before, after = node.all_input_nodes[0].meta.get("shape"), node.meta.get("shape")
    if not before or not after:
        return None
    if node.target is operator.getitem:
        return axis if len(before) == len(after) and _is_slice(node.args[1]) else None
    if name in _ROW_MAJOR:
        ahead = prod(before[:axis])
        same = (i for i in range(len(after)) if after[i] == before[axis] and prod(after[:i]) == ahead)
        return next(same, None)
    order = _order(node, name, len(before))
    return None if order is None else order.index(axis)


def _order(node: fx.Node, name: str, ndim: int) -> list[int] | None:
    """Which axis of the argument each axis of the result is."""
    given: Any = [*node.args[1:], *node.kwargs.values()]
    given = list(given[0]) if len(given) == 1 and isinstance(given[0], tuple | list) else given
    if not all(isinstance(dim, int) for dim in given):
        return None
    dims = [dim % ndim for dim in given]
    if name == "permute" and sorted(dims) == list(range(ndim)):
        return dims
    if name in _SWAPS and len(dims) == 2:
        order = list(range(ndim))
        order[dims[0]], order[dims[1]] = dims[1], dims[0]
        return order
    return None


def _is_slice(index: Any) -> bool:
    """Whether an index only shortens axes."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(isinstance(part, slice) or part is ... for part in parts)
