"""Series from rows of metrics: returns of whole games, and measures of plasticity as one number over all layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any

import numpy as np

Row = Mapping[str, Any]
WINDOW = 20
"""Games in a running mean of returns."""


def returns(rows: Iterable[Row]) -> tuple[list[int], list[float]]:
    """Agent steps at which whole games ended, and their raw returns."""
    ended = [row for row in rows if "episode_return" in row]
    return [row["agent_step"] for row in ended], [row["episode_return"] for row in ended]


def smooth(values: Sequence[float], window: int = WINDOW) -> list[float]:
    """Mean of each value and those before it, at most `window` in all."""
    sums = [0.0, *accumulate(values)]
    return [(sums[end] - sums[max(0, end - window)]) / min(end, window) for end in range(1, len(sums))]


def _geometric(values: list[float]) -> float:
    return math.exp(math.fsum(map(math.log, values)) / len(values)) if min(values) > 0 else math.nan


def _last(values: list[float]) -> float:
    return values[-1]


@dataclass(frozen=True)
class Measure:
    """A measure of plasticity: the metrics whose names have this prefix, as one number over all layers."""

    name: str
    title: str
    prefix: str
    reduce: Callable[[list[float]], float]
    log: bool = False


MEASURES = (
    Measure("elr", "ELR, geometric mean of layers", "elr/", _geometric, log=True),
    Measure("td", "TD error, mean of minibatches", "td_error", _last, log=True),
    Measure("fresh", "TD error of the newest transitions", "td_error_fresh", _last, log=True),
    Measure("dormant", "Share of dormant units", "dormant_sokar_0.025", _last),
    Measure("grama", "Share of units without gradient", "dormant_grama_0.01", _last),
    Measure("erank", "Effective rank, last hidden layer", "erank_roy/", _last),
    Measure("srank", "srank 0.01, last hidden layer", "srank_kumar_0.01/", _last),
    Measure("fit", "Error on random targets over a fresh network's", "fit_ratio", _last, log=True),
    Measure("churn", "Policy churn between measures", "policy_churn", _last),
    Measure("churn_one", "Policy churn of one update", "policy_churn_one_update", _last),
)


def series(rows: Sequence[Row]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The agent steps and values of each measure."""
    found: dict[str, list[tuple[float, float]]] = {measure.name: [] for measure in MEASURES}
    for row in rows:
        numbers: dict[str, list[float]] = {}
        for name, value in row.items():
            if value is not None and (measure := _measure_of(name)):  # one that is not finite was written as none
                numbers.setdefault(measure.name, []).append(value)
        for measure in MEASURES:
            if values := numbers.get(measure.name):
                found[measure.name].append((row["agent_step"], measure.reduce(values)))
    columns = {name: np.array(pairs, float).reshape(-1, 2) for name, pairs in found.items()}
    return {name: (pairs[:, 0], pairs[:, 1]) for name, pairs in columns.items()}


@cache
def _measure_of(metric: str) -> Measure | None:
    """What a metric is a number of."""
    for measure in MEASURES:
        if metric.startswith(measure.prefix) if measure.prefix.endswith("/") else metric == measure.prefix:
            return measure
    return None
