"""Shared parts of the report's figures: colours and lines of arms, curves, and grids of panels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from textwrap import fill
from typing import Any

from benchmarks.report.learning_curves import Curve
from benchmarks.report.names import short_names
from experiment.plot import COLORS, THIN, draw_band, draw_line, legend_height, thousands

FEW = 5
"""Runs of a game that are drawn one by one instead of as an interval."""
LINES = ("-", "--", ":", "-.")
WIDTH = 56
"""Letters in a line of a label."""

Look = Callable[[str], dict[str, Any]]


def looks(arms: Sequence[str]) -> Look:
    """The colour, line and label of each arm."""
    styles, labels = arm_styles(arms), dict(zip(arms, map(label, short_names(arms)), strict=True))

    def look(arm: str) -> dict[str, Any]:
        color, line = styles[arm]
        return {"color": COLORS[color], "linestyle": LINES[line], "label": labels[arm]}

    return look


def arm_styles(arms: Sequence[str]) -> dict[str, tuple[int, int]]:
    """The colour and line of each arm, as indices of COLORS and LINES: an arm and its nap- version share a colour."""
    used = [0] * len(COLORS)
    found = {}
    for place, family in enumerate(dict.fromkeys(arm.removeprefix("nap-") for arm in arms)):
        color = place % len(COLORS)
        for arm in sorted((arm for arm in arms if arm.removeprefix("nap-") == family), key=len, reverse=True):
            found[arm] = color, used[color] % len(LINES)
            used[color] += 1
    return found


def label(text: str) -> str:
    """A name in lines of `WIDTH` letters. matplotlib's legends leave out what begins with an underscore."""
    return fill(" " * text.startswith("_") + " ".join(text.split()), WIDTH)


def rows_height(labels: Sequence[str], least: float) -> float:
    """Inches that rows with these labels take, each at least so many."""
    return len(labels) * max(least, 0.16 * max(text.count("\n") + 1 for text in labels))


def draw_curves(axis: Any, arms: Mapping[str, Curve], look: Look) -> None:
    """The curve of each arm, with its single runs if they are few, otherwise with its interval."""
    for arm, curve in arms.items():
        style = look(arm)
        draw_line(axis, curve.x, curve.middle, **style)
        if 1 < len(curve.lines) <= FEW:
            for line in curve.lines:
                draw_line(axis, curve.x, line, color=style["color"], **THIN)
        elif len(curve.lines) != 1:
            draw_band(axis, curve.x, curve.low, curve.high, style["color"])
    axis.xaxis.set_major_formatter(thousands)
    axis.locator_params(nbins=5)
    axis.set_xlim(left=0)


def make_panels(pyplot: Any, count: int, labels: Sequence[str], columns: int = 4) -> tuple[Any, list[Any]]:
    """A grid of panels that is high enough for a legend above."""
    across = min(count, columns)
    down = math.ceil(count / across)
    width = max(2.9 * across + 0.5, 5)
    size = (width, 2.0 * down + 0.5 + legend_height(labels, width))
    figure, axes = pyplot.subplots(down, across, figsize=size, sharex=True, squeeze=False, layout="constrained")
    for axis in axes.flat[count - across : count]:  # the lowest of each column
        axis.tick_params(labelbottom=True)
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    return figure, list(axes.flat)
