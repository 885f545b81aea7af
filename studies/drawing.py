"""What the figures of the studies share: style, colours, axes, seeds with their median."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from statistics import median, median_low
from typing import Any, TypeVar

from experiment.config import ConfigError
from studies.records import FinishedRun

BLUE, ORANGE, GREEN, GREY, RED = "#2b6cb0", "#dd6b20", "#2f855a", "#718096", "#c53030"
COLORS = (BLUE, ORANGE, GREEN, "#805ad5", RED, GREY, "#b7791f", "#0987a0", "#97266d")
STYLE: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "savefig.dpi": 130,
    "svg.fonttype": "none",
    "svg.hashsalt": "rewarm",  # the same runs give the same file
}

Config = TypeVar("Config")


def plotting() -> Any:
    """matplotlib's pyplot, without a display. Raises ConfigError if matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        raise ConfigError("figures need matplotlib, which is not installed: pip install 'rewarm[plot]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcdefaults()
    pyplot.rcParams |= STYLE
    return pyplot


def by_arm(runs: Sequence[FinishedRun[Config]]) -> dict[str, list[FinishedRun[Config]]]:
    """Runs that differ in the seed alone, by what their names have in common."""
    groups: dict[str, list[FinishedRun[Config]]] = {}
    for run in runs:
        groups.setdefault(re.sub(r"-s\d+$", "", run.name), []).append(run)
    return groups


def draw_seeds(
    axis: Any,
    runs: Sequence[FinishedRun[Any]],
    color: str,
    label: str | None,
    *,
    metric: str = "test_accuracy",
    shift: int = 0,
) -> None:
    """A metric over updates, `shift` of them taken off: seeds thin, their median over common updates bold."""
    curves = [dict(zip(run.column("update"), run.column(metric), strict=True)) for run in runs]
    for curve in curves:
        axis.plot([update - shift for update in curve], list(curve.values()), color=color, linewidth=0.6, alpha=0.45)
    common = sorted(set.intersection(*(set(curve) for curve in curves)))
    middle = [median(curve[update] for curve in curves) for update in common]
    axis.plot([update - shift for update in common], middle, color=color, linewidth=1.8, label=label)


def updates_axis(axis: Any, label: str, *, log: bool) -> None:
    """Updates along the axis, from 100 if logarithmic."""
    if log:
        axis.set_xscale("log")
        axis.set_xlim(left=100)
    axis.xaxis.set_major_formatter(thousands)
    axis.set_xlabel(label)


def accuracy_axis(axis: Any, label: str, *, log: bool) -> None:
    """Accuracy over updates."""
    updates_axis(axis, label, log=log)
    axis.set_ylim(-0.02, 1.04)


def thousands(value: float, _: Any = None) -> str:
    """12000 as 12k."""
    return f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:g}"


def median_and_range(values: Sequence[float | None]) -> str:
    """The median, and the lowest and highest of values; None is one that was not reached, and counts as the largest."""
    reached = sorted(value for value in values if value is not None)
    if not reached:
        return "never"
    if len(reached) < len(values):
        middle = median_low([*reached, *[math.inf] * (len(values) - len(reached))])
        return f"{'never' if middle == math.inf else f'{middle:,.0f}'} ({len(reached)} of {len(values)})"
    return f"{median(reached):,.0f}" + (f" ({reached[0]:,.0f}-{reached[-1]:,.0f})" if len(reached) > 1 else "")
