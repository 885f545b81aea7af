"""The meaning of a network's outputs: values as numbers, as distributions over atoms, or as quantiles."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from agents.distributional import categorical_loss, categorical_mean, project, quantile_loss, quantile_mean, wide


class Values(Protocol):
    """The meaning of outputs [..., A] or [..., A, size], those of one action being [B] or [B, size].

    Every method is a few tensor operations without a host sync or a branch on data, for use in a compiled loss.
    """

    @property
    def size(self) -> int | None:
        """Numbers for each action; None: one, without a dimension of its own."""

    def mean(self, out: Tensor) -> Tensor:
        """Expected returns: [..., A] or [..., A, size] -> [..., A]."""

    def target(self, out: Tensor, reward: Tensor, discount: Tensor) -> Tensor:
        """What to learn, of the shape of `out`: R + discount · Z, where `out` [B] or [B, size] are the outputs of Z."""

    def expected(self, target: Tensor) -> Tensor:
        """Expected returns of targets -> [B]."""

    def loss(self, out: Tensor, target: Tensor) -> Tensor:
        """The loss of each transition -> [B]."""


class Scalar:
    """Expected returns themselves, with the Huber loss."""

    size = None

    def mean(self, out: Tensor) -> Tensor:
        return out

    def target(self, out: Tensor, reward: Tensor, discount: Tensor) -> Tensor:
        return reward + discount * wide(out)

    def expected(self, target: Tensor) -> Tensor:
        return target

    def loss(self, out: Tensor, target: Tensor) -> Tensor:
        return F.huber_loss(out, target, reduction="none")


class Categorical:
    """Logits of `size` atoms spread evenly over [v_min, v_max]; targets are probabilities (C51, arXiv 1707.06887)."""

    def __init__(self, size: int = 51, v_min: float = -10.0, v_max: float = 10.0, device: torch.device | str = "cpu"):
        self.size, self.support = size, torch.linspace(v_min, v_max, size, device=device)

    def mean(self, out: Tensor) -> Tensor:
        return categorical_mean(out, self.support)

    def target(self, out: Tensor, reward: Tensor, discount: Tensor) -> Tensor:
        return project(wide(out).softmax(-1), reward, discount, self.support)

    def expected(self, target: Tensor) -> Tensor:
        return (target * self.support).sum(-1)

    def loss(self, out: Tensor, target: Tensor) -> Tensor:
        return categorical_loss(out, target)


class Quantiles:
    """`size` quantiles; targets are samples, which the quantile Huber loss compares them with (QR-DQN, 1710.10044)."""

    def __init__(self, size: int = 200, kappa: float = 1.0):
        self.size, self.kappa = size, kappa

    def mean(self, out: Tensor) -> Tensor:
        return quantile_mean(out)

    def target(self, out: Tensor, reward: Tensor, discount: Tensor) -> Tensor:
        return reward.unsqueeze(-1) + discount.unsqueeze(-1) * wide(out)

    def expected(self, target: Tensor) -> Tensor:
        return target.mean(-1)

    def loss(self, out: Tensor, target: Tensor) -> Tensor:
        return quantile_loss(out, target, self.kappa)


def chosen(out: Tensor, action: Tensor) -> Tensor:
    """The outputs of one action each: [B, A] or [B, A, size] at [B] -> [B] or [B, size]."""
    index = action.view(-1, *(1,) * (out.ndim - 1)).expand(-1, 1, *out.shape[2:])
    return out.gather(1, index).squeeze(1)
