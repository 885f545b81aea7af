"""What the figures of the report share: the look of arms, their curves, and grids of panels."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.report.learning_curves import Curve
from benchmarks.report.names import short_names
from experiment.plot import COLORS, THIN, draw_band, draw_line, legend_height, thousands

FEW = 5
"""Runs of a game that are drawn one by one instead of as an interval."""
LINES = ("-", "--", ":", "-.")
WIDTH = 56
"""Letters in a line of a label."""
PIECE = re.compile(rf"[^-+_,:=]{{1,{WIDTH - 1}}}[-+_,:=]?|[-+_,:=]")
"""What a word that is longer is divided into."""

Look = Callable[[str], dict[str, Any]]


def looks(arms: Sequence[str]) -> Look:
    """The colour, line and label of each arm."""
    styles, labels = arm_styles(arms), dict(zip(arms, map(label, short_names(arms)), strict=True))

    def look(arm: str) -> dict[str, Any]:
        color, line = styles[arm]
        return {"color": COLORS[color], "linestyle": LINES[line], "label": labels[arm]}

    return look


def arm_styles(arms: Sequence[str]) -> dict[str, tuple[int, int]]:
    """The colour and line of each arm, as places in COLORS and LINES: an arm and its nap- partner share a colour."""
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
    lines = [" " if text.startswith("_") else ""]
    for word in text.split():
        pieces = PIECE.findall(word) if len(word) > WIDTH else [word]
        for i, piece in enumerate(pieces):
            gap = " " if lines[-1].strip() and not i else ""
            if lines[-1].strip() and len(lines[-1] + gap + piece) > WIDTH:
                lines.append(piece)
            else:
                lines[-1] += gap + piece
    return "\n".join(lines)


def rows_height(labels: Sequence[str], least: float) -> float:
    """Inches that rows with these labels take, each at least so many."""
    return len(labels) * max(least, 0.16 * max(text.count("\n") + 1 for text in labels))


def draw_curves(axis: Any, arms: Mapping[str, Curve], look: Look) -> None:
    """The curve of each arm, with its single runs if they are few, or else its interval."""
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
    """A grid of panels with room for a legend above; placed by hand, since a constrained layout of 26 takes seconds."""
    across = min(count, columns)
    down = math.ceil(count / across)
    width = max(2.9 * across + 0.5, 5)
    top = 0.45 + legend_height(labels, width)
    height = 2.0 * down + 0.4 + top
    figure, axes = pyplot.subplots(down, across, figsize=(width, height), sharex=True, squeeze=False)
    figure.subplots_adjust(
        left=0.6 / width, right=1 - 0.15 / width, bottom=0.6 / height, top=1 - top / height, wspace=0.32, hspace=0.42
    )
    for axis in axes.flat[count - across : count]:  # the lowest of each column
        axis.tick_params(labelbottom=True)
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    return figure, list(axes.flat)


def make_room(figure: Any) -> None:
    """Moves the panels of `make_panels` apart until the labels of their ticks have room."""
    shown = [axis for axis in figure.axes if axis.get_visible()]
    renderer, width = figure.canvas.get_renderer(), figure.get_figwidth()
    boxes = [(axis.bbox.x0, axis.yaxis.get_tightbbox(renderer)) for axis in shown]
    needed = max((left - box.x0 for left, box in boxes if box is not None), default=0) / figure.dpi + 0.1
    left = max(figure.subplotpars.left * width, needed)
    columns = max(axis.get_subplotspec().colspan.stop for axis in shown)
    gap = max(needed, 0.6)
    panel = (figure.subplotpars.right * width - left - gap * (columns - 1)) / columns
    figure.subplots_adjust(left=left / width, wspace=gap / panel)
