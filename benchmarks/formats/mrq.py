"""MR.Q's results text (facebookresearch/MRQ, `results/*_results.txt`)."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.formats.files import number, read_text, whole
from benchmarks.formats.point import EVALUATION, Given, Point, Table
from experiment.config import ConfigError

ATARI = "Atari-"
SKIP = 4
EPISODES = 10


def read_mrq(path: Path, given: Given) -> Table:
    """The evaluations of every environment and seed: blocks of `Env:`, a header of seeds, and a line for each time."""
    agent = given.one_agent(path, "MR.Q")
    game, table = "", Table()
    runs: list[str] = []
    for line, text in enumerate(read_text(path).splitlines(), 1):
        where = f"{path} line {line}"
        cells = re.split(r"\t+", text.strip())
        if text.startswith("Env:"):
            game, runs = text.removeprefix("Env:").strip(), []
        elif cells[0] == "Timestep":
            runs = [cell.removeprefix("Seed").strip() for cell in cells[1:]]
        elif text.strip("- "):
            if not game or len(cells) != len(runs) + 1:
                raise ConfigError(f"{where}: expected 'Env:', 'Timestep' and seeds, or a time and a value a seed")
            steps = whole(cells[0], where)
            frames, skip, rules = (steps * SKIP, SKIP, "mrq") if game.startswith(ATARI) else (None, None, None)
            name = game.removeprefix(ATARI)
            for run, cell in zip(runs, cells[1:], strict=True):
                score = number(cell, where)
                table.points.append(Point(agent, name, run, score, EVALUATION, steps, frames, skip, rules, EPISODES))
    return table
