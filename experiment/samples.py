"""Intervals of independent values: bootstrap and Student-t; concordance. Of scores: `experiment.statistics`."""

import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Interval(NamedTuple):
    """A statistic of the data and the bounds of its interval; NaN if the data have no interval."""

    value: float
    low: float
    high: float


def bootstrap_interval(
    values: ArrayLike,
    statistic: Callable[[np.ndarray], Any] = np.mean,
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The percentile bootstrap interval of a statistic of independent values, shape (n,), or rows, shape (n, ...).

    `statistic` takes values as they were given. For one value the bounds are NaN. The percentile method is optimistic
    for few values: a 95% interval of a normal mean covers it in 76% of cases for n = 3, 83% for 5 and 90% for 10.
    Raises ValueError for no values, values that are not finite, or wrong settings.
    """
    check_settings(resamples, confidence)
    rows = np.asarray(values)
    if rows.ndim == 0 or len(rows) == 0:
        raise ValueError("bootstrap_interval: there are no values")
    if not np.isfinite(rows).all():
        raise ValueError("bootstrap_interval: a value is not finite")
    value = float(statistic(rows))
    if len(rows) < 2:
        return Interval(value, math.nan, math.nan)
    generator = np.random.default_rng(seed)
    picks = generator.integers(len(rows), size=(resamples, len(rows)))
    return percentiles(value, np.array([float(statistic(rows[pick])) for pick in picks]), confidence)


def t_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """The mean of independent values, shape (n,), and its Student-t interval with n - 1 degrees of freedom.

    Its coverage is exact for normal values however few there are, where a percentile bootstrap is too narrow. For
    paired runs give the differences. For one value the bounds are NaN. Student 1908, Biometrika 6(1).
    Raises ValueError for no values, another shape, values that are not finite, or a wrong confidence.
    """
    check_settings(1, confidence)
    numbers = np.asarray(values, dtype=float)
    if numbers.ndim != 1 or not len(numbers):
        raise ValueError(f"t_interval: values must be a list of at least one number, got shape {numbers.shape}")
    if not np.isfinite(numbers).all():
        raise ValueError("t_interval: a value is not finite")
    center = float(numbers.mean())
    if len(numbers) < 2:
        return Interval(center, math.nan, math.nan)
    half = t_quantile(confidence, len(numbers) - 1) * float(numbers.std(ddof=1)) / math.sqrt(len(numbers))
    return Interval(center, center - half, center + half)


@cache
def t_quantile(confidence: float, degrees: int) -> float:
    """The t for which a Student-t variable with so many degrees of freedom lies in [-t, t] with that probability.

    By bisection of the finite series for whole degrees of freedom, in the angle of t / sqrt(degrees). Abramowitz and
    Stegun 1964, 26.7.3 and 26.7.4.
    """
    low, high = 0.0, math.pi / 2
    while low < (middle := (low + high) / 2) < high:
        if _t_probability(middle, degrees) < confidence:
            low = middle
        else:
            high = middle
    return math.sqrt(degrees) * math.tan(low)


def _t_probability(angle: float, degrees: int) -> float:
    """P(|T| <= sqrt(degrees) tan(angle))."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for power in range(odd, degrees - 1, 2):
        total += term
        term *= cosine**2 * (power + 1) / (power + 2)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def concordance(
    order: ArrayLike,
    times: ArrayLike,
    censored: ArrayLike,
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Harrell's C: the share of pairs with different `order` whose times are in that order, and its interval.

    1 when a larger `order` always means a later time, 0.5 for no relation, 0 when it always means an earlier one. Where
    `censored` is True the event had not happened by that time. A pair is comparable if the earlier time is an event's;
    at equal times, if only one is an event, which counts as earlier. Pairs tied in `order` are left out: otherwise an
    `order` with few levels could never reach 1. NaN if no pair is left; such resamples are left out of the interval.
    Harrell et al. 1982, JAMA 247(18).
    Raises ValueError for unequal lengths and values that are not finite.
    """
    columns = [np.asarray(column, dtype=float) for column in (order, times, censored)]
    if len({column.shape for column in columns}) > 1 or columns[0].ndim != 1:
        shapes = ", ".join(str(column.shape) for column in columns)
        raise ValueError(f"concordance: order, times and censored must be of one length, got shapes {shapes}")
    rows = np.stack(columns, axis=1)
    return bootstrap_interval(rows, _harrell, resamples=resamples, confidence=confidence, seed=seed)


def _harrell(rows: np.ndarray) -> float:
    order, times, censored = rows.T
    happened = censored == 0
    earlier = (times[:, None] < times) | ((times[:, None] == times) & ~happened)
    comparable = happened[:, None] & earlier & (order != order[:, None])
    pairs = comparable.sum()
    return float((comparable * (order > order[:, None])).sum() / pairs) if pairs else math.nan


def check_settings(resamples: int, confidence: float) -> None:
    """Raises ValueError for impossible settings of an interval."""
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")


def percentiles(value: float, drawn: np.ndarray, confidence: float) -> Interval:
    """The interval from resampled statistics; those that are undefined, NaN, are left out."""
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        return Interval(value, math.nan, math.nan)
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value, float(low), float(high))
