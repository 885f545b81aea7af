"""The curves of a run in a list of finished runs (--record), from which a report is made again without its directory.

A column holds one curve: its value in each twentieth of the run, with semicolons between. curve_return is the running
mean return at the end of the part, the others are means over the rows of metrics in it. fall, rise and stopped are
numbers, of `benchmarks.report.stability` and `Trace.stopped`. A hyphen is a value that is not known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks.report.learning_curves import Trace, read_trace, sampled
from benchmarks.report.metric_series import MEASURES
from benchmarks.report.scores import Score, Scores, read_scores
from benchmarks.report.stability import largest_fall, largest_rise
from experiment.config import ConfigError
from experiment.storage.run_dir import RunDir
from experiment.sweeps.records import read_records

POINTS = 20
"""Parts of a run in its curves."""
LATE = 15
"""Parts before those that count as late."""
UNKNOWN = "-"
RETURN = "curve_return"
SCALARS = ("fall", "rise", "stopped")


@dataclass(frozen=True)
class Recorded:
    """A run as a list of finished runs holds it.

    Attributes:
        score: its score, with arm, game and seed.
        trace: its curves, of POINTS points at most.
        fall, rise: the largest fall of the return and rise of the TD error, of all its rows; None if unknown.
    """

    score: Score
    trace: Trace
    fall: float | None
    rise: float | None

    def late(self, measure: str) -> float:
        """The mean of a measure over the last quarter of the run; NaN if it was not measured there."""
        steps, values = self.trace.measures[measure]
        # the limit is in the middle of a part: points, at the ends of parts, are rounded
        found = values[steps * POINTS > (LATE + 0.5) * self.trace.length(wall=False)]
        return float(found.mean()) if found.size else math.nan


def read_recorded(study: str) -> tuple[Scores, list[Recorded]]:
    """The scores and curves of a study's folder, or of a list of its runs. Raises ConfigError, in one line.

    Of both the curves have the same points, so that a report from the list has the numbers of one from the folder.
    """
    path = Path(study)
    scores = read_scores([study])
    if not path.is_file():
        found = [_of_directory(run) for run in scores.runs if run.directory is not None]
        return scores, [item for item in found if item is not None]
    records = read_records(path)
    cells = {record.where: record.cells for record in records.values()}
    runs = [(run, cells[run.source]) for run in scores.runs if run.source in cells]
    return scores, [_of_cells(run, own) for run, own in runs if own.get(RETURN)]


def cells(directory: RunDir) -> dict[str, str]:
    """The columns of a run in a list of finished runs; none if no whole game was played."""
    trace = read_trace("", "", directory)
    if trace is None:
        return {}
    end = trace.length(wall=False)
    edges = np.linspace(0, end, POINTS + 1)
    found = {RETURN: sampled(trace, edges[1:], wall=False)}
    for measure in MEASURES:
        steps, values = trace.measures[measure.name]
        if steps.size:
            parts = [values[(steps > low) & (steps <= high)] for low, high in pairwise(edges)]
            found[f"curve_{measure.name}"] = np.array([part.mean() if part.size else math.nan for part in parts])
    numbers = (largest_fall(trace, end / 10), largest_rise(trace), trace.stopped)
    texts = {name: UNKNOWN if value is None else _text(value) for name, value in zip(SCALARS, numbers, strict=True)}
    return {name: ";".join(map(_text, values)) for name, values in found.items()} | texts | _ends(trace)


def _ends(trace: Trace) -> dict[str, str]:
    return {"curve_end": _text(trace.length(wall=False)), "curve_hours": _text(trace.length(wall=True))}


def _text(value: float) -> str:
    return UNKNOWN if math.isnan(value) else f"{value:.6g}"


def _of_directory(run: Score) -> Recorded | None:
    assert run.directory is not None
    found = cells(run.directory)
    return _of_cells(run, found) if found else None


def _of_cells(run: Score, cells: Mapping[str, str]) -> Recorded:
    """A run from its columns. ConfigError, in one line, for columns that hold no curves."""
    try:
        end, hours = float(cells["curve_end"]), float(cells["curve_hours"])
        grid = np.linspace(0, end, POINTS + 1)[1:]
        ended, returns = _known(grid, cells[RETURN])
        measures = {each.name: _known(grid, cells.get(f"curve_{each.name}", "")) for each in MEASURES}
        fall, rise, stopped = (None if cells[name] == UNKNOWN else float(cells[name]) for name in SCALARS)
    except (LookupError, ValueError) as error:
        raise ConfigError(f"{run.source}: its curves cannot be read: {error}") from None
    axis = np.array([0.0, end]), np.array([0.0, 3600 * hours])
    return Recorded(run, Trace(run.arm, run.game, *axis, ended, returns, measures, stopped), fall, rise)


def _known(grid: np.ndarray, cell: str) -> tuple[np.ndarray, np.ndarray]:
    """The positions and values of the points of a curve that are known; none for an empty cell."""
    words = cell.split(";") if cell else [UNKNOWN] * POINTS
    if len(words) != POINTS:
        raise ValueError(f"{cell[:40]!r} has {len(words)} values, not {POINTS}")
    values = np.array([math.nan if word == UNKNOWN else float(word) for word in words])
    known = np.isfinite(values)
    return grid[known], values[known]
