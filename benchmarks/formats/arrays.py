"""Arrays of scores, runs x games: npy, npz (an array for each agent) and JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.formats.files import number, read_arrays, read_json
from benchmarks.formats.point import EVALUATION, Given, Point, Table
from experiment.config import ConfigError


def read_scores(path: Path, given: Given) -> Table:
    """Final scores of agents. The user gives the games of an array's columns, and the agent if the array has no name.

    JSON may hold a list of runs, each a list of scores; an object of games, each with the scores of its runs;
    or an object of agents, each with one of these.
    """
    value = read_json(path) if path.suffix.lower() == ".json" else read_arrays(path)
    table = Table()
    for agent, scores in _agents(value, path, given):
        for game, run, score in _scores(scores, path, given):
            value = number(score, f"{path} {agent}, {game}, run {run}")
            table.points.append(Point(agent, game, str(run), value, EVALUATION))
    return table


def _agents(value: Any, path: Path, given: Given) -> Iterator[tuple[str, Any]]:
    """Names of agents and what they scored."""
    if isinstance(value, dict) and "" in value:  # npy
        value = value[""]
    nested = isinstance(value, dict) and not all(_is_row(scores) for scores in value.values())
    if not nested:
        yield given.one_agent(path), value
        return
    if given.agent:
        raise ConfigError(f"--agent: {path} names its agents: {', '.join(value)}")
    yield from value.items()


def _scores(scores: Any, path: Path, given: Given) -> Iterator[tuple[str, int, Any]]:
    """Game, number of the run, and score."""
    if isinstance(scores, dict) and all(_is_row(row) for row in scores.values()):
        if given.game:
            raise ConfigError(f"--game: {path} names its games: {', '.join(scores)}")
        yield from ((game, run, score) for game, row in scores.items() for run, score in enumerate(row, 1))
        return
    if hasattr(scores, "tolist"):
        scores = scores.tolist()
    if not isinstance(scores, list) or not all(_is_row(row) for row in scores):
        raise ConfigError(f"{path}: it is not an array of two dimensions, runs x games")
    for run, row in enumerate(scores, 1):
        if len(row) != len(given.game):
            raise ConfigError(f"{path}: run {run} has {len(row)} scores, and --game names {len(given.game)} games")
        yield from ((game, run, score) for game, score in zip(given.game, row, strict=True))


def _is_row(row: Any) -> bool:
    return isinstance(row, Sequence) and not isinstance(row, str) and not any(isinstance(s, list | dict) for s in row)
