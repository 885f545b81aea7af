"""Dopamine's JSON of released baselines: `baselines/atari/data/GAME.json`, GAME_CNN.json and GAME_Impala.json."""

from __future__ import annotations

from pathlib import Path

from benchmarks.formats.files import number, read_json, whole
from benchmarks.formats.point import TRAINING, Given, Point, Table, known_game
from experiment.config import ConfigError

ITERATION = 250_000
"""Agent steps of an iteration on Atari."""
SKIP = 4


def read_dopamine(path: Path, given: Given) -> Table:
    """The mean training return of each iteration, agent and run; the file has the game's name.

    Runs have no names: the n-th value of an agent and iteration is taken for its n-th run. The file does not say which
    runs end early, so iterations with fewer values are left out.
    """
    stem, _, network = path.stem.partition("_")
    game, suffix = given.one_game(path, stem), f" ({network})" if network else ""
    table = Table()
    for agent, iterations in _values(path).items():
        runs = max(map(len, iterations.values()))
        kept = {iteration: scores for iteration, scores in sorted(iterations.items()) if len(scores) == runs}
        if short := len(iterations) - len(kept):
            at = f"{short} of {len(iterations)} iterations have fewer runs and are left out"
            table.notes.append(f"{path}: {agent}: {at}; the last is {max(kept)}")
        for run in range(runs):
            for iteration, scores in kept.items():
                rules = _rules(iteration) if known_game(game) else ()
                table.points.append(Point(agent + suffix, game, str(run + 1), scores[run], TRAINING, *rules))
    return table


def _rules(iteration: int) -> tuple[int, int, int, str]:
    """Steps, frames, frame skip and protocol at the end of an iteration on Atari."""
    steps = (iteration + 1) * ITERATION
    return steps, steps * SKIP, SKIP, "dopamine"


def _values(path: Path) -> dict[str, dict[int, list[float]]]:
    """The values of each agent and iteration, in the order of the file."""
    records = read_json(path)
    if isinstance(records, dict) and "$schema" in records:
        raise ConfigError(f"{path}: it is a plot; its numbers are in {path.name.replace('.vg.json', '.json')}")
    if not isinstance(records, list) or not records:
        raise ConfigError(f"{path}: it is no list of records with Agent, Iteration and Value")
    values: dict[str, dict[int, list[float]]] = {}
    for count, record in enumerate(records, 1):
        where = f"{path} record {count}"
        if not isinstance(record, dict) or not {"Agent", "Iteration", "Value"} <= record.keys():
            raise ConfigError(f"{where}: it has not Agent, Iteration and Value")
        iterations = values.setdefault(str(record["Agent"]), {})
        iterations.setdefault(whole(record["Iteration"], where), []).append(number(record["Value"], where))
    return values
