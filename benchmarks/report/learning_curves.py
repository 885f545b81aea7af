"""Learning curves and measures of plasticity over agent steps and over wall time, on grids that runs share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.report.metric_series import MEASURES, Row, returns, series, smooth
from benchmarks.report.scores import Score
from benchmarks.report.summary import common_games, normalized
from envs.games import reference_scores
from experiment.config import ConfigError
from experiment.results import read_rows
from experiment.statistics import iqm_curve, t_quantile
from experiment.storage.run_dir import RunDir

POINTS = 40
DRAWS = 10**6
"""Runs drawn for the interval of an aggregated curve: few runs get 2,000 resamples, many as few as 200."""


@dataclass(frozen=True)
class Trace:
    """The running mean return and the measures of one run, each as positions and values.

    `seconds` and `steps` are those of the rows of metrics, from 0 on; they turn agent steps into wall time.
    `stopped` is the agent step at which cycling stopped; the last step if it never did; None if the schedule cannot.
    `ends`: the run is complete and keeps its last value; an unfinished run has no value after its last row.
    """

    arm: str
    game: str
    steps: np.ndarray
    seconds: np.ndarray
    ended: np.ndarray
    returns: np.ndarray
    measures: Mapping[str, tuple[np.ndarray, np.ndarray]]
    stopped: float | None = None
    ends: bool = True

    def times(self, wall: bool) -> np.ndarray:
        """Where its games ended, in agent steps or in hours."""
        return np.interp(self.ended, self.steps, self.seconds) / 3600 if wall else self.ended

    def length(self, wall: bool) -> float:
        """Its end, in agent steps or in hours."""
        return float(self.seconds[-1] / 3600 if wall else self.steps[-1])


def read_traces(runs: Sequence[Score]) -> list[Trace]:
    """The traces of all runs that have one."""
    found = [read_trace(run.arm, run.game, run.directory) for run in runs if run.directory is not None]
    return [trace for trace in found if trace is not None]


def read_trace(arm: str, game: str, directory: RunDir) -> Trace | None:
    """The trace of a run; None where no whole game was played."""
    if not directory.metrics.is_file() or not directory.metrics.stat().st_size:
        return None
    try:
        rows = read_rows(directory)
        ended, scores = returns(rows)
        if not ended:
            return None
        logged = [row for row in rows if "episode_return" not in row]
        times = [(row["agent_step"], row["seconds"]) for row in logged if row.get("seconds") is not None]
        steps, seconds = np.array([(0.0, 0.0), *(times or [(ended[-1], 0.0)])], float).T
        return Trace(
            arm, game, steps, seconds, np.array(ended, float), np.array(smooth(scores)), series(logged),
            _stopped(rows), directory.finished,
        )  # fmt: skip
    except ConfigError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError):
        raise ConfigError(f"{directory.metrics} is damaged: it does not hold rows of metrics") from None


def _stopped(rows: Sequence[Row]) -> float | None:
    known = [row for row in rows if "stopped_at" in row]
    if not known:
        return None
    stop = known[-1]["stopped_at"]
    return float(known[-1]["agent_step"] if stop is None else stop)


@dataclass(frozen=True)
class Curve:
    """Lines over one axis: of each run (runs, points) if they are few, the middle, and bounds; NaN where unknown."""

    x: np.ndarray
    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray
    runs: int
    lines: np.ndarray


@dataclass(frozen=True)
class Curves:
    """Every curve of a report.

    Attributes:
        games: by axis ("steps", "hours"), game and arm: the mean of the runs' running mean returns.
        aggregates: by axis and arm: IQM of the human-normalised running mean returns over `common`.
        measures: by measure and arm, over agent steps: the median run of all games, and the middle half.
    """

    games: Mapping[str, Mapping[str, Mapping[str, Curve]]]
    aggregates: Mapping[str, Mapping[str, Curve]]
    common: tuple[str, ...]
    measures: Mapping[str, Mapping[str, Curve]]

    @property
    def runs(self) -> int:
        """Runs that have curves."""
        return sum(curve.runs for arms in self.games["steps"].values() for curve in arms.values())


Groups = Mapping[str, Mapping[str, Sequence[Trace]]]


def make_curves(traces: Sequence[Trace]) -> Curves:
    """The curves of all runs that have a directory."""
    axes = {"steps": group(traces), "hours": group([trace for trace in traces if trace.length(wall=True)])}
    groups = axes["steps"]
    known = [{game for game in games if game in reference_scores()} for games in groups.values()]
    common = common_games([games for games in known if games])
    return Curves(
        games={axis: game_curves(members, axis == "hours") for axis, members in axes.items()},
        aggregates={axis: _aggregate_curves(members, common, axis == "hours") for axis, members in axes.items()},
        common=common,
        measures={measure.name: measure_curves(groups, measure.name) for measure in MEASURES},
    )


def group(traces: Sequence[Trace]) -> Groups:
    """The traces by arm and game."""
    groups: dict[str, dict[str, list[Trace]]] = {}
    for trace in traces:
        groups.setdefault(trace.arm, {}).setdefault(trace.game, []).append(trace)
    return groups


def _grid(traces: Sequence[Trace], wall: bool, points: int = POINTS) -> np.ndarray:
    return np.linspace(0, max(trace.length(wall) for trace in traces), points + 1)[1:]


def sampled(trace: Trace, grid: np.ndarray, wall: bool) -> np.ndarray:
    """The running mean return at each position: of the games that have ended by then, NaN before the first.

    A run that has ended keeps its last value.
    """
    count = np.searchsorted(trace.times(wall), grid, "right")
    unknown = (count == 0) | (grid > (np.inf if trace.ends else trace.length(wall)))
    return np.where(unknown, np.nan, trace.returns[count - 1])


def game_curves(groups: Groups, wall: bool = False, points: int = POINTS) -> dict[str, dict[str, Curve]]:
    """By game and arm: the mean of the runs' running mean returns at `points` positions."""
    found: dict[str, dict[str, Curve]] = {}
    for arm, games in groups.items():
        for game, traces in games.items():
            grid = _grid(traces, wall, points)
            values = np.stack([sampled(trace, grid, wall) for trace in traces])
            found.setdefault(game, {})[arm] = mean_curve(grid, values)
    return {game: found[game] for game in sorted(found)}


def mean_curve(grid: np.ndarray, values: np.ndarray) -> Curve:
    """The mean and its Student-t interval, where every run has a value."""
    count = len(values)
    middle = values.mean(0)
    half = np.full(len(grid), np.nan)
    if count > 1:
        half = t_quantile(0.95, count - 1) * values.std(0, ddof=1) / np.sqrt(count)
    return Curve(grid, middle, middle - half, middle + half, count, values)


def _aggregate_curves(groups: Groups, common: Sequence[str], wall: bool) -> dict[str, Curve]:
    return {
        arm: _aggregate_curve({game: games[game] for game in common}, wall)
        for arm, games in groups.items()
        if common and set(common) <= games.keys()
    }


def resamples(runs: int) -> int:
    """The number of resamples for the interval of an aggregated curve of so many runs."""
    return int(np.clip(DRAWS // runs, 200, 2000))


def _aggregate_curve(games: Mapping[str, Sequence[Trace]], wall: bool) -> Curve:
    """The IQM and its bootstrap interval, where every run has a value."""
    traces = [trace for group in games.values() for trace in group]
    grid = _grid(traces, wall)
    values = {
        game: normalized(game, np.stack([sampled(trace, grid, wall) for trace in group]))
        for game, group in games.items()
    }
    known = np.logical_and.reduce([np.isfinite(runs).all(0) for runs in values.values()])
    bounds = np.full((3, len(grid)), np.nan)
    if known.any():
        known_values = {game: runs[:, known] for game, runs in values.items()}
        bounds[:, known] = iqm_curve(known_values, resamples=resamples(len(traces)))
    value, low, high = bounds
    return Curve(grid, value, low, high, len(traces), np.empty((0, len(grid))))


def measure_curves(groups: Groups, name: str) -> dict[str, Curve]:
    """By arm: the median run of all games, and the middle half; arms without a known value are left out."""
    found = {}
    for arm, games in groups.items():
        traces = [trace for group in games.values() for trace in group if len(trace.measures[name][0])]
        if traces:
            grid = _measured_at(traces, name)
            values = np.stack([_measured(trace, grid, name) for trace in traces])
            low, middle, high = np.quantile(values, [0.25, 0.5, 0.75], axis=0)
            if np.isfinite(middle).any():
                found[arm] = Curve(grid, middle, low, high, len(traces), np.empty((0, len(grid))))
    return found


def _measured_at(traces: Sequence[Trace], name: str) -> np.ndarray:
    """The positions of a measure's curve: the measured steps if they are few, otherwise a grid."""
    steps = np.unique(np.concatenate([trace.measures[name][0] for trace in traces]))
    first = max(trace.measures[name][0][0] for trace in traces)
    return steps[steps >= first] if len(steps) <= POINTS else _grid(traces, False)


def _measured(trace: Trace, grid: np.ndarray, name: str) -> np.ndarray:
    """A measure at each position, interpolated between its points; NaN before the first point.

    An unfinished run is NaN after its last point, except at the first position, which may be all that runs share.
    """
    steps, values = trace.measures[name]
    found = np.interp(grid, steps, values, left=np.nan)
    unknown = (grid > max(steps[-1], grid[0])) & (not trace.ends)
    return np.where(unknown, np.nan, found)
