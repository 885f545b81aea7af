"""openrlbenchmark's table of mean ± deviation (0.2.1a4, `static/*.csv` and `*.md`)."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.formats.files import number, read_rows, read_text
from benchmarks.formats.point import TRAINING, Given, Point, Table
from experiment.config import ConfigError
from experiment.values import counted

RUN = "mean"


def read_openrlbenchmark(path: Path, given: Given) -> Table:
    """A line for each game and a column for each agent. A cell is the mean over all runs.

    Cells of `nan ± nan`, where openrlbenchmark found no runs, are left out.
    """
    if path.stem.endswith("_hns"):
        raise ConfigError(f"{path}: these are human-normalised scores; the same table without _hns has the raw ones")
    header, *rows = _markdown(path) if path.suffix == ".md" else read_rows(path)
    table, empty = Table(), 0
    for line, row in enumerate(rows, 2):
        for name, cell in zip(header[1:], row[1:], strict=True):
            where = f"{path} line {line}"
            mean, sign, deviation = (part.strip() for part in cell.partition("±"))
            if not sign:
                raise ConfigError(f"{where}: {cell[:40]!r} is not mean ± deviation")
            if mean == "nan":
                empty += 1
                continue
            agent = name.removesuffix(" ({})")
            score, spread = number(mean, where), number(deviation, where)
            table.points.append(Point(agent, row[0], given.run or RUN, score, TRAINING, deviation=spread))
    if empty:
        table.notes.append(f"{path}: left out since they have no runs (nan): {counted(empty, 'cell')}")
    return table


def _markdown(path: Path) -> list[list[str]]:
    """The cells of a table in Markdown."""
    lines = [line.strip() for line in read_text(path).splitlines() if line.strip().startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rows = [row for row in rows if not all(re.fullmatch(":?-+:?", cell) for cell in row)]
    if len(rows) < 2 or any(len(row) != len(rows[0]) for row in rows):
        raise ConfigError(f"{path}: it is no table in Markdown with as many cells in each line")
    return rows
