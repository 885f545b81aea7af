"""Published scores on Atari 100k: the mean of each game, for the report.

DER and SPR: means of the 100 runs a game that Agarwal et al. 2021 released (arXiv 2108.13264). SR-SPR (D'Oro et al.
2023) and BBF (Schwarzer et al. 2023): Table 6 of Alonso et al. 2024 (arXiv 2405.12399), whose UpNDown of SR-SPR is as
printed there. 100,000 agent steps, no sticky actions, 100 games after training.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.report.agreement import OF_THE_SETTINGS, kind_of, list_of, steps_of
from envs.protocol import PROTOCOLS

if TYPE_CHECKING:
    from benchmarks.report.scores import Score

STEPS = 100_000
PROTOCOL = "atari100k"
NAMES = ("DER", "SPR", "SR-SPR", "BBF")


@cache
def published_scores() -> dict[str, dict[str, float]]:
    """The mean raw score of each method in each of the 26 games."""
    with Path(__file__).with_name("published_scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: {row["game"]: float(row[name]) for row in rows} for name in NAMES}


def published_label(name: str, arms: Iterable[str]) -> str:
    """The name under which published scores stand among the arms, none of which has it."""
    label = f"{name} (published)"
    while label in arms:
        label += "*"
    return label


def why_not_published(runs: Iterable[Score]) -> str:
    """Why published scores cannot be compared with these runs, one of each arm; empty if they can.

    They can if every arm states the rules and the budget of the published runs. The exploration of an evaluation may
    differ: it belongs to the agent.
    """
    rules = asdict(PROTOCOLS[PROTOCOL])
    unlike: dict[str, list[str]] = {}
    for run in runs:
        stated = run.protocol
        if stated is None:
            unlike.setdefault("protocol not stated", []).append(run.arm)
        elif any(rules.get(key, value) != value for key, value in stated.items() if key not in OF_THE_SETTINGS):
            unlike.setdefault(f"protocol {run.rules}", []).append(run.arm)
        if kind_of(run) == "training":
            unlike.setdefault("scores of games in training", []).append(run.arm)
        if run.steps is None:
            unlike.setdefault("agent steps not stated", []).append(run.arm)
        elif run.steps != STEPS:
            unlike.setdefault(f"{steps_of(run)} agent steps", []).append(run.arm)
    if not unlike:
        return ""
    reasons = "; ".join(f"{what} ({list_of(arms, 4)})" for what, arms in unlike.items())
    return (
        f"Published scores ({', '.join(NAMES)}) are of {STEPS:,} agent steps under the rules of {PROTOCOL}; they are "
        f"left out, since here there are: {reasons}."
    )
