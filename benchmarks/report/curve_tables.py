"""CSV tables of learning curves, with a line for each measurement of each run (docs/formats.md): read, and written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.formats.long_table import read_curves
from benchmarks.formats.point import TRAINING, Given, Point, known_game
from benchmarks.report.learning_curves import Trace, sampled
from benchmarks.report.metric_series import MEASURES
from envs.registry import usual_skip
from experiment.config import ConfigError
from experiment.tables import csv_table


def read_traces(path: Path) -> list[tuple[str, Trace]]:
    """The curve of each run of a table, with the run's name there, its measurements as the table states them.

    Raises ConfigError, in one line, for a table that cannot be read, a game that is not known, a line without steps and
    frames, and a run with training and evaluation scores or two scores at one step.
    """
    runs: dict[tuple[str, str, str], list[Point]] = {}
    for point in read_curves(path, Given()).points:
        runs.setdefault((point.agent, _game(path, point), point.run), []).append(point)
    return [(run[2], _trace(path, run, points)) for run, points in runs.items()]


def _game(path: Path, point: Point) -> str:
    if (game := known_game(point.game)) is None:
        raise ConfigError(f"{path}: game {point.game!r} is not known here")
    return game


def _trace(path: Path, run: tuple[str, str, str], points: Sequence[Point]) -> Trace:
    agent, game, name = run
    where = f"{path}: run {name} of {agent} in {game}"
    if len({point.kind for point in points}) > 1:
        raise ConfigError(f"{where} has training and evaluation scores: leave one kind out")
    scores = dict(sorted((_steps(where, game, point), point.score) for point in points))
    if len(scores) < len(points):
        raise ConfigError(f"{where} has two scores at one step")
    steps = np.array(list(scores), float)
    ends = np.array([0.0, steps[-1]])
    return Trace(agent, game, ends, np.zeros(2), steps, np.array(list(scores.values()), float), {})


def _steps(where: str, game: str, point: Point) -> float:
    if point.steps is not None:
        return point.steps
    if point.frames is None:
        raise ConfigError(f"{where} has a line with neither steps nor frames")
    return point.frames / (point.frame_skip or usual_skip(game))


def thinned(runs: Sequence[tuple[str, Trace]], points: int) -> str:
    """A CSV table of curves at so many steps of each run, with the measures of plasticity as they were then."""
    header = ["agent", "game", "run", "steps", "score", "kind", *(measure.name for measure in MEASURES)]
    return csv_table(header, [row for name, trace in runs for row in _thinned(name, trace, points)])


def _thinned(name: str, trace: Trace, points: int) -> list[list[str | int | float]]:
    steps = np.unique(np.linspace(0, trace.length(wall=False), points + 1)[1:].round())
    columns = [sampled(trace, steps, wall=False)]
    columns += [_last_known(steps, *trace.measures.get(measure.name, _NOTHING)) for measure in MEASURES]
    return [
        [
            trace.arm,
            trace.game,
            name,
            int(step),
            float(f"{score:.6g}"),
            TRAINING,
            *(float(f"{value:.4g}") for value in measures),
        ]
        for step, score, *measures in zip(steps, *columns, strict=True)
        if np.isfinite(score)
    ]


def _rounded(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")


_NOTHING = (np.empty(0), np.empty(0))


def _last_known(steps: np.ndarray, measured: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The value of a measure at each step: the last one by then, NaN before the first."""
    count = np.searchsorted(measured, steps, "right")
    return np.where(count > 0, np.append(values, np.nan)[count - 1], np.nan)
