"""Which axis holds the features: of a layer's output and input, and behind operations that move axes."""

from __future__ import annotations

import operator
from math import prod
from typing import Any

from torch import Tensor, fx, nn

from nap.graph.foreign import Role, role
from nap.graph.weights import Conv

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


def width(layer: nn.Module) -> int:
    """The number of output features of a layer."""
    layout = layer_layout(layer)
    return layout[0] if layout is not None else 0


def read_layout(layer: nn.Module) -> tuple[int, int, Tensor] | None:
    """The layout of what a linear layer or a convolution reads."""
    if isinstance(layer, Conv):
        return layer.in_channels, len(layer.kernel_size), layer.weight
    found = layer_layout(layer)
    if found is None or isinstance(layer, nn.Embedding | nn.MultiheadAttention):
        return None
    return found[2].numel() // found[0], 0, found[2]


def layer_layout(layer: nn.Module) -> tuple[int, int, Tensor] | None:
    """(features, spatial dimensions after them, a tensor of the device and dtype) of a layer's output."""
    if isinstance(layer, Conv):
        return layer.out_channels, len(layer.kernel_size), layer.weight
    if isinstance(layer, nn.MultiheadAttention):
        return layer.embed_dim, 0, layer.out_proj.weight
    weight = layer.weight
    assert isinstance(weight, Tensor)
    features_last = isinstance(layer, nn.Embedding) or role(layer) is Role.TRANSPOSED_LINEAR
    return weight.shape[1 if features_last else 0], 0, weight
