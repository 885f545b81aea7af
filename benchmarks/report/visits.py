"""Visits to games in sequence: read from a run's directory, and written to and read from a list of finished runs.

In a list (--record) each column holds one measure of all visits, the values in order with spaces between: visit_area,
visit_last_tenth, visit_score (the evaluation on the visit's own game), visit_games (games that ended in training),
visit_updates, visit_dormant, visit_rank and visit_td_error (the probes at the visit's end). In two columns a visit has
several values, with semicolons between: visit_scores (evaluations on all games, in their order) and visit_curve (the
mean return in each twentieth of the visit). alarms are agent steps. A hyphen is a value that is not known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from agents.tasks import Tasks
from benchmarks.report.metric_series import Row, series
from experiment.config import ConfigError
from experiment.results import read_rows
from experiment.storage.run_dir import RunDir

POINTS = 20
"""Parts of a visit in its curve."""
UNKNOWN = "-"
NUMBERS = ("area", "last_tenth", "score", "games", "updates", "dormant", "rank", "td_error")
"""The measures of a visit that are one number."""
MEASURES = {"dormant": "dormant", "rank": "erank"}
"""Those of the probes, and their names in `benchmarks.report.metric_series`."""
LAST_COLUMN = "alarms"


@dataclass(frozen=True)
class Visited:
    """What a visit brought; NaN is what is not known.

    Attributes:
        area: mean over agent steps of the return of the game that a step belongs to; of games that ended.
        last_tenth: mean return of the games that ended in its last tenth.
        score, scores: mean return of the evaluation at its end, on its game, and on each that was evaluated.
        games, updates: games that ended in training, and updates made.
        dormant, rank, td_error: share of dormant units, effective rank of the last hidden layer, and TD error of the
            newest transitions, all at its end.
        curve: as area, in each part of the visit (POINTS).
    """

    area: float
    last_tenth: float
    score: float
    games: float
    updates: float
    dormant: float
    rank: float
    td_error: float
    scores: Mapping[str, float]
    curve: np.ndarray


assert {*NUMBERS, "scores", "curve"} == {each.name for each in fields(Visited)}


# --- from a run's directory


def visits_of(result: Mapping[str, Any], run: RunDir) -> list[Visited]:
    """The visits of a finished run. Raises ConfigError, in one line, for files that do not hold them."""
    try:
        found = result["visits"]
        rows = read_rows(run)
        ends = [visit["start"] + visit["steps"] for visit in found]
        curves = _curves(rows, found, int(result["settings"]["num_envs"]))
        return [
            _visited(visit, [row for row in rows if visit["start"] < row["agent_step"] <= end], curve)
            for visit, end, curve in zip(found, ends, curves, strict=True)
        ]
    except ConfigError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError):
        raise ConfigError(f"{run.path}: its result.json and metrics.jsonl do not hold visits to games") from None


def _visited(visit: Mapping[str, Any], rows: Sequence[Row], curve: np.ndarray) -> Visited:
    """A visit from its row of the result, and its rows of metrics."""
    measured = series(rows)
    ends = {name: measured[key][1][-1] if len(measured[key][1]) else math.nan for name, key in MEASURES.items()}
    fresh = [row["td_error_fresh"] for row in rows if row.get("td_error_fresh") is not None]
    return Visited(
        area=_number(visit["area"]),
        last_tenth=_number(visit["last_tenth"]),
        score=_number(None if visit["score"] is None else visit["score"]["mean"]),
        games=_number(visit["episodes"]),
        updates=_number(visit["updates"]),
        td_error=_number(fresh[-1] if fresh else None),
        scores={game: float(score) for game, score in visit["scores"].items()},
        curve=curve,
        **ends,
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _curves(rows: Sequence[Row], visits: Sequence[Mapping[str, Any]], num_envs: int) -> list[np.ndarray]:
    """The mean return over the agent steps of each part of each visit; NaN where no game that ended was played.

    Weighted by the steps, the parts of a visit have its area as their mean.
    """
    games = [row for row in rows if "episode_return" in row]
    ends = np.array([row["agent_step"] for row in games], float)
    begins = ends - num_envs * np.array([row["episode_steps"] for row in games], float)
    returns = np.array([row["episode_return"] for row in games], float)
    curves = []
    for visit in visits:
        edges = np.linspace(visit["start"], visit["start"] + visit["steps"], POINTS + 1)
        inside = np.minimum(ends, edges[1:, None]) - np.maximum(begins, edges[:-1, None])
        steps = np.maximum(inside, 0)
        with np.errstate(invalid="ignore"):
            curves.append(steps @ returns / steps.sum(1))
    return curves


# --- to and from a list of finished runs


def cells(visits: Sequence[Visited], alarms: Sequence[int] | None) -> dict[str, str]:
    """The columns of a run in a list of finished ones."""
    found = {f"visit_{name}": " ".join(_text(getattr(visit, name)) for visit in visits) for name in NUMBERS}
    found["visit_scores"] = " ".join(";".join(map(_text, visit.scores.values())) or UNKNOWN for visit in visits)
    found["visit_curve"] = " ".join(";".join(f"{value:.4g}" for value in visit.curve) for visit in visits)
    found["visit_curve"] = found["visit_curve"].replace("nan", UNKNOWN)
    found[LAST_COLUMN] = "" if alarms is None else " ".join(map(str, alarms)) or UNKNOWN
    return found


def _text(value: float) -> str:
    return UNKNOWN if math.isnan(value) else f"{value:.6g}"


def visits_in(cells: Mapping[str, str], tasks: Tasks, where: str) -> tuple[list[Visited], list[int] | None]:
    """The visits of a line of such a list, and the alarms if its schedule gives some. ConfigError, in one line."""
    columns = {}
    for name in (*NUMBERS, "scores", "curve"):
        words = cells.get(f"visit_{name}", "").split()
        if len(words) != len(tasks):
            raise ConfigError(f"{where}: visit_{name} has {len(words)} values, and the run {len(tasks)} visits")
        columns[name] = words
    try:
        visits = [
            Visited(
                **{name: _value(columns[name][number]) for name in NUMBERS},
                scores=_scores(tasks, number, columns["scores"][number], columns["score"][number]),
                curve=_values(columns["curve"][number], POINTS),
            )
            for number in range(len(tasks))
        ]
        alarms = cells.get(LAST_COLUMN, "")
        return visits, None if not alarms else [int(word) for word in alarms.split() if word != UNKNOWN]
    except ValueError as error:
        raise ConfigError(f"{where}: its visits cannot be read: {error}") from None


def _value(word: str) -> float:
    return math.nan if word == UNKNOWN else float(word)


def _values(word: str, count: int) -> np.ndarray:
    found = [_value(each) for each in word.split(";")]
    if len(found) != count:
        raise ValueError(f"{word[:40]!r} has {len(found)} values, not {count}")
    return np.array(found)


def _scores(tasks: Tasks, number: int, word: str, own: str) -> dict[str, float]:
    """The evaluations at a visit's end by game: of all games, of its own, or none."""
    if word == UNKNOWN:
        return {}
    if ";" not in word:
        return {tasks[number].game: _value(own)}
    return dict(zip(tasks.games, _values(word, len(tasks.games)).tolist(), strict=True))
