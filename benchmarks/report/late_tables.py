"""What the probes measured late in each run, by game and arm, and against the first arm by seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from benchmarks.report.metric_series import MEASURES
from benchmarks.report.recorded import Recorded
from benchmarks.report.table import Table
from experiment.statistics import Interval, t_interval
from experiment.tables import with_bounds

SCORE = "score"
COLUMNS = {SCORE: "Score"} | {measure.name: measure.title for measure in MEASURES}
BySeed = Mapping[tuple[str, str], Mapping[str, Mapping[str, float]]]
"""By game and arm, then seed: the values that are known, by column."""


def late_tables(runs: Sequence[Recorded], arms: Sequence[str]) -> list[Table]:
    """The means of the arms, and their differences from the first one; no empty table."""
    found = by_seed(runs)
    games = sorted({game for game, _ in found})
    keys = [(game, arm) for game in games for arm in arms if (game, arm) in found]
    first = arms[0]
    means = {key: _columns(list(found[key].values())) for key in keys}
    gaps = {}
    for game, arm in keys:
        base = found.get((game, first), {})
        shared = [(own, base[seed]) for seed, own in found[game, arm].items() if seed in base]
        if arm != first and shared:
            gaps[game, arm] = _columns(
                [{name: one[name] - two[name] for name in one if name in two} for one, two in shared]
            )
    tables = [
        _table("late", "Score, and measures late in the run", LATE, means),
        _table("late-paired", f"Difference from {first}, by seed", f"Less {first} with the same seed. {LATE}", gaps),
    ]
    return [table for table in tables if table.rows]


LATE = (
    "Score: the evaluation at the end. The others: means over the last quarter of a run. Means over seeds, 95% "
    "Student-t intervals; n: seeds, where a measure has fewer than the score."
)


def by_seed(runs: Sequence[Recorded]) -> BySeed:
    """The score and the late measures of each run."""
    found: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for run in runs:
        values = {SCORE: run.score.score} | {measure.name: run.late(measure.name) for measure in MEASURES}
        known = {name: value for name, value in values.items() if math.isfinite(value)}
        found.setdefault((run.score.game, run.score.arm), {})[run.score.run] = known
    return found


Columns = Mapping[str, tuple[Interval, int]]


def _columns(rows: Sequence[Mapping[str, float]]) -> Columns:
    """The interval and the number of values of each column that has some."""
    values = {name: [row[name] for row in rows if name in row] for name in COLUMNS}
    return {name: (t_interval(found), len(found)) for name, found in values.items() if found}


def _table(name: str, title: str, note: str, found: Mapping[tuple[str, str], Columns]) -> Table:
    shown = [column for column in COLUMNS if any(column in columns for columns in found.values())]
    rows = [[f"{game}, {arm}", *(_cell(columns, column) for column in shown)] for (game, arm), columns in found.items()]
    records = [
        {"game": game, "arm": arm, "measure": column, **columns[column][0]._asdict(), "runs": columns[column][1]}
        for (game, arm), columns in found.items()
        for column in shown
        if column in columns
    ]
    return Table(name, title, ["game and arm", *(COLUMNS[column] for column in shown)], rows, note, records)


def _cell(columns: Columns, column: str) -> str:
    if column not in columns:
        return "–"
    interval, count = columns[column]
    return with_bounds(interval, lambda value: f"{value:.3g}") + f" n={count}" * (count < columns[SCORE][1])
