"""The statistics against hand-computed cases and slow literal references."""

import itertools
import math
import statistics as standard

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiment.statistics import (
    bootstrap_interval,
    concordance,
    iqm,
    mean,
    median,
    optimality_gap,
    t_interval,
    t_quantile,
)
from tests.reference_statistics import probability_of_improvement, stratified_interval

NUMBERS = st.integers(-50, 50).map(lambda number: number / 8)  # ties are common, sums are exact
RAGGED = st.dictionaries(st.sampled_from("abcdef"), st.lists(NUMBERS, min_size=1, max_size=7), min_size=1)

# tasks by hand: means 2, 10 and 3; a ragged number of runs
HAND = {"a": [1.0, 2.0, 3.0], "b": [10.0], "c": [0.0, 2.0, 4.0, 6.0]}


def test_by_hand():
    assert mean(HAND) == 5
    assert median(HAND) == 3
    assert iqm(HAND) == (2 + 2 + 3 + 4) / 4  # 0 1 | 2 2 3 4 | 6 10
    assert optimality_gap(HAND, target=3) == pytest.approx(((2 + 1 + 0) / 3 + 0 + (3 + 1) / 4) / 3)
    assert probability_of_improvement({"a": [1, 2], "b": [5]}, {"b": [5, 4, 6], "a": [1, 0]}) == (3.5 / 4 + 1.5 / 3) / 2
    assert [iqm([9, 1, 2, 3]), median([9, 1, 2]), mean([9, 0, 3]), optimality_gap([2, 0.5])] == [2.5, 2, 4, 0.25]


def slow_iqm(scores):
    values = sorted(itertools.chain.from_iterable(scores.values()))
    cut = int(0.25 * len(values))
    return standard.fmean(values[cut : len(values) - cut])


@given(scores=RAGGED, target=NUMBERS)
def test_the_aggregates_are_their_definitions(scores, target):
    means = [standard.fmean(runs) for runs in scores.values()]
    gaps = [standard.fmean(max(target - score, 0) for score in runs) for runs in scores.values()]
    assert iqm(scores) == pytest.approx(slow_iqm(scores))
    assert mean(scores) == pytest.approx(standard.fmean(means))
    assert median(scores) == pytest.approx(standard.median(means))
    assert optimality_gap(scores, target) == pytest.approx(standard.fmean(gaps))


@given(a=RAGGED, data=st.data())
def test_probability_of_improvement_is_its_definition(a, data):
    b = {task: data.draw(st.lists(NUMBERS, min_size=1, max_size=5)) for task in reversed(a)}
    shares = [
        standard.fmean((x > y) + (x == y) / 2 for x, y in itertools.product(runs, b[task])) for task, runs in a.items()
    ]
    assert probability_of_improvement(a, b) == pytest.approx(standard.fmean(shares))
    assert probability_of_improvement(b, a) == pytest.approx(1 - standard.fmean(shares))


@pytest.mark.parametrize("statistic", [iqm, mean, median, optimality_gap])
def test_a_batch_is_its_rows(statistic):
    generator = np.random.default_rng(0)
    batch = {"a": generator.normal(size=(6, 3)), "b": generator.normal(size=(6, 5))}
    rows = [statistic({task: runs[row] for task, runs in batch.items()}) for row in range(6)]
    np.testing.assert_allclose(statistic(batch), rows)
    other = {"a": generator.normal(size=(6, 2)), "b": generator.normal(size=(6, 4))}
    rows = [
        probability_of_improvement(*({t: x[row] for t, x in s.items()} for s in (batch, other))) for row in range(6)
    ]
    np.testing.assert_allclose(probability_of_improvement(batch, other), rows)


# --- intervals


def every_resample(statistic, *sets):
    """The exact bootstrap distribution: the statistic of every equally likely resample, sorted."""
    choices = [
        [dict(zip(scores, picks, strict=True)) for picks in itertools.product(
            *(itertools.product(runs, repeat=len(runs)) for runs in scores.values()))]
        for scores in sets
    ]  # fmt: skip
    return np.sort([statistic(*chosen) for chosen in itertools.product(*choices)])


@pytest.mark.parametrize("confidence", [0.5, 0.9])
@pytest.mark.parametrize("statistic", [mean, iqm])
def test_the_stratified_interval_is_that_of_every_resample(statistic, confidence):
    scores = {"a": [0.13, 1.21, 4.4], "b": [2.3, 3.17], "c": [7.0]}
    exact = every_resample(statistic, scores)
    interval = stratified_interval(statistic, scores, confidence=confidence, resamples=40_000, seed=1)
    assert interval.value == statistic(scores)
    for bound, share in [(interval.low, (1 - confidence) / 2), (interval.high, (1 + confidence) / 2)]:
        assert np.quantile(exact, share - 0.02) <= bound <= np.quantile(exact, share + 0.02)


def test_two_sets_are_resampled_independently():
    a, b = {"x": [0.0, 1.0, 3.0]}, {"x": [0.5, 2.0]}
    exact = every_resample(probability_of_improvement, a, b)
    interval = stratified_interval(probability_of_improvement, a, b, resamples=20_000, confidence=0.6)
    assert interval.value == 0.5
    assert (interval.low, interval.high) == tuple(np.quantile(exact, [0.2, 0.8]))
    same = stratified_interval(lambda x, y: iqm(x) - iqm(y), a, a)
    assert same.value == 0
    assert same.low < 0 < same.high


def test_tasks_are_strata():
    scores = {"a": [1.0, 1.0, 1.0], "b": [100.0, 100.0]}
    assert stratified_interval(iqm, scores) == (iqm(scores),) * 3


def test_many_scores_are_resampled_in_batches():
    runs = np.random.default_rng(0).normal(size=(26, 100))
    scores = {str(index): row for index, row in enumerate(runs)}
    interval = stratified_interval(mean, scores, seed=3)
    spread = np.sqrt((runs.std(1) ** 2 / 100).sum()) / 26
    np.testing.assert_allclose(interval[1:], runs.mean() + spread * np.array([-1.96, 1.96]), atol=spread / 8)


def test_equal_seeds_give_equal_intervals():
    values = np.random.default_rng(0).normal(size=9)
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)
    scores = {"a": values, "b": values[:4]}
    assert stratified_interval(iqm, scores) == stratified_interval(iqm, scores)
    assert stratified_interval(iqm, scores) != stratified_interval(iqm, scores, seed=2)


def test_the_plain_interval_is_that_of_every_resample():
    values = [0.3, 1.0, 2.5, 7.0]
    for statistic in (np.mean, np.median, iqm):
        exact = [statistic(list(pick)) for pick in itertools.product(values, repeat=4)]
        interval = bootstrap_interval(values, statistic, resamples=20_000, confidence=0.8)
        assert interval.value == statistic(values)
        assert np.quantile(exact, 0.085) <= interval.low <= np.quantile(exact, 0.115)
        assert np.quantile(exact, 0.885) <= interval.high <= np.quantile(exact, 0.915)


def test_the_interval_covers_the_mean_as_often_as_it_says():
    samples = np.random.default_rng(0).normal(size=(400, 20))
    intervals = [bootstrap_interval(sample, resamples=400, confidence=0.8) for sample in samples]
    assert np.mean([interval.low <= 0 <= interval.high for interval in intervals]) == pytest.approx(0.78, abs=0.05)


def test_one_run_gives_no_bounds():
    for interval in (bootstrap_interval([2.0]), t_interval([2.0]), stratified_interval(iqm, {"a": [2.0], "b": [2.0]})):
        assert interval.value == 2
        assert math.isnan(interval.low)
        assert math.isnan(interval.high)


def test_t_quantiles_are_those_of_the_tables():
    tabulated = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 5: 2.5706, 9: 2.2622, 30: 2.0423, 120: 1.9799}
    assert {degrees: round(t_quantile(0.95, degrees), 4) for degrees in tabulated} == tabulated
    assert [round(t_quantile(0.99, degrees), 3) for degrees in (1, 2, 4, 7)] == [63.657, 9.925, 4.604, 3.499]


@given(degrees=st.integers(1, 40), confidence=st.floats(0.01, 0.999))
@settings(max_examples=30)
def test_a_t_quantile_encloses_its_share_of_the_density(degrees, confidence):
    t = np.linspace(0, t_quantile(confidence, degrees), 20_001)
    scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(degrees * math.pi)
    density = scale * (1 + t**2 / degrees) ** (-(degrees + 1) / 2)
    assert 2 * np.trapezoid(density, t) == pytest.approx(confidence, abs=1e-3)


def test_the_t_interval_covers_the_mean_of_five_as_often_as_it_says():
    samples = np.random.default_rng(0).normal(3, 2, size=(2000, 5))
    intervals = [t_interval(sample) for sample in samples]
    assert np.mean([interval.low <= 3 <= interval.high for interval in intervals]) == pytest.approx(0.95, abs=0.015)
    by_hand = t_interval([1.0, 2, 3, 4, 5])
    np.testing.assert_allclose(by_hand, [3, 3 - 2.776445 * math.sqrt(0.5), 3 + 2.776445 * math.sqrt(0.5)], rtol=1e-6)


# --- concordance


def slow_harrell(order, times, censored):
    good = pairs = 0
    for i, j in itertools.permutations(range(len(order)), 2):
        first = times[i] < times[j] or (times[i] == times[j] and censored[j])
        if first and not censored[i] and order[i] != order[j]:
            pairs += 1
            good += order[i] < order[j]
    return good / pairs if pairs else math.nan


def test_concordance_by_hand():
    # comparable: (0,1) wrong, (0,2) tied, (0,3) right; 1 is censored at the time of 2; (2,1) wrong, (2,3) right
    result = concordance([1, 0.5, 1, 2], [5, 10, 10, 20], [False, True, False, True], resamples=200)
    assert result.value == (0 + 1 + 0 + 1) / 4


@given(rows=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5), st.booleans()), min_size=1, max_size=12))
@settings(max_examples=200)
def test_concordance_is_its_definition(rows):
    order, times, censored = zip(*rows, strict=True)
    value = concordance(order, times, censored, resamples=1).value
    np.testing.assert_allclose(value, slow_harrell(order, times, censored))
    reverse = concordance([-x for x in order], times, censored, resamples=1).value
    np.testing.assert_allclose(reverse, 1 - value)


def test_concordance_of_perfect_random_and_incomparable_orders():
    times = np.arange(1.0, 31.0)
    assert concordance(times, times, times > 20) == (1, 1, 1)
    levels = np.repeat([1, 2, 3], 10)
    assert concordance(levels, times, times > 20) == (1, 1, 1)
    shuffled = np.random.default_rng(1).permutation(times)
    result = concordance(shuffled, times, times > 20)
    assert result.low < 0.5 < result.high
    assert result.low < result.value < result.high
    assert all(math.isnan(bound) for bound in concordance([1, 2], [3, 4], [True, True]))


# --- bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: iqm({}), "there are no scores"),
        (
            lambda: iqm([[1, 2], [3, 4]]),
            "scores are a mapping of task to the scores of its runs, or one score per task",
        ),
        (lambda: mean({"Pong": []}), "'Pong' has no runs"),
        (lambda: median({"Pong": [1, math.nan]}), "a score of 'Pong' is not finite"),
        (lambda: stratified_interval(iqm, [1.0, 2.0]), "must be a mapping"),
        (lambda: stratified_interval(lambda x: 1.0, {"a": [1, 2]}), "must reduce the last axis"),
        (lambda: bootstrap_interval([]), "there are no values"),
        (lambda: bootstrap_interval([1, math.inf]), "not finite"),
        (lambda: bootstrap_interval([1, 2], resamples=0), "resamples must be at least 1, got 0"),
        (lambda: bootstrap_interval([1, 2], confidence=95), "between 0 and 1, got 95"),
        (lambda: t_interval([]), r"at least one number, got shape \(0,\)"),
        (lambda: t_interval([1, math.nan]), "not finite"),
        (lambda: t_interval([1, 2], confidence=1), "between 0 and 1, got 1"),
        (lambda: concordance([1], [1, 2], [True]), r"got shapes \(1,\), \(2,\), \(1,\)"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
