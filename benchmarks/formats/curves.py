"""The long table that `benchmarks.convert --curves` writes: a line for each measurement of each run."""

from __future__ import annotations

from dataclasses import replace
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
        counts = {name: whole(row[name], where) for name in WHOLE if row.get(name)}
        spread = number(row["deviation"], where) if row.get("deviation") else None
        point = Point(row["agent"], row["game"], row["run"], number(row["score"], where), kind, deviation=spread)
        table.points.append(replace(point, protocol=row.get("protocol") or None, **counts))
    return table
