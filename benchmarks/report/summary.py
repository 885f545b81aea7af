"""The statistics of a report: each game, aggregates over games, comparisons of arms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np

from benchmarks.report.agreement import caution
from benchmarks.report.late_progress import LateProgress
from benchmarks.report.published import published_label, published_scores, why_not_published
from benchmarks.report.scores import Missing, Score, Scores
from benchmarks.report.table import MOST_COLUMNS
from envs.games import human_normalized, reference_scores
from experiment.statistics import (
    Interval,
    improvement_intervals,
    iqm,
    mean,
    median,
    optimality_gap,
    performance_profile,
    stratified_intervals,
    t_interval,
)

AGGREGATES = {"IQM": iqm, "median": median, "mean": mean, "optimality gap": optimality_gap}
DRAWS = 5 * 10**7
"""Runs drawn for an interval: reports of up to 25,000 runs get 2,000 resamples, of 250,000 or more 200."""
THRESHOLDS = 81
ByGame = dict[str, list[float]]


class Cell(NamedTuple):
    """The mean raw score of an arm in a game, its runs, and how many of them are missing."""

    interval: Interval
    runs: int
    missing: int


@dataclass(frozen=True)
class Aggregate:
    """Human-normalised aggregates of an arm over some games: of `runs` in all, of a game at least `fewest`."""

    arm: str
    games: tuple[str, ...]
    runs: int
    fewest: int
    uneven: bool
    values: Mapping[str, Interval]


@dataclass(frozen=True)
class Improvement:
    """The probability that a run of `arm` scores above one of `other`, over the games of both; `runs` of each,
    `fewest` of one of them in a game."""

    arm: str
    other: str
    games: tuple[str, ...]
    runs: tuple[int, int]
    fewest: int
    interval: Interval


@dataclass(frozen=True)
class Summary:
    """Everything that the tables and figures show, except the curves.

    Attributes:
        arms, games: in the order in which they are shown.
        cells: by arm and game, where there are runs or missing ones.
        common: the normalised games of which every arm has runs; empty if there are none.
        aggregates: over the common games, or over each arm's own if there are none in common.
        own: over each arm's own games, of arms that have more than the common ones.
        thresholds, profiles: value, low and high (3, thresholds) of each arm over the games of its aggregate.
        references: published means by label and game; none unless every arm has their rules and budget.
        published: label, mean and median over the common games, of methods that have them all.
        why_not_published: a sentence; empty if they are shown.
        left_out: games without a human reference.
        resamples: of each bootstrap interval.
        first: one run of each arm that has any, for the arm's rules and budget.
    """

    arms: list[str]
    games: list[str]
    cells: dict[tuple[str, str], Cell]
    common: tuple[str, ...]
    aggregates: list[Aggregate]
    own: list[Aggregate]
    references: Mapping[str, Mapping[str, float]]
    published: list[tuple[str, float, float]]
    improvements: list[Improvement]
    thresholds: np.ndarray
    profiles: dict[str, np.ndarray]
    left_out: list[str]
    why_not_published: str
    resamples: int
    first: Mapping[str, Score]

    @property
    def paired(self) -> list[str]:
        """The arms that are compared with another arm on shared games."""
        return list(dict.fromkeys(arm for each in self.improvements for arm in (each.other, each.arm)))

    def caution(self, arms: Sequence[str]) -> str:
        """What is unequal, or may be, in a comparison of these arms; empty for nothing."""
        return caution(self.first, arms)


def summarize(scores: Scores) -> Summary:
    """The statistics of a report. Every bootstrap has a fixed seed, so that equal scores give equal numbers."""
    raw = by_game((run.arm, run.game, run.score) for run in scores.runs)
    games = sorted({run.game for run in scores.runs} | {run.game for run in scores.missing})
    normalized = {arm: _normalized(raw.get(arm, {})) for arm in scores.arms}
    scored = [arm for arm in scores.arms if normalized[arm]]
    common = common_games([normalized[arm] for arm in scored])
    chosen = {arm: _only(normalized[arm], common) if common else normalized[arm] for arm in scored}
    own = {arm: normalized[arm] for arm in scored if len(normalized[arm]) > len(chosen[arm])}
    thresholds = _thresholds(chosen.values())
    first = {run.arm: run for run in reversed(scores.runs)}
    why_not = why_not_published(first[arm] for arm in scores.arms if arm in first)
    references = {} if why_not else _labelled(published_scores(), scores.arms)
    resamples = int(np.clip(DRAWS // len(scores.runs), 200, 2000)) if scores.runs else 2000
    with LateProgress(3, "parts of the statistics") as progress:
        aggregates = [_aggregate(arm, games, resamples) for arm, games in chosen.items()]
        progress.update(1)
        profiles = {arm: performance_profile(each, thresholds, resamples=resamples) for arm, each in chosen.items()}
        progress.update(2)
        improvements = _improvements(raw, resamples)
    return Summary(
        arms=scores.arms,
        games=games,
        cells=_cells(raw, scores.missing),
        common=common,
        aggregates=aggregates,
        own=[_aggregate(arm, games, resamples) for arm, games in own.items()],
        references=references,
        published=_published(references, common),
        improvements=improvements,
        thresholds=thresholds,
        profiles=profiles,
        left_out=[game for game in games if game not in reference_scores()],
        why_not_published=why_not,
        resamples=resamples,
        first=first,
    )


def _labelled(scores: Mapping[str, dict[str, float]], arms: Sequence[str]) -> dict[str, dict[str, float]]:
    return {published_label(name, arms): games for name, games in scores.items()}


def by_game(scores: Iterable[tuple[str, str, float]]) -> dict[str, ByGame]:
    """The scores of each arm by game."""
    found: dict[str, ByGame] = {}
    for arm, game, score in scores:
        found.setdefault(arm, {}).setdefault(game, []).append(score)
    return found


def common_games(arms: Sequence[Collection[str]]) -> tuple[str, ...]:
    """The games of which every arm has runs."""
    return tuple(sorted(set.intersection(*map(set, arms)))) if arms else ()


def _only(games: ByGame, names: Iterable[str]) -> ByGame:
    return {name: games[name] for name in names}


def normalized(game: str, scores: np.ndarray) -> np.ndarray:
    """`human_normalized` of many scores of a game that has references."""
    random, human = reference_scores()[game]
    return (scores - random) / (human - random)


def _normalized(games: ByGame) -> ByGame:
    known = [game for game in sorted(games) if game in reference_scores()]
    return {game: normalized(game, np.array(games[game])).tolist() for game in known}


def _cells(raw: Mapping[str, ByGame], missing: Sequence[Missing]) -> dict[tuple[str, str], Cell]:
    lost = Counter((item.arm, item.game) for item in missing)
    found = {(arm, game): runs for arm, games in raw.items() for game, runs in games.items()}
    cells = {key: Cell(t_interval(runs), len(runs), lost[key]) for key, runs in found.items()}
    nothing = Interval(np.nan, np.nan, np.nan)
    return cells | {key: Cell(nothing, 0, count) for key, count in lost.items() if key not in found}


def _aggregate(arm: str, games: ByGame, resamples: int) -> Aggregate:
    values = stratified_intervals(AGGREGATES, games, resamples=resamples)
    sizes = [len(runs) for runs in games.values()]
    return Aggregate(arm, tuple(games), sum(sizes), min(sizes), len(set(sizes)) > 1, values)


def _published(references: Mapping[str, Mapping[str, float]], games: Sequence[str]) -> list[tuple[str, float, float]]:
    found = []
    for name, scores in references.items():
        if games and set(games) <= scores.keys():
            means = [human_normalized(game, scores[game]) for game in games]
            found.append((name, float(mean(means)), float(median(means))))
    return found


def _improvements(arms: Mapping[str, ByGame], resamples: int) -> list[Improvement]:
    """Comparisons by raw scores, of many arms only with the first.

    Only the order of scores within a game counts, so games without references count too.
    """
    first, few = next(iter(arms), None), len(arms) <= MOST_COLUMNS
    chosen = [(other, arm) for other, arm in combinations(arms, 2) if few or other == first]
    pairs = {(arm, other): common_games([arms[arm], arms[other]]) for other, arm in chosen}
    pairs = {pair: games for pair, games in pairs.items() if games}
    intervals = improvement_intervals(arms, pairs, resamples=resamples)
    found = []
    for (arm, other), games in pairs.items():
        sizes = [[len(arms[each][game]) for game in games] for each in (arm, other)]
        runs = sum(sizes[0]), sum(sizes[1])
        found.append(Improvement(arm, other, games, runs, min(map(min, sizes)), intervals[arm, other]))
    return found


def _thresholds(arms: Iterable[ByGame]) -> np.ndarray:
    """Thresholds from 0 (lower if over 2% of the runs are below) to the score that only 2% of the runs exceed."""
    values = [score for games in arms for runs in games.values() for score in runs]
    if not values:
        return np.zeros(0)
    low, high = np.quantile(values, [0.02, 0.98])
    return np.linspace(min(low, 0.0), max(high, 0.1), THRESHOLDS)
