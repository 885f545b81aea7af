"""Statistics that the report adds: against the same by resampling values, literal loops, and rliable."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiment import statistics
from experiment.statistics import (
    improvement_intervals,
    iqm,
    iqm_curve,
    mean,
    median,
    optimality_gap,
    performance_profile,
    stratified_intervals,
)
from tests.reference_statistics import probability_of_improvement, stratified_interval

NUMBERS = st.integers(-20, 20).map(lambda number: number / 8)  # ties are common, sums are exact
RAGGED = st.dictionaries(st.sampled_from("abcd"), st.lists(NUMBERS, min_size=1, max_size=6), min_size=1)


def ragged(seed, sizes=(5, 2, 7)):
    generator = np.random.default_rng(seed)
    return {str(task): generator.normal(size=size).round(1) for task, size in enumerate(sizes)}


def test_intervals_of_several_statistics_are_those_of_each():
    scores = ragged(0)
    found = stratified_intervals({"iqm": iqm, "mean": mean}, scores, resamples=300, seed=2)
    for name, statistic in (("iqm", iqm), ("mean", mean)):
        assert found[name] == stratified_interval(statistic, scores, resamples=300, seed=2)


@given(scores=RAGGED, thresholds=st.lists(NUMBERS, min_size=1, max_size=4))
@settings(max_examples=30)
def test_a_profile_is_its_definition(scores, thresholds):
    value, low, high = performance_profile(scores, thresholds, resamples=50)
    for place, threshold in enumerate(thresholds):
        shares = [sum(score > threshold for score in runs) / len(runs) for runs in scores.values()]
        assert value[place] == pytest.approx(sum(shares) / len(shares))
    several = max(map(len, scores.values())) > 1
    assert np.isfinite(low).all() == np.isfinite(high).all() == several


def test_the_bounds_of_a_profile_are_those_of_resampled_values():
    scores = ragged(1)
    level = 0.1
    _, low, high = performance_profile(scores, [level], resamples=20_000)
    other = stratified_interval(lambda s: mean({k: v > level for k, v in s.items()}), scores, resamples=20_000)
    np.testing.assert_allclose([low[0], high[0]], other[1:], atol=0.02)


def test_the_interval_of_improvement_is_that_of_resampled_values():
    a, b = ragged(2), dict(reversed(ragged(3, (3, 6, 4)).items()))
    fast = improvement_intervals({"a": a, "b": b}, [("a", "b")], resamples=20_000)["a", "b"]
    slow = stratified_interval(probability_of_improvement, a, b, resamples=20_000)
    assert fast.value == slow.value
    np.testing.assert_allclose(fast[1:], slow[1:], atol=0.01)


@given(counts=st.lists(st.integers(0, 4), min_size=1, max_size=9).filter(any), data=st.data())
def test_an_iqm_of_counts_is_that_of_the_values_written_out(counts, data):
    total = sum(counts)
    counts = [*counts, *[0] * (total - len(counts))][:total]
    counts[-1] += total - sum(counts)  # as many draws as runs
    values = np.array(data.draw(st.lists(NUMBERS, min_size=total, max_size=total)))
    found = statistics._counted_iqm(values, np.array([counts], float).T)
    assert found[0] == pytest.approx(iqm({"": np.repeat(values, counts)}))


def test_every_point_of_an_iqm_curve_is_the_iqm_and_its_interval():
    scores = {task: np.stack([runs, runs**2], axis=1) for task, runs in ragged(4, (4, 9, 6)).items()}
    value, low, high = iqm_curve(scores, resamples=20_000)
    for point in range(2):
        column = {task: runs[:, point] for task, runs in scores.items()}
        slow = stratified_interval(iqm, column, resamples=20_000)
        assert value[point] == pytest.approx(slow.value)
        np.testing.assert_allclose([low[point], high[point]], slow[1:], atol=0.03)
    assert np.isnan(iqm_curve({"a": [[1.0, 2.0]]})[1:]).all()


def test_complete_matrices_give_the_numbers_of_rliable():
    metrics = pytest.importorskip("rliable.metrics")
    library = pytest.importorskip("rliable.library")
    generator = np.random.default_rng(0)
    matrix, other = generator.gumbel(0.5, 1, size=(2, 10, 26)).round(2)  # runs by tasks
    a, b = ({str(task): runs for task, runs in enumerate(each.T)} for each in (matrix, other))
    assert iqm(a) == pytest.approx(metrics.aggregate_iqm(matrix))
    assert mean(a) == pytest.approx(metrics.aggregate_mean(matrix))
    assert median(a) == pytest.approx(metrics.aggregate_median(matrix))
    assert optimality_gap(a) == pytest.approx(metrics.aggregate_optimality_gap(matrix))
    assert probability_of_improvement(a, b) == pytest.approx(metrics.probability_of_improvement(matrix, other))
    levels = np.linspace(-1, 4, 21)
    theirs, bounds = library.create_performance_profile({"a": matrix}, levels, reps=2000)
    ours = performance_profile(a, levels)
    np.testing.assert_allclose(ours[0], theirs["a"])
    np.testing.assert_allclose(ours[1:], bounds["a"], atol=0.02)
    _, intervals = library.get_interval_estimates({"a": matrix}, metrics.aggregate_iqm, reps=2000)
    np.testing.assert_allclose(stratified_interval(iqm, a)[1:], np.ravel(intervals["a"]), atol=0.02)
