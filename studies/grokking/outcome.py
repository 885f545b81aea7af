"""The outcome of a run from its metrics: when it memorised, when it generalised, and whether that lasted."""

from __future__ import annotations

from collections.abc import Sequence

from experiment.results import Row
from experiment.values import counted
from studies.grokking.config import GrokkingConfig

MILESTONES = (("train", 0.99), ("test", 0.95), ("test", 0.99))
STEADY = 0.1
"""The last share of the budget over which the lowest test accuracy is reported as steady."""


def outcome(rows: Sequence[Row], config: GrokkingConfig) -> Row:
    """The outcome of a run; None for a level that was not reached.

    Updates and seconds are those of the first row at or above the level; seconds are of training alone. `plateau` is
    the range of the test accuracy between memorising (train 0.99) and the re-warm, `steady` the lowest test accuracy in
    the last tenth after the re-warm. A level reached before the re-warm has no number of updates after it.
    """
    found: Row = {}
    for part, level in MILESTONES:
        row = first_at(rows, f"{part}_accuracy", level)
        name = f"{part}_{100 * level:.0f}"
        found[f"updates_to_{name}"] = row and row["update"]
        found[f"seconds_to_{name}"] = row and row["seconds"]
        if part == "test":
            late = row is not None and row["update"] >= config.rewarm_at
            found[f"updates_from_rewarm_to_{name}"] = row["update"] - config.rewarm_at if row and late else None
    before = [row for row in rows if row["update"] <= config.rewarm_at]
    flat = [row["test_accuracy"] for row in before if row["train_accuracy"] >= 0.99]
    end = config.budget - STEADY * max(config.budget - config.rewarm_at, 0)
    last = [row["test_accuracy"] for row in rows if row["update"] >= end]
    return found | {
        "before_rewarm": before[-1]["test_accuracy"] if before else None,
        "plateau": [min(flat), max(flat)] if flat else None,
        "final_train_accuracy": rows[-1]["train_accuracy"],
        "final_test_accuracy": rows[-1]["test_accuracy"],
        "best_test_accuracy": max(row["test_accuracy"] for row in rows),
        "steady": min(last) if last else None,
    }


def first_at(rows: Sequence[Row], metric: str, level: float) -> Row | None:
    """The first row whose metric is at or above a level."""
    return next((row for row in rows if row[metric] is not None and row[metric] >= level), None)


def sentence(found: Row, config: GrokkingConfig) -> str:
    """The outcome in one line."""
    before = found["before_rewarm"] if config.rewarm_at else None  # None too for a fork that begins after it
    before = "" if before is None else f" {before:.3f} before the re-warm"
    parts = [f"test accuracy{before}"]
    after = " of it" if config.rewarm_at else ""
    for level in (95, 99):
        updates = found[f"updates_from_rewarm_to_test_{level}"]
        early = "never" if found[f"updates_to_test_{level}"] is None else "before it"
        parts.append(f"0.{level} " + (early if updates is None else f"within {counted(updates, 'update')}{after}"))
    parts.append(f"{found['final_test_accuracy']:.3f} at the end, no less than {found['steady']:.3f} in the last tenth")
    return ", ".join(parts)
