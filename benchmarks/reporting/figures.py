"""The figures of a report."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from benchmarks.curves import WINDOW
from benchmarks.reporting.curves import Curve, Curves, resamples
from benchmarks.reporting.measures import MEASURES
from benchmarks.reporting.summary import AGGREGATES, Aggregate, Improvement, Summary
from envs.games import reference_scores
from studies.drawing import COLORS, plotting, thousands

INK = "#1a202d"
"""Text and axes: the page replaces it by its own colour."""
FEW = 5
"""Runs of a game that are drawn one by one instead of as an interval."""
MANY = 12
"""Panels above which a figure has no PNG."""
OF_SCORES = ("aggregates", "profiles", "improvement")
"""Figures of all arms that have scores; the others are of arms that have curves."""
LINES = ("-", "--", ":", "-.")
AXES = {"steps": "agent steps", "hours": "hours of training"}


@dataclass(frozen=True)
class Figure:
    """A drawn figure: its file's name, what it shows, and its least width on a page in pixels.

    vector: it has no PNG, which of dozens of panels takes long to draw.
    """

    name: str
    title: str
    note: str
    figure: Any
    width: int
    vector: bool = False

    def png(self) -> bytes:
        file = io.BytesIO()
        self.figure.savefig(file, metadata={"Software": None})
        return file.getvalue()

    @cached_property
    def svg(self) -> str:
        """On no ground; equal figures give equal text."""
        file = io.StringIO()
        self.figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
        return file.getvalue()


Look = Callable[[str], dict[str, Any]]


def draw_figures(summary: Summary, curves: Curves) -> list[Figure]:
    """Every figure that there are numbers for. Raises ConfigError if matplotlib is not installed."""
    pyplot = plotting()
    ink = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    pyplot.rcParams |= dict.fromkeys(ink, INK)
    pyplot.rcParams |= {"svg.hashsalt": "rewarm", "svg.fonttype": "none", "text.parse_math": False}
    pyplot.rcParams["axes.titley"] = 1.0  # where it is anyhow: else it is looked for at every drawing
    styles = _styles(summary.arms)

    def look(arm: str) -> dict[str, Any]:
        color, line = styles[arm]
        return {"color": COLORS[color], "linestyle": LINES[line], "label": _label(arm)}

    found = []
    if summary.aggregates:
        found += [aggregates(pyplot, summary, look), profiles(pyplot, summary, look)]
    if summary.improvements:
        found.append(improvements(pyplot, summary.improvements))
    if any(curves.aggregates.values()):
        found.append(aggregate_curves(pyplot, curves, look))
    found += [game_curves(pyplot, axis, games, look) for axis, games in curves.games.items() if games]
    if any(curves.measures.values()):
        found.append(measures(pyplot, curves, look))
    for each in found:
        _fix(each.figure)
        pyplot.close(each.figure)  # so that nothing else keeps it
    drawn = list(dict.fromkeys(arm for axis in curves.games.values() for arms in axis.values() for arm in arms))
    cautions = {True: summary.caution(summary.arms), False: summary.caution(drawn)}
    return [replace(each, note=f"{each.note} {cautions[each.name in OF_SCORES]}".rstrip()) for each in found]


def _fix(figure: Any) -> None:
    """Lays a figure out once instead of twice for each of its files."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.set_layout_engine(None)


def _label(arm: str) -> str:
    """A legend leaves out what begins with an underscore."""
    return f" {arm}" if arm.startswith("_") else arm


def aggregates(pyplot: Any, summary: Summary, look: Look) -> Figure:
    """A panel an aggregate: every arm's value and interval."""
    found = summary.aggregates
    figure, axes = pyplot.subplots(
        1, len(AGGREGATES), figsize=(10, 0.9 + 0.34 * len(found)), sharey=True, layout="constrained"
    )
    for axis, key in zip(axes, AGGREGATES, strict=True):
        for place, each in enumerate(found):
            _interval(axis, place, each, key, look(each.arm)["color"])
        axis.set_title(f"{key[:1].upper()}{key[1:]}")
        axis.set_yticks(range(len(found)), [each.arm for each in found])
        axis.set_ylim(len(found) - 0.5, -0.5)
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="x", alpha=0.25)
    figure.supxlabel("human-normalised score", fontsize=9)
    note = "Dot: the value; bar: its 95% stratified bootstrap interval. For the optimality gap less is better."
    return Figure("aggregates", "Aggregates", note, figure, 760)


def _interval(axis: Any, place: int, each: Aggregate, key: str, color: str) -> None:
    value, low, high = each.values[key]
    axis.plot([low, high], [place, place], color=color, linewidth=6, alpha=0.35, solid_capstyle="butt")
    axis.plot([value], [place], "o", color=color, markersize=5)


def profiles(pyplot: Any, summary: Summary, look: Look) -> Figure:
    """The share of runs above each score."""
    figure, axis = pyplot.subplots(figsize=(7, 3.6), layout="constrained")
    for arm, (value, low, high) in summary.profiles.items():
        axis.plot(summary.thresholds, value, **look(arm))
        _band(axis, summary.thresholds, low, high, look(arm)["color"])
    axis.set(xlabel="human-normalised score τ", ylabel="share of runs above τ", ylim=(-0.02, 1.02))
    axis.axhline(0.5, color=INK, alpha=0.3, linewidth=0.7, linestyle=":")
    _legend(figure, [axis])
    note = "The mean over games of each game's share of runs above τ; bands: pointwise 95% bootstrap intervals."
    return Figure("profiles", "Performance profiles", note, figure, 520)


def _band(axis: Any, x: np.ndarray, low: np.ndarray, high: np.ndarray, color: str) -> None:
    if np.isfinite(low).any():
        axis.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)


def improvements(pyplot: Any, found: Sequence[Improvement]) -> Figure:
    """How likely one arm beats another."""
    figure, axis = pyplot.subplots(figsize=(7, 0.9 + 0.3 * len(found)), layout="constrained")
    for place, each in enumerate(found):
        value, low, high = each.interval
        axis.plot([low, high], [place, place], color=COLORS[0], linewidth=6, alpha=0.35, solid_capstyle="butt")
        axis.plot([value], [place], "o", color=COLORS[0], markersize=5)
    axis.axvline(0.5, color=INK, alpha=0.5, linewidth=0.8, linestyle=":")
    axis.set_yticks(range(len(found)), [f"{each.arm} > {each.other}" for each in found])
    axis.set(xlim=(-0.02, 1.02), ylim=(len(found) - 0.5, -0.5), xlabel="probability that the first scores higher")
    note = "Dot: the probability of improvement; bar: its 95% stratified bootstrap interval."
    return Figure("improvement", "Probability of improvement", note, figure, 520)


def aggregate_curves(pyplot: Any, curves: Curves, look: Look) -> Figure:
    """The IQM of all runs over agent steps and over wall time."""
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 3.4), sharey=True, layout="constrained")
    for axis, (name, arms) in zip(axes, curves.aggregates.items(), strict=True):
        _curves(axis, arms, look)
        axis.set_xlabel(AXES[name])
    axes[0].set_ylabel("IQM of human-normalised return")
    _legend(figure, axes)
    note = (
        f"Over {_games(curves.common)} with curves in every arm; the running mean return of {WINDOW} games; "
        f"bands: 95% stratified bootstrap intervals of {_resamples(curves)} resamples. A run that has ended keeps its "
        "last value."
    )
    return Figure("curves", "Learning, all games", note, figure, 760)


def _resamples(curves: Curves) -> str:
    counts = [resamples(curve.runs) for arms in curves.aggregates.values() for curve in arms.values()]
    return f"{min(counts):,}" + (f" to {max(counts):,}" if min(counts) < max(counts) else "")


def _games(names: Sequence[str]) -> str:
    return f"{len(names)} games" if len(names) != 1 else names[0]


def _curves(axis: Any, arms: Mapping[str, Curve], look: Look) -> None:
    for arm, curve in arms.items():
        style = look(arm)
        axis.plot(curve.x, curve.middle, **style)
        if 1 < len(curve.lines) <= FEW:
            axis.plot(curve.x, curve.lines.T, color=style["color"], linewidth=0.5, alpha=0.45)
        elif len(curve.lines) != 1:
            _band(axis, curve.x, curve.low, curve.high, style["color"])
    axis.xaxis.set_major_formatter(thousands)
    axis.locator_params(nbins=5)
    axis.set_xlim(left=0)


def game_curves(pyplot: Any, kind: str, games: Mapping[str, Mapping[str, Curve]], look: Look) -> Figure:
    """A panel a game."""
    figure, axes = _panels(pyplot, len(games), list(dict.fromkeys(arm for arms in games.values() for arm in arms)))
    for axis, (game, arms) in zip(axes, games.items(), strict=False):
        _curves(axis, arms, look)
        axis.set_title(game)
        if game in reference_scores():
            axis.axhline(reference_scores()[game][0], color=INK, alpha=0.5, linewidth=0.8, linestyle=":")
    _legend(figure, axes)
    figure.supxlabel(AXES[kind], fontsize=9)
    note = (
        f"The running mean return of {WINDOW} games, mean over runs; thin lines: single runs, where they are at most "
        f"{FEW}, or else a band: the 95% Student-t interval. Dotted: random play. A run that has ended keeps its last "
        "value."
    )
    title = "Learning, game by game, over " + ("agent steps" if kind == "steps" else "wall time")
    return Figure(f"games_{kind}", title, note, figure, 200 * min(len(games), 4) + 40, len(games) > MANY)


def measures(pyplot: Any, curves: Curves, look: Look) -> Figure:
    """A panel a measure of plasticity."""
    known = [measure for measure in MEASURES if curves.measures[measure.name]]
    counts: dict[str, list[int]] = {}
    for measure in known:
        for arm, curve in curves.measures[measure.name].items():
            counts.setdefault(arm, []).append(curve.runs)
    runs = ", ".join(f"{arm} {min(n):,}" + f" to {max(n):,}" * (min(n) < max(n)) for arm, n in counts.items())
    figure, axes = _panels(pyplot, len(known), list(curves.measures[known[0].name]), columns=3)
    for axis, measure in zip(axes, known, strict=False):
        _curves(axis, curves.measures[measure.name], look)
        axis.set_title(measure.title, fontsize=9)
        if measure.log:
            _log_axis(axis)
    _legend(figure, axes)
    figure.supxlabel(AXES["steps"], fontsize=9)
    note = (
        "The median run of all games that an arm has; bands: the middle half of the runs. Dormant units, ranks and "
        f"churn are of 256 fixed states. Runs: {runs}."
    )
    return Figure("plasticity", "Plasticity", note, figure, 240 * min(len(known), 3) + 40)


def _styles(arms: Sequence[str]) -> dict[str, tuple[int, int]]:
    """The colour and line of each arm, as places in COLORS and LINES: an arm and its nap- partner share a colour."""
    used = [0] * len(COLORS)
    found = {}
    for place, family in enumerate(dict.fromkeys(arm.removeprefix("nap-") for arm in arms)):
        color = place % len(COLORS)
        for arm in sorted((arm for arm in arms if arm.removeprefix("nap-") == family), key=len, reverse=True):
            found[arm] = color, used[color] % len(LINES)
            used[color] += 1
    return found


def _log_axis(axis: Any) -> None:
    """A logarithmic axis with few ticks, in plain figures: formulas are not parsed, so that names may hold dollars."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_yscale("log")
    low, high = axis.get_ylim()
    narrow = high < 100 * low
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,), numticks=20 if narrow else 6))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def _panels(pyplot: Any, count: int, arms: Sequence[str], columns: int = 4) -> tuple[Any, list[Any]]:
    """A grid of panels with room for a legend above; placed by hand, since a constrained layout of 26 takes seconds."""
    across = min(count, columns)
    down = math.ceil(count / across)
    width = max(2.9 * across + 0.5, 5)
    top = 0.45 + 0.17 * math.ceil(len(arms) / _legend_columns(arms, width))
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


def _legend_columns(arms: Sequence[str], width: float) -> int:
    """As many as surely fit: a letter takes about 0.075 inches, the line beside it half an inch."""
    return max(int(width / (0.6 + 0.075 * max(map(len, arms)))), 1)


def _legend(figure: Any, axes: Sequence[Any]) -> None:
    """One legend above all panels; a constrained layout makes room for it."""
    handles = {label: line for axis in axes for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    place = "outside upper left" if figure.get_layout_engine() else "upper left"
    columns = _legend_columns(list(handles), figure.get_figwidth())
    figure.legend(list(handles.values()), list(handles), loc=place, ncols=columns)
