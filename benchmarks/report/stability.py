"""Tables of the high-UTD study: where learning is unstable, and where cycling stopped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.report.learning_curves import Trace
from benchmarks.report.metric_series import WINDOW
from benchmarks.report.table import Cells, Table, table_of_means

if TYPE_CHECKING:
    from benchmarks.report.recorded import Recorded


def stability_tables(runs: Sequence[Recorded], arms: Sequence[str]) -> list[Table]:
    """The largest falls of return and rises of TD error, and where schedules stopped cycling; no empty table."""

    def cells(values: Iterable[float | None]) -> Cells:
        found: Cells = {}
        for run, value in zip(runs, values, strict=True):
            if value is not None:
                found.setdefault((run.score.game, run.score.arm), []).append(value)
        return found

    found = [
        table_of_means("stability", "Largest fall of the return", FALL, cells(run.fall for run in runs), arms),
        table_of_means("td-rise", "Largest rise of the TD error", RISE, cells(run.rise for run in runs), arms),
        table_of_means(
            "stops", "Agent step at which cycling stopped", STOP, cells(run.trace.stopped for run in runs), arms
        ),
    ]
    return [table for table in found if table.rows]


FALL = (
    f"How far the running mean return of {WINDOW} games fell at most within a tenth of the budget, in raw score: mean "
    f"over runs of at least {WINDOW} games, 95% Student-t interval, number of runs (n)."
)
RISE = (
    "How many times larger the TD error of the minibatches, a mean over the updates between rows of metrics, became at "
    "most in the second half of the budget: mean over runs, 95% Student-t interval, number of runs (n). Rows whose TD "
    "error is 0 or not finite are left out, and so are runs that ended as failed."
)
STOP = "Mean over runs, 95% Student-t interval, number of runs (n); a run that never stopped counts with its end."


def largest_fall(trace: Trace, steps: float) -> float | None:
    """The most that the running mean return lost between two games that ended at most `steps` agent steps apart.

    Means of fewer games than the window are left out: they are the noisiest. None if there are no others.
    """
    ended, returns = trace.ended[WINDOW - 1 :], trace.returns[WINDOW - 1 :]
    first = np.searchsorted(ended, ended - steps)
    falls = (returns[low : end + 1].max() - returns[end] for end, low in enumerate(first))
    return max(map(float, falls), default=None)


def largest_rise(trace: Trace) -> float | None:
    """The largest ratio of a TD error to an earlier one, both in the second half of the run; None if there are none."""
    steps, errors = trace.measures["td"]
    late = errors[(steps >= trace.length(wall=False) / 2) & (errors > 0)]
    return float((late / np.minimum.accumulate(late)).max()) if late.size else None
