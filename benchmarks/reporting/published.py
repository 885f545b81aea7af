"""Published scores on Atari 100k: the mean of each game, for the report.

DER and SPR: means of the 100 runs a game that Agarwal et al. 2021 released (arXiv 2108.13264). SR-SPR (D'Oro et al.
2023) and BBF (Schwarzer et al. 2023): Table 6 of Alonso et al. 2024 (arXiv 2405.12399), whose UpNDown of SR-SPR is as
printed there. 100,000 agent steps, no sticky actions, 100 games after training.
"""

import csv
from functools import cache
from pathlib import Path

STEPS = 100_000
PROTOCOL = "atari100k"
NAMES = ("DER", "SPR", "SR-SPR", "BBF")


@cache
def published_scores() -> dict[str, dict[str, float]]:
    """The mean raw score of each method in each of the 26 games."""
    with Path(__file__).with_name("published_scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: {row["game"]: float(row[name]) for row in rows} for name in NAMES}
