"""Stable-Baselines3 (2.9): `monitor.csv` of its Monitor wrapper, and `evaluations.npz` of its EvalCallback."""

from __future__ import annotations

import heapq
import json
import re
from pathlib import Path

from benchmarks.formats.files import number, read_arrays, read_columns, read_text, whole
from benchmarks.formats.point import EVALUATION, TRAINING, Given, Point, Table, known_game
from envs.registry import usual_skip
from experiment.config import ConfigError

V5 = 4
"""Frames of one step of `ALE/...-v5` as gymnasium.make builds it."""
REPEAT = 4
"""Steps that AtariWrapper takes for one of the agent's, by default."""


def read_monitor(path: Path, given: Given) -> Table:
    """The games of one training run, from a file or from a folder with a file for each of its environments.

    Monitor counts the steps of what it wraps. `make_atari_env` puts it inside the Atari wrapper, so its steps are not
    agent steps there; the frames are known.
    """
    files = sorted(path.glob("*monitor.csv")) if path.is_dir() else [path]
    if not files:
        raise ConfigError(f"{path}: no file in it ends in monitor.csv; name the folder of one run")
    ids = {file: _header(file)[1] for file in files}
    if len(set(ids.values())) > 1:
        raise ConfigError(f"{path}: its files are of several environments: {', '.join(sorted(set(ids.values())))}")
    env_id = ids[files[0]]
    game, agent, run = given.one_game(path, env_id), given.one_agent(path), given.run or _name(path)
    unit, skip, notes = _unit(env_id or game, given)
    table, counted = Table(notes=notes), 0
    for _, length, score in heapq.merge(*map(_games, files), key=lambda ended: ended[0]):
        counted += length
        steps, frames = counted if unit == 0 else None, counted * unit if unit else None
        table.points.append(Point(agent, game, run, score, TRAINING, steps, frames, skip, games=1))
    return table


def _games(file: Path) -> list[tuple[float, int, float]]:
    """When each game of a file ended, its steps and its return, in the file's order: a resumed file's times restart."""
    start, _ = _header(file)
    rows = [(f"{file} line {line}", row) for line, row in enumerate(read_columns(file, ("r", "l", "t"), skip=1), 3)]
    return [(start + number(row["t"], at), whole(row["l"], at), number(row["r"], at)) for at, row in rows]


def _header(file: Path) -> tuple[float, str]:
    """When Monitor started, and the id of its environment: empty if it has none."""
    first = read_text(file).partition("\n")[0]
    try:
        header = json.loads(first.removeprefix("#"))
        return number(header["t_start"], str(file)), "" if header["env_id"] == "None" else str(header["env_id"])
    except (ValueError, TypeError, KeyError):
        raise ConfigError(f"{file}: its first line is not Monitor's: # and JSON with t_start and env_id") from None


def _unit(name: str, given: Given) -> tuple[int | None, int | None, list[str]]:
    """Frames of one of Monitor's steps, 0 where it is an agent step; frames of an agent step; and notes.

    None where a number is not known.
    """
    if given.monitor_frames is not None or not (game := known_game(name)) or usual_skip(game) == 1:
        return given.monitor_frames or 0, None, []
    if re.search(r"NoFrameskip-v\d+$", name):
        return 1, REPEAT, []
    if name.startswith("ALE/") and name.endswith("-v5"):
        note = f"{name}: {V5} frames for each step that Monitor counted, and {V5 * REPEAT} for each of AtariWrapper's"
        return V5, V5 * REPEAT, [f"{note} (--monitor-frames and --frame-skip if yours are others)"]
    return None, None, [f"{name}: the frames of a step that Monitor counted are not known; give --monitor-frames"]


def _name(path: Path) -> str:
    """A run's name; the folder's name if the file has the same name in every run."""
    generic = path.name in ("monitor.csv", "evaluations.npz") or re.fullmatch(r"\d+\.monitor\.csv", path.name)
    return path.resolve().parent.name if generic else path.name.removesuffix(".monitor.csv").removesuffix(".npz")


def read_evaluations(path: Path, given: Given) -> Table:
    """The evaluations of one run: the mean return of each, and the agent steps at which it was made."""
    arrays = read_arrays(path)
    for name in ("timesteps", "results"):
        if name not in arrays:
            raise ConfigError(f"{path}: it has no array {name!r}; EvalCallback writes timesteps, results, ep_lengths")
    steps, results = arrays["timesteps"], arrays["results"]
    if steps.ndim != 1 or results.ndim != 2 or len(steps) != len(results) or not results.size:
        raise ConfigError(f"{path}: timesteps {steps.shape} and results {results.shape} are not evaluations x games")
    game, agent, run = given.one_game(path), given.one_agent(path), given.run or _name(path)
    points = []
    for number_of, (step, returns) in enumerate(zip(steps.tolist(), results, strict=True), 1):
        where = f"{path} evaluation {number_of}"
        score = number(returns.mean(), where)
        points.append(Point(agent, game, run, score, EVALUATION, whole(step, where), games=len(returns)))
    return Table(points)
