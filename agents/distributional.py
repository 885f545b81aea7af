"""Value distributions: categorical over fixed atoms (C51) and as quantiles (QR-DQN).

Every function is a few batched tensor operations without a host sync, so a compiled loss may call it. Inputs narrower
than float32 are computed in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor


def project(probabilities: Tensor, reward: Tensor, discount: Tensor, support: Tensor) -> Tensor:
    """The distribution of R + discount · Z on the atoms that Z has.

    probabilities [B, N] of evenly spaced, ascending atoms support [N]; reward and discount [B], so that n-step returns
    of any length and ends of episodes (discount 0) mix freely -> probabilities [B, N]. Mass beyond the first or last
    atom goes to that atom. Mass between two atoms is shared by distance.
    Source: algorithm 1 of arXiv 1707.06887, which loses the mass that falls on an atom exactly (floor and ceiling are
    one there). This form, in which atom i takes the fraction max(0, 1 - |b_j - i|), does not, and scatters nothing: it
    is deterministic on every device.
    """
    probabilities, reward, discount = wide(probabilities), wide(reward), wide(discount)
    first, last = support[0], support[-1]
    moved = reward.unsqueeze(-1) + discount.unsqueeze(-1) * support
    steps = support.shape[0] - 1
    positions = ((moved - first) * (steps / (last - first))).clamp(0, steps)  # b_j of the source, in atoms
    atoms = torch.arange(steps + 1, device=support.device)
    taken = (1 - (positions.unsqueeze(1) - atoms.unsqueeze(-1)).abs()).clamp_min(0)  # [B, to, from]
    return (taken * probabilities.unsqueeze(1)).sum(-1)


def categorical_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of predicted logits [B, N] under target probabilities [B, N] -> [B]; eq. 7 of arXiv 1707.06887.

    It is the Kullback-Leibler divergence plus the target's entropy, which has no gradient.
    """
    return -(wide(target) * wide(logits).log_softmax(-1)).sum(-1)


def categorical_mean(logits: Tensor, support: Tensor) -> Tensor:
    """Expected values of categorical distributions: logits [..., N], support [N] -> [...]."""
    return (wide(logits).softmax(-1) * support).sum(-1)


def quantile_loss(quantiles: Tensor, targets: Tensor, kappa: float = 1.0) -> Tensor:
    """Quantile Huber loss of N predicted quantiles [B, N] against M samples of the target [B, M] -> [B].

    The i-th quantile stands at τ̂_i = (i + 1/2) / N; summed over the predictions, averaged over the targets. kappa is
    where the Huber loss becomes linear, 0 the plain quantile regression loss.
    Source: eq. 9 and 10 and algorithm 1 of arXiv 1710.10044, which do not divide by kappa, as IQN does.
    """
    quantiles, targets = wide(quantiles), wide(targets)
    count = quantiles.shape[-1]
    levels = (torch.arange(count, device=quantiles.device, dtype=quantiles.dtype) + 0.5) / count
    errors = targets.unsqueeze(-1) - quantiles.unsqueeze(-2)  # [B, M, N]
    size = errors.abs()
    huber = torch.where(size <= kappa, 0.5 * errors.square(), kappa * (size - 0.5 * kappa)) if kappa > 0 else size
    return ((levels - (errors < 0).to(levels.dtype)).abs() * huber).sum(-1).mean(-1)


def quantile_mean(quantiles: Tensor) -> Tensor:
    """Expected values of distributions given by quantiles at evenly spaced levels: [..., N] -> [...]."""
    return wide(quantiles).mean(-1)


def wide(values: Tensor) -> Tensor:
    """The values in float32, or float64 if they are in it."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
