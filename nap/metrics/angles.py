"""The angle between two tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def angle(a: Tensor, b: Tensor) -> Tensor:
    """The angle between two tensors taken as vectors, in radians from 0 to pi; 0 if one is zero."""
    wide = torch.float64 if a.dtype is torch.float64 else torch.float32
    a, b = a.flatten().to(wide), b.flatten().to(wide)
    size = torch.linalg.vector_norm(a)
    direction = a / size.clamp_min(1e-30)
    difference = b - a
    across = difference - direction * (direction @ difference)
    found = torch.atan2(torch.linalg.vector_norm(across), direction @ b)
    return torch.where(size == 0, torch.zeros_like(found), found).float()
