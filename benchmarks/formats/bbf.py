"""BBF's CSV of scores (google-research, `bigger_better_faster/scores/*.csv`)."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.formats.files import number, read_columns
from benchmarks.formats.point import EVALUATION, Given, Point, Table

GAMES = 100
SKIP = 4


def read_bbf(path: Path, given: Given) -> Table:
    """The final score of each seed. A seed has one game, so the runs of two games share no seeds.

    The file has the agent's name, which also states sticky actions and a budget other than 100k.
    """
    agent = given.one_agent(path, path.stem)
    budget = re.search(r"_(\d+)(k|M)$", path.stem)
    steps = int(budget[1]) * {"k": 10**3, "M": 10**6}[budget[2]] if budget else 100_000
    protocol = "atari100k" + ("+sticky" if "sticky" in path.stem else "")
    table = Table()
    for line, row in enumerate(read_columns(path, ("seed", "game", "GameScoreAverage")), 2):
        score = number(row["GameScoreAverage"], f"{path} line {line}")
        table.points.append(
            Point(agent, row["game"], row["seed"], score, EVALUATION, steps, steps * SKIP, SKIP, protocol, GAMES)
        )
    return table
