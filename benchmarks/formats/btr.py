"""BTR's CSV of evaluations (VIPTankz/BeyondTheRainbowICML, `results.csv`)."""

from __future__ import annotations

from pathlib import Path

from benchmarks.formats.files import number, read_rows
from benchmarks.formats.point import EVALUATION, Given, Point, Table

EVERY = 250_000
SKIP = 4
GAMES = 100


def read_btr(path: Path, given: Given) -> Table:
    """A column for each game and a line for each million frames. The file names no seeds: it is one run."""
    agent, run, table = given.one_agent(path, "BTR"), given.run or "1", Table()
    header, *rows = read_rows(path)
    for count, row in enumerate(rows, 1):
        steps = count * EVERY
        for game, cell in zip(header, row, strict=True):
            score = number(cell, f"{path} line {count + 1}")
            table.points.append(Point(agent, game, run, score, EVALUATION, steps, steps * SKIP, SKIP, "btr", GAMES))
    return table
