"""The one style of all figures: colours, lines with bands, intervals, axes, legends, files. Imports matplotlib late."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiment.statistics import Interval
from experiment.storage.files import write_atomic
from experiment.values import ConfigError

COLORS = ("#2b6cb0", "#dd6b20", "#2f855a", "#805ad5", "#c53030", "#718096", "#b7791f", "#0987a0", "#97266d")
BLUE, ORANGE, GREEN, PURPLE, RED, GREY = COLORS[:6]
INK = "#1a202d"
"""Text and axes: an HTML page replaces it by its own colour."""
THIN: dict[str, Any] = {"linewidth": 0.6, "alpha": 0.45, "markersize": 2}
"""The line of a single run next to that of its arm."""
STYLE: dict[Any, Any] = {
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titley": 1.0,  # its usual place: without a number matplotlib looks for it at every drawing
    "axes.labelsize": 9,
    "figure.titlesize": 11,
    "figure.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "savefig.dpi": 130,
    "text.parse_math": False,  # names may hold dollars
    "svg.fonttype": "none",
    "svg.hashsalt": "rewarm",  # the same runs give the same file
}
UNDATED: Mapping[str, dict[str, None]] = {
    "svg": {"Date": None},
    "png": {"Software": None},
    "pdf": {"CreationDate": None},
}
"""Metadata to leave out, by format: the same runs give the same file."""


def plotting() -> Any:
    """matplotlib's pyplot in this style, without a display. Raises ConfigError if matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        raise ConfigError("figures need matplotlib, which is not installed: pip install 'rewarm[plot]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcdefaults()
    pyplot.rcParams |= STYLE
    return pyplot


# --- files


def save(figure: Any, out: Path) -> Path:
    """Writes and closes a figure; the file's ending sets the format."""
    from matplotlib import pyplot

    write_atomic(out, render(figure, out.suffix[1:]))
    pyplot.close(figure)
    return out


def render(figure: Any, kind: str, **options: Any) -> bytes:
    """The figure as a file of a format; equal figures give equal bytes."""
    file = io.BytesIO()
    figure.savefig(file, format=kind, metadata=UNDATED.get(kind), **options)
    return _compact(file.getvalue().decode()).encode() if kind == "svg" else file.getvalue()


def _compact(svg: str) -> str:
    """An SVG of half the size: no indents, and each path on one line with its numbers to a tenth of a point."""

    def rounded(path: re.Match[str]) -> str:
        return re.sub(r"(\.\d)\d+", r"\1", re.sub(r" ?\n", "", path[0]))

    return re.sub(r'(?<= d=)"[^"]*"', rounded, re.sub(r"\n +", "\n", svg))


# --- lines, bands, intervals


def draw_line(axis: Any, x: np.ndarray, y: np.ndarray, **style: Any) -> None:
    """A line; a marker if only one point is known, since a line of one point is invisible."""
    single = np.isfinite(y).sum() == 1
    axis.plot(x, y, **{"markersize": 4} | style, marker="o" if single else None, clip_on=not single)


def draw_band(axis: Any, x: np.ndarray, low: np.ndarray, high: np.ndarray, color: str) -> None:
    """The interval of a line; where only one point is known, a bar."""
    known = np.isfinite(low)
    if known.sum() == 1:
        axis.vlines(x[known], low[known], high[known], color=color, alpha=0.35, linewidth=4)
    elif known.any():
        axis.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)


def draw_intervals(
    axis: Any, intervals: Sequence[Interval | None], colors: Sequence[Any], labels: Sequence[str] | None = None
) -> None:
    """One interval a line, from the top down: a dot for the value, a bar from low to high; None leaves a line empty."""
    for place, (each, color) in enumerate(zip(intervals, colors, strict=True)):
        if each is not None:
            bar = {"color": color, "linewidth": 6, "alpha": 0.35, "solid_capstyle": "butt"}
            axis.plot([each.low, each.high], [place, place], **bar)
            axis.plot([each.value], [place], "o", color=color, markersize=5)
    axis.set_yticks(range(len(intervals)), labels)
    axis.set_ylim(len(intervals) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    axis.locator_params(axis="x", nbins=5)
    axis.grid(axis="x", alpha=0.25)


def shades(count: int, few: int = len(COLORS)) -> list[Any]:
    """Colours of so many lines: COLORS if they are few, else shades from first to last, dark enough for text."""
    from matplotlib import colormaps

    if count <= few:
        return list(COLORS[:count])
    bright = [colormaps["turbo"](0.05 + 0.9 * i / max(count - 1, 1)) for i in range(count)]
    return [(0.8 * red, 0.8 * green, 0.8 * blue) for red, green, blue, _ in bright]


# --- axes


def thousands(value: float, _: Any = None) -> str:
    """12000 as 12k."""
    return f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:g}"


def log_axis(axis: Any, side: str = "y") -> None:
    """A logarithmic axis, x or y, with few ticks as plain numbers: matplotlib writes formulas, which are not parsed."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    getattr(axis, f"set_{side}scale")("log")
    low, high = getattr(axis, f"get_{side}lim")()
    narrow = high < 100 * low
    ticks = getattr(axis, f"{side}axis")
    ticks.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,), numticks=20 if narrow else 6))
    ticks.set_major_formatter(FuncFormatter(thousands))
    ticks.set_minor_formatter(NullFormatter())


# --- legends


def legend(figure: Any, axes: Sequence[Any]) -> None:
    """One legend above all panels of a figure with a constrained layout, which makes room for it."""
    handles = {text: line for axis in axes for line, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    columns = _legend_columns(list(handles), figure.get_figwidth())
    figure.legend(list(handles.values()), list(handles), loc="outside upper left", ncols=columns)


def _legend_columns(labels: Sequence[str], width: float) -> int:
    """The number of columns that fit: a letter takes about 0.075 inches, the line next to it half an inch."""
    longest = max(len(line) for text in labels for line in text.splitlines())
    return max(int(width / (0.6 + 0.075 * longest)), 1)


def legend_height(labels: Sequence[str], width: float) -> float:
    """Inches that the legend of a figure of this width takes."""
    lines = math.ceil(len(labels) / _legend_columns(labels, width)) * max(text.count("\n") + 1 for text in labels)
    return 0.17 * lines
