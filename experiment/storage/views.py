"""States whose tensors are views of larger ones, as those of stacked networks are."""

from collections.abc import Sequence
from typing import Any

import torch


def stacked(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Copies of tensors of one layout in one [N, ...], whose parts have that layout."""
    first = tensors[0]
    whole = first.new_empty_strided((len(tensors), *first.shape), (first.numel(), *first.stride()))
    for part, tensor in zip(whole, tensors, strict=True):
        part.copy_(tensor)
    return whole


def without_views(value: Any) -> Any:
    """The state with copies of tensors that are parts of larger ones, which `torch.save` would write as a whole."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone() if value.untyped_storage().nbytes() > value.nbytes else value
    if isinstance(value, dict):
        return type(value)((key, without_views(item)) for key, item in value.items())
    return type(value)(map(without_views, value)) if isinstance(value, list | tuple) else value
