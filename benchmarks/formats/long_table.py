"""The long table that `benchmarks.convert --curves` writes: a line for each measurement of each run."""

from __future__ import annotations

from pathlib import Path

from benchmarks.formats.files import number, read_columns, whole
from benchmarks.formats.point import EVALUATION, TRAINING, Given, Point, Table
from experiment.config import ConfigError

NEEDED = ("agent", "game", "run", "score")
WHOLE = ("steps", "frames", "frame_skip", "games")


def read_curves(path: Path, given: Given) -> Table:
    """Every line of a long table with agent, game, run, score, and steps or frames; other columns are passed over."""
    table = Table()
    rows = read_columns(path, NEEDED)
    if not {"steps", "frames"} & rows[0].keys():
        raise ConfigError(f"{path}: it has neither column steps nor frames; its columns are {', '.join(rows[0])}")
    for line, row in enumerate(rows, 2):
        where = f"{path} line {line}"
        for name in NEEDED:
            if not row[name]:
                raise ConfigError(f"{where}: it has no {name}")
        kind = row.get("kind") or EVALUATION
        if kind not in (TRAINING, EVALUATION):
            raise ConfigError(f"{where}: kind {kind!r} is neither {TRAINING} nor {EVALUATION}")
        steps, frames, skip, games = (whole(row[name], where) if row.get(name) else None for name in WHOLE)
        spread = number(row["deviation"], where) if row.get("deviation") else None
        agent, game, run, score = (row[name] for name in NEEDED)
        value, rules = number(score, where), row.get("protocol") or None
        table.points.append(Point(agent, game, run, value, kind, steps, frames, skip, rules, games, spread))
    return table
