"""The outcome of a run from its metrics: the test accuracy at the end of each phase."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiment.results import Row


def outcome(rows: Sequence[Row]) -> Row:
    """The outcome of a run.

    `phase_accuracy` is the test accuracy at the end of each phase, None for those that ended before a fork began;
    `switches` the update at which each but the last ended, `final_test_accuracy` that of the last row.
    """
    last = {row["phase"]: row for row in rows}
    ends = [last.get(phase, {}) for phase in range(rows[-1]["phase"] + 1)]
    return {
        "final_test_accuracy": rows[-1]["test_accuracy"],
        "best_test_accuracy": max(row["test_accuracy"] for row in rows),
        "final_train_accuracy": rows[-1]["train_accuracy"],
        "phase_accuracy": [row.get("test_accuracy") for row in ends],
        "phase_train_accuracy": [row.get("train_accuracy") for row in ends],
        "switches": [row["update"] for row in ends[:-1] if row],
    }


def sentence(found: Row, first_share: float) -> str:
    """The outcome in one line."""
    ends: list[Any] = found["phase_accuracy"]
    started = "" if ends[0] is None else f" {ends[0]:.3f} after the first phase with {first_share:.0%} of the images,"
    return f"test accuracy{started} {found['final_test_accuracy']:.3f} at the end with all of them"
