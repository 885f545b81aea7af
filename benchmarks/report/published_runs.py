"""The single runs of DER that Agarwal et al. 2021 released (arXiv 2108.13264): 100 of each of the 26 games of Atari
100k, where a run of ours stands among them, and which IQM as many of them would have."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np

from benchmarks.report.scores import Scores
from benchmarks.report.summary import Summary, by_game, normalized
from benchmarks.report.table import Table, fine, raw
from experiment.samples import Interval, percentiles
from experiment.statistics import iqm
from experiment.tables import with_bounds

DRAWS = 10_000
CENTRAL = 0.98
"""The share of the published runs that a run is expected among."""


@cache
def published_runs() -> dict[str, np.ndarray]:
    """The raw scores of each game, in order."""
    with Path(__file__).with_name("published_runs.csv").open(newline="") as file:
        return {row["game"]: np.array(row["scores"].split(), float) for row in csv.DictReader(file)}


def share_below(game: str, score: float) -> float:
    """The share of the published runs of a game below a score; equal ones count one half."""
    scores = published_runs()[game]
    return float((np.searchsorted(scores, score) + np.searchsorted(scores, score, "right")) / 2 / len(scores))


def drawn_iqm(runs: Mapping[str, int], seed: int = 0) -> Interval:
    """Human-normalised IQM of so many published runs of each game, drawn at random: the median and the central 95%."""
    generator = np.random.default_rng(seed)
    drawn = {
        game: normalized(game, generator.choice(published_runs()[game], (DRAWS, count))) for game, count in runs.items()
    }
    values = iqm(drawn)
    return percentiles(float(np.median(values)), values, 0.95)


def published_runs_table(scores: Scores, summary: Summary) -> Table:
    """Each arm among the published runs, game by game; no rows where they are under other rules or another budget."""
    known = published_runs()
    every = by_game((run.arm, run.game, run.score) for run in scores.runs if run.game in known)
    arms = every if summary.references else {}
    games = [game for game in known if any(game in own for own in arms.values())]
    rows = [
        [game, raw(known[game].mean()), *(_cell(game, own.get(game, [])) for own in arms.values())] for game in games
    ]
    records = [
        {"game": game, "arm": arm, "score": score, "share_below": share_below(game, score)}
        for arm, own in arms.items()
        for game in own
        for score in own[game]
    ]
    note = (
        "Each run's raw score and, in brackets, the percentage of the 100 published runs of DER below it; * marks a "
        f"run outside the central {CENTRAL:.0%} of them. {' '.join(_aggregate(arm, own) for arm, own in arms.items())}"
    )
    header = ["game", "DER, mean of 100", *arms]
    return Table("published_runs", "Among the published runs of DER", header, rows, note, records)


def _cell(game: str, scores: Sequence[float]) -> str:
    return ", ".join(map(partial(_run, game), scores)) or "–"


def _run(game: str, score: float) -> str:
    return f"{raw(score)} ({100 * share_below(game, score):.3g}{_mark(game, score)})"


def _mark(game: str, score: float) -> str:
    tail = (1 - CENTRAL) / 2
    return "" if tail <= share_below(game, score) <= 1 - tail else "*"


def _aggregate(arm: str, games: Mapping[str, Sequence[float]]) -> str:
    own = iqm({game: normalized(game, np.array(scores)) for game, scores in games.items()})
    chance = drawn_iqm({game: len(scores) for game, scores in games.items()})
    count = sum(map(len, games.values()))
    drawn = f"as many published runs of these games, drawn at random ({count}), have {with_bounds(chance, fine)}"
    return f"{arm} has an IQM of {fine(own)}; {drawn}."
