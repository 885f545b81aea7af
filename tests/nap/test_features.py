"""Feature metrics by hand, and against slow literal versions of their definitions in numpy."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import nap
from nap.metrics.features import singular_values

RANKS = [nap.erank_roy, nap.srank_kumar, nap.approximate_rank_yang, nap.stable_rank, nap.feature_rank_lyle]
SHARES = [nap.dormant_sokar, nap.dormant_dohare, nap.dead_units, nap.linearised_units]


def diagonal(*values: float, rows: int = 0) -> Tensor:
    """Features with the given singular values and some rows of zeros."""
    return torch.cat([torch.diag(torch.tensor(values)), torch.zeros(rows, len(values))])


@st.composite
def features(draw: st.DrawFn, rows: int | None = None) -> Tensor:
    """Feature matrices of random shape, rank, scale and share of zeros, as ReLU leaves them or signed."""
    n, d, rank = rows or draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.integers(1, 9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    x = torch.randn(n, rank, generator=generator) @ torch.randn(rank, d, generator=generator)
    x = x * torch.logspace(0, -draw(st.integers(0, 3)), d) * 10.0 ** draw(st.integers(-3, 3))
    return x.relu() if draw(st.booleans()) else x


def numpy_singular_values(x: Tensor) -> list[float]:
    return np.linalg.svd(x.double().numpy(), compute_uv=False).tolist()


def slow_rank(weights: list[float], delta: float) -> int:
    """The least k whose k largest weights sum to at least 1 - delta of all."""
    total = sum(weights)
    return next(k for k in range(len(weights) + 1) if sum(weights[:k]) >= (1 - delta) * total) if total else 0


def test_ranks_by_hand() -> None:
    assert float(nap.erank_roy(diagonal(2, 2, 2, rows=3))) == pytest.approx(3)
    entropy = 0.5 * math.log(2) + 0.5 * math.log(4)  # of 1/2, 1/4, 1/4
    assert float(nap.erank_roy(diagonal(2, 1, 1))) == pytest.approx(math.exp(entropy))
    assert float(nap.srank_kumar(torch.eye(100))) == 99
    assert float(nap.srank_kumar(diagonal(98, 1, 1))) == 2
    assert float(nap.srank_kumar(diagonal(98, 1, 1), 0.02)) == 1
    assert float(nap.approximate_rank_yang(diagonal(3, 1), 0.1)) == 1
    assert float(nap.approximate_rank_yang(diagonal(3, 1), 0.09)) == 2
    assert float(nap.stable_rank(diagonal(2, 1, 1))) == pytest.approx(1.5)
    assert float(nap.feature_rank_lyle(diagonal(1, 0.021, 0.019, rows=1))) == 2  # over sqrt(4), against 0.01


@settings(max_examples=80, deadline=None)
@given(x=features())
def test_singular_values_are_numpys(x: Tensor) -> None:
    exact = numpy_singular_values(x)
    assert singular_values(x).tolist() == pytest.approx(exact, abs=3e-7 * (exact[0] + 1e-30))
    assert singular_values(x.T).tolist() == pytest.approx(exact, abs=3e-7 * (exact[0] + 1e-30))


@settings(max_examples=80, deadline=None)
@given(x=features(), delta=st.floats(0.001, 0.5))
def test_ranks_are_their_definitions(x: Tensor, delta: float) -> None:
    sigma = numpy_singular_values(x)
    assume(sigma[0] > 0)
    shares = [s / sum(sigma) for s in sigma]
    entropy = -sum(p * math.log(p) for p in shares if p > 0)
    assert float(nap.erank_roy(x)) == pytest.approx(math.exp(entropy), rel=1e-4)
    assert float(nap.stable_rank(x)) == pytest.approx(sum(s * s for s in sigma) / sigma[0] ** 2, rel=1e-5)
    for fast, weights in ((nap.srank_kumar, sigma), (nap.approximate_rank_yang, [s * s for s in sigma])):
        near_ties = {slow_rank(weights, delta + shift) for shift in (-3e-6, 0.0, 3e-6)}
        assert float(fast(x, delta)) in near_ties
    scaled = [s / math.sqrt(len(x)) for s in sigma]
    near_ties = {sum(s > 0.01 * (1 + shift) for s in scaled) for shift in (-1e-5, 1e-5)}
    assume(all(abs(s - 0.01) > 1e-6 * scaled[0] for s in scaled))
    assert float(nap.feature_rank_lyle(x)) in near_ties


@pytest.mark.parametrize("rank", RANKS)
def test_ranks_at_the_edges(rank: Callable[[Tensor], Tensor]) -> None:
    assert float(rank(torch.zeros(4, 3))) == 0
    assert float(rank(torch.full((1, 5), 2.0))) == pytest.approx(1)
    assert float(rank(torch.full((5, 1), 2.0))) == pytest.approx(1)
    assert 1 <= float(rank(torch.randn(3, 50))) <= 3
    for bad in (math.nan, math.inf):
        assert math.isnan(float(rank(torch.tensor([[1.0, bad], [0.0, 1.0]]))))
    for shape in ((0, 3), (3, 0), (3,), (2, 3, 4)):
        with pytest.raises(ValueError, match="must be a matrix"):
            rank(torch.zeros(shape))
    assert rank(torch.randn(4, 4, dtype=torch.bfloat16)).dtype is torch.float32


def test_bad_thresholds() -> None:
    x = torch.ones(2, 2)
    for call in (nap.srank_kumar, nap.approximate_rank_yang):
        with pytest.raises(ValueError, match="between 0 and 1"):
            call(x, 1.0)
    with pytest.raises(ValueError, match="positive"):
        nap.feature_rank_lyle(x, 0.0)
    with pytest.raises(ValueError, match="at least 0"):
        nap.dormant_sokar(x, math.nan)
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        nap.dormant_dohare(x, math.nan)


def test_shares_of_units_by_hand() -> None:
    # means of |h|: 4, 0, 0.02, 0.06, -> mean of the layer 1.02
    layer = torch.tensor([[4.0, 0.0, 0.04, 0.0], [-4.0, 0.0, 0.0, 0.12]])
    assert float(nap.dormant_sokar(layer)) == 0.5  # 0.0255 is the limit: 0 and 0.02
    assert float(nap.dormant_sokar(layer, 0.1)) == 0.75
    assert float(nap.dormant_sokar(layer, 0.0)) == 0.25
    assert float(nap.dormant_sokar([layer, torch.ones(3, 6)])) == pytest.approx(2 / 10)
    assert float(nap.dead_units(layer)) == 0.25
    assert float(nap.dead_units(-layer)) == float(nap.dead_units(-layer.abs())) == 0.25
    assert float(nap.dead_units([layer, torch.zeros(7, 1)])) == pytest.approx(2 / 5)
    active = torch.zeros(200, 3)
    active[0, 1] = active[:2, 2] = 5.0  # 0.5% and exactly 1% of the inputs
    assert float(nap.dormant_dohare(active)) == pytest.approx(2 / 3)
    assert float(nap.linearised_units(torch.tensor([[1.0, 1.0, 0.0], [2.0, -1.0, 3.0]]))) == pytest.approx(1 / 3)


@settings(max_examples=60, deadline=None)
@given(layers=st.lists(features(), min_size=1, max_size=3), tau=st.sampled_from([0.0, 0.025, 0.5, 1.0]))
def test_shares_of_units_are_their_definitions(layers: list[Tensor], tau: float) -> None:
    units = [(column.tolist(), layer.abs().mean(0).mean().item()) for layer in layers for column in layer.T]
    scores = [(np.mean(np.abs(h)), mean) for h, mean in units]
    assume(tau == 0 or all(s == 0 or abs(s / (tau * mean) - 1) > 1e-4 for s, mean in scores))
    dormant = [mean == 0 or s / mean <= tau for s, mean in scores]
    assert float(nap.dormant_sokar(layers, tau)) == pytest.approx(np.mean(dormant))
    assert float(nap.dead_units(layers)) == pytest.approx(np.mean([all(v == 0 for v in h) for h, _ in units]))
    assert float(nap.linearised_units(layers)) == pytest.approx(np.mean([all(v > 0 for v in h) for h, _ in units]))
    inactive = [sum(v != 0 for v in h) / len(h) < 0.3 for h, _ in units]
    assert float(nap.dormant_dohare(layers, 0.3)) == pytest.approx(np.mean(inactive))


@pytest.mark.parametrize("share", SHARES)
def test_shares_of_units_at_the_edges(share: Callable[[Tensor], Tensor]) -> None:
    assert float(share(torch.zeros(3, 4))) == (0.0 if share is nap.linearised_units else 1.0)
    assert float(share(torch.ones(1, 4))) == (1.0 if share is nap.linearised_units else 0.0)
    for bad in (math.nan, math.inf, -math.inf):
        assert math.isnan(float(share(torch.tensor([[1.0, bad], [0.0, 1.0]]))))
    with pytest.raises(ValueError, match="must be a matrix"):
        share(torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match="at least one layer"):
        share([])


def test_changes_by_hand() -> None:
    before, after = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    assert nap.feature_covariance(before).tolist() == [[0.5, 0.0], [0.0, 0.5]]
    assert nap.feature_covariance(after).tolist() == [[0.5, 0.5], [0.5, 0.5]]
    c = nap.feature_covariance(before), nap.feature_covariance(after)
    assert float(nap.covariance_change(*c)) == pytest.approx(math.sqrt(0.5))
    assert nap.activation_pattern(torch.tensor([[1.0, 0.0, -1.0]])).tolist() == [[True, False, False]]
    a = nap.activation_pattern(before), nap.activation_pattern(after)
    assert float(nap.pattern_change(*a)) == 0.5
    assert nap.feature_covariance(torch.zeros(2, 3)).tolist() == [[0.0, 0.0], [0.0, 0.0]]
    q = torch.tensor([[1.0, 2.0], [2.0, 1.0], [0.0, 5.0]])
    assert float(nap.policy_churn(q, q.flip(1))) == 1
    assert float(nap.policy_churn(q, torch.tensor([[1.0, 0.0], [3.0, 1.0], [0.0, 0.1]]))) == pytest.approx(1 / 3)


def test_cka_by_hand_and_where_it_is_undefined() -> None:
    x = torch.tensor([[1.0], [-1.0], [0.0]])
    assert float(nap.linear_cka(x, torch.tensor([[5.0], [3.0], [4.0]]))) == pytest.approx(1)
    assert float(nap.linear_cka(x, torch.tensor([[1.0], [1.0], [-2.0]]))) == pytest.approx(0, abs=1e-6)
    for undefined in (torch.ones(3, 2), torch.zeros(3, 2), torch.full((3, 1), 0.1)):
        assert math.isnan(float(nap.linear_cka(x, undefined)))
    assert math.isnan(float(nap.linear_cka(x[:1], x[:1])))
    with pytest.raises(ValueError, match="3 and 2 rows"):
        nap.linear_cka(x, x[:2])


@settings(max_examples=60, deadline=None)
@given(pair=st.integers(2, 8).flatmap(lambda n: st.tuples(features(n), features(n))), angle=st.floats(0, 6))
def test_changes_are_their_definitions(pair: tuple[Tensor, Tensor], angle: float) -> None:
    x, y = (side.double().numpy() for side in pair)
    assume(np.ptp(x, 0).max() > 1e-3 * abs(x).max() > 0)
    assume(np.ptp(y, 0).max() > 1e-3 * abs(y).max() > 0)
    n = len(x)
    c = [np.array([[u @ v for v in side] for u in side]) / (side**2).sum() for side in (x, y)]
    change = nap.covariance_change(*map(nap.feature_covariance, pair))
    assert float(change) == pytest.approx(math.sqrt(((c[0] - c[1]) ** 2).sum()), abs=1e-6)
    xc, yc = x - x.mean(0), y - y.mean(0)
    cka = np.linalg.norm(yc.T @ xc) ** 2 / np.linalg.norm(xc.T @ xc) / np.linalg.norm(yc.T @ yc)
    assert float(nap.linear_cka(*pair)) == pytest.approx(cka, abs=1e-5)
    width = min(x.shape[1], y.shape[1])
    a, b = (side[:, :width] for side in pair)
    flipped = sum((x[i, j] > 0) != (y[i, j] > 0) for i in range(n) for j in range(width)) / (n * width)
    assert float(nap.pattern_change(nap.activation_pattern(a), nap.activation_pattern(b))) == pytest.approx(flipped)
    churn = np.mean([np.argmax(x[i, :width]) != np.argmax(y[i, :width]) for i in range(n)])
    assert float(nap.policy_churn(a, b)) == pytest.approx(churn)


@settings(max_examples=30, deadline=None)
@given(x=features(5), scale=st.floats(0.1, 10), seed=st.integers(0, 99))
def test_covariance_and_cka_do_not_see_rotation_and_scale(x: Tensor, scale: float, seed: int) -> None:
    assume(float(x.var(0).max()) > 1e-6 * float(x.square().max()) > 0)
    x = x.double()
    square = torch.randn(x.shape[1], x.shape[1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    turned = scale * x @ torch.linalg.qr(square)[0]
    assert float(nap.covariance_change(nap.feature_covariance(x), nap.feature_covariance(turned))) < 1e-6
    assert float(nap.linear_cka(x, turned)) == pytest.approx(1, abs=1e-5)


def test_changes_reject_other_shapes_and_report_nan() -> None:
    for change in (nap.covariance_change, nap.pattern_change, nap.policy_churn):
        with pytest.raises(ValueError, match=r"\[2, 2\] and \[3, 3\]"):
            change(torch.eye(2), torch.eye(3))
    bad = torch.tensor([[math.nan, 1.0], [0.0, 1.0]])
    assert math.isnan(float(nap.covariance_change(nap.feature_covariance(bad), torch.eye(2))))
    assert math.isnan(float(nap.linear_cka(bad, torch.eye(2))))
    assert math.isnan(float(nap.policy_churn(bad, torch.eye(2))))
    for value in (math.nan, math.inf):
        broken = nap.activation_pattern(torch.tensor([[value, 1.0], [0.0, 1.0]]))
        assert math.isnan(float(nap.pattern_change(broken, broken)))
        assert math.isnan(float(nap.pattern_change(nap.activation_pattern(torch.eye(2)), broken)))
    assert float(nap.pattern_change(torch.eye(2) > 0, torch.eye(2) > 2)) == 0.5  # bool patterns do as well
