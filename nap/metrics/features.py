"""Ranks, unit statistics and changes of a layer's features: pure functions of a feature matrix [n, d].

A row is one probe input, a column one unit, after the nonlinearity unless said otherwise. Nothing is centred, except
for CKA. Every result is a float32 scalar (or a float64 matrix) on the features' device. Features that hold NaN or
infinity give NaN. All-zero features have every rank 0 and every unit dormant. Ranks are at most min(n, d), so n < d
limits them; a single input has rank 1. Raises ValueError for anything but a matrix with at least one row and column.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

Features = Tensor | Iterable[Tensor]


def gram(features: Tensor) -> Tensor:
    """The inner products of the rows, [n, n] in float64."""
    x = _matrix(features).double()
    return x @ x.T


def singular_values(features: Tensor) -> Tensor:
    """The singular values of the features, descending, [min(n, d)] in float64.

    They are the roots of the eigenvalues of the smaller Gram matrix, formed in float64: three to seven times faster
    than `torch.linalg.svdvals` of float32 features and as accurate, about 1e-7 of the largest; smaller ones become 0.
    """
    n, d = _matrix(features).shape
    return spectrum(gram(features if n <= d else features.T))


def spectrum(gram: Tensor) -> Tensor:
    """The singular values of the features that a Gram matrix is of, descending."""
    finite = gram.diagonal().isfinite().all()
    values = torch.linalg.eigvalsh(torch.where(finite, gram, 0.0)).flip(-1)
    noise = len(gram) * torch.finfo(gram.dtype).eps * values[0]
    values = torch.where(values > noise, values, 0.0).sqrt()
    return torch.where(finite, values, math.nan)


def erank_roy(features: Tensor) -> Tensor:
    """The effective rank: the exponential of the entropy of the singular values' shares (Roy & Vetterli 2007)."""
    return erank_of(singular_values(features))


def srank_kumar(features: Tensor, delta: float = 0.01) -> Tensor:
    """The least number of singular values whose sum is at least 1 - delta of the whole (Kumar 2021, 2010.14498)."""
    return srank_of(singular_values(features), delta)


def approximate_rank_yang(features: Tensor, delta: float = 0.01) -> Tensor:
    """The least number of squared singular values whose sum is at least 1 - delta of all (Yang 2020, 1909.12255)."""
    return approximate_rank_of(singular_values(features), delta)


def stable_rank(features: Tensor) -> Tensor:
    """The squared Frobenius norm over the squared spectral norm."""
    return stable_rank_of(singular_values(features))


def feature_rank_lyle(features: Tensor, eps: float = 0.01) -> Tensor:
    """The number of singular values of features / sqrt(n) above `eps` (Lyle et al. 2022, arXiv 2204.09560)."""
    return feature_rank_of(singular_values(features) / math.sqrt(len(features)), eps)


def erank_of(sigma: Tensor) -> Tensor:
    """`erank_roy` of singular values."""
    total = sigma.sum()
    share = sigma / total
    return torch.where(total == 0, 0.0, torch.special.entr(share).sum().exp()).float()


def srank_of(sigma: Tensor, delta: float) -> Tensor:
    """`srank_kumar` of singular values."""
    if not 0 < delta < 1:
        raise ValueError(f"nap: a rank's delta must be between 0 and 1, not {delta!r}")
    sums = sigma.cumsum(0)
    count = (sums < (1 - delta) * sums[-1]).sum() + 1
    return _unless_nan(torch.where(sums[-1] == 0, 0, count), sums[-1])


def approximate_rank_of(sigma: Tensor, delta: float) -> Tensor:
    """`approximate_rank_yang` of singular values."""
    return srank_of(sigma.square(), delta)


def stable_rank_of(sigma: Tensor) -> Tensor:
    """`stable_rank` of singular values."""
    squares = sigma.square()
    return torch.where(squares[0] == 0, 0.0, squares.sum() / squares[0]).float()


def feature_rank_of(sigma: Tensor, eps: float) -> Tensor:
    """`feature_rank_lyle` of the singular values of features / sqrt(n)."""
    if not eps > 0:
        raise ValueError(f"nap: a feature rank's eps must be positive, not {eps!r}")
    return _unless_nan((sigma > eps).sum(), sigma[0])


def dormant_sokar(features: Features, tau: float = 0.025) -> Tensor:
    """The share of units whose mean |activation| is at most `tau` times the mean of its layer (Sokar 2023, 2302.12902).

    `features` is one layer's or a list over all hidden layers: dormant units of all layers over all units.
    Raises ValueError for a negative `tau`.
    """
    return _share(features, lambda x: dormant_sokar_units(x, tau))


def dormant_dohare(features: Features, share: float = 0.01) -> Tensor:
    """The share of units that are not 0 on less than `share` of the inputs (Dohare et al. 2024, Nature 632:768)."""
    return _share(features, lambda x: dormant_dohare_units(x, share))


def dormant_grama(gradients: Features, tau: float = 0.01) -> Tensor:
    """The share of units that hardly learn: mean |dL/dh| at most `tau` times the mean of its layer (GraMa).

    `gradients` is one layer's, or a list over all hidden layers, of the loss by the input h of the nonlinearity: a row
    for each input (`nap.unit_gradients`). Liu et al. 2025, arXiv 2505.24061. Raises ValueError for a negative `tau`.
    """
    return _share(gradients, lambda x: dormant_sokar_units(x, tau))


def dead_units(features: Features) -> Tensor:
    """The share of units that are 0 on all inputs."""
    return _share(features, dead)


def linearised_units(preactivations: Features) -> Tensor:
    """The share of units whose input to the nonlinearity is positive on all inputs (Lyle et al. 2024, 2402.18762)."""
    return _share(preactivations, linearised)


def dormant_sokar_units(features: Tensor, tau: float) -> Tensor:
    """Which units `dormant_sokar` counts, [d] bool."""
    if not tau >= 0:
        raise ValueError(f"nap: tau of the dormant ratio must be at least 0, not {tau!r}")
    size = torch.linalg.vector_norm(features, 1, dim=0, dtype=_wide(features))
    return size <= tau * size.mean()


def dormant_dohare_units(features: Tensor, share: float) -> Tensor:
    """Which units `dormant_dohare` counts, [d] bool."""
    if not 0 < share <= 1:
        raise ValueError(f"nap: the share of inputs of dormant_dohare must be above 0 and at most 1, not {share!r}")
    return (features != 0).sum(0) < share * len(features)


def dead(features: Tensor) -> Tensor:
    """Which units `dead_units` counts, [d] bool."""
    return (features.amin(0) == 0) & (features.amax(0) == 0)


def linearised(preactivations: Tensor) -> Tensor:
    """Which units `linearised_units` counts, [d] bool."""
    return preactivations.amin(0) > 0


def feature_covariance(features: Tensor) -> Tensor:
    """C = ΦΦᵀ / ‖Φ‖²_F, [n, n] in float64; zero for all-zero features (arXiv 2507.20057, equation 3).

    The paper's name for the Gram matrix of the inputs, which is invariant to rotations and rescalings of features.
    """
    return covariance_of(gram(features))


def covariance_of(gram: Tensor) -> Tensor:
    """`feature_covariance` of a Gram matrix."""
    size = gram.diagonal().sum()
    return torch.where(size == 0, 0.0, gram / size)


def covariance_change(before: Tensor, after: Tensor) -> Tensor:
    """Δ_C: the Frobenius norm of the difference of two `feature_covariance`s of the same inputs, 0 to sqrt(2)."""
    _same_shape("covariance_change", before, after)
    return torch.linalg.vector_norm(after - before).float()


def activation_pattern(features: Tensor) -> Tensor:
    """A: 1 where a feature is positive, else 0, [n, d] float16 (arXiv 2507.20057, equation 4); NaN where not finite."""
    return known((_matrix(features) > 0).half(), features.isfinite())


def pattern_change(before: Tensor, after: Tensor) -> Tensor:
    """Δ_A: the share of entries that differ between two `activation_pattern`s of the same inputs."""
    _same_shape("pattern_change", before, after)
    return known((before != after).float(), ~(before.isnan() | after.isnan())).mean()


def known(values: Tensor, finite: Tensor) -> Tensor:
    """The values, NaN where what they were made of is not finite."""
    return torch.where(finite, values, math.nan)


def greedy_action(values: Tensor) -> Tensor:
    """The column of the largest value in each row, [n] float32; NaN for a row that is not finite."""
    return known(values.argmax(-1).float(), values.isfinite().all(-1))


def linear_cka(x: Tensor, y: Tensor) -> Tensor:
    """Linear centred kernel alignment of two feature matrices of the same inputs, 0 to 1 (Kornblith 2019, 1905.00414).

    The widths may differ. NaN where it is undefined: features that are the same for every input.
    """
    if len(x) != len(y):
        raise ValueError(f"nap.linear_cka: both must have a row for each input, not {len(x)} and {len(y)} rows")
    return cka_of(gram(x), gram(y))


def cka_of(gram_x: Tensor, gram_y: Tensor) -> Tensor:
    """`linear_cka` of two Gram matrices."""
    (x, size_x), (y, size_y) = _centred(gram_x), _centred(gram_y)
    return ((x * y).sum() / (size_x * size_y)).float()


def policy_churn(before: Tensor, after: Tensor) -> Tensor:
    """The share of inputs whose greedy action differs between two tables of values [n, A] (Schaul 2022, 2206.00730).

    Of class scores it is the prediction churn. The paper averages it over single updates.
    """
    _same_shape("policy_churn", before, after)
    return pattern_change(greedy_action(before), greedy_action(after))


def _centred(gram: Tensor) -> tuple[Tensor, Tensor]:
    """The Gram matrix of the column-centred features, and its norm; the norm is 0 where only rounding is left."""
    rows = gram.mean(0, keepdim=True)
    centred = gram - rows - rows.T + rows.mean()
    size = torch.linalg.vector_norm(centred)
    noise = len(gram) * torch.finfo(gram.dtype).eps * torch.linalg.vector_norm(gram)
    return centred, torch.where(size <= noise, math.nan, size)


def _share(features: Features, units: Callable[[Tensor], Tensor]) -> Tensor:
    layers = [features] if isinstance(features, Tensor) else list(features)
    if not layers:
        raise ValueError("nap: a share of units needs the features of at least one layer, not an empty list")
    return share_of([mark(units(_matrix(layer)), finite_units(layer)) for layer in layers])


def finite_units(features: Tensor) -> Tensor:
    """Which units are finite on all inputs, [d] bool."""
    return features.amin(0).isfinite() & features.amax(0).isfinite()


def mark(units: Tensor, finite: Tensor) -> Tensor:
    """A mask of units as 0 and 1, NaN where a unit is not finite."""
    return known(units.float(), finite)


def share_of(marks: list[Tensor]) -> Tensor:
    """The mean over the units of all layers."""
    return torch.cat(marks).mean()


def _matrix(features: Tensor) -> Tensor:
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(f"nap: features must be a matrix [inputs, units], not of shape {list(features.shape)}")
    return features


def _same_shape(where: str, before: Tensor, after: Tensor) -> None:
    if before.shape != after.shape:
        raise ValueError(
            f"nap.{where}: the two must be of the same inputs and units, not of shapes "
            f"{list(before.shape)} and {list(after.shape)}"
        )


def _unless_nan(count: Tensor, value: Tensor) -> Tensor:
    return torch.where(value.isnan(), math.nan, count.float())


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype is torch.float64 else torch.float32
