"""The figures of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from benchmarks.report.learning_curves import Curve, Curves, resamples
from benchmarks.report.metric_series import MEASURES, WINDOW
from benchmarks.report.panels import FEW, Look, draw_curves, label, looks, make_panels, rows_height
from benchmarks.report.summary import AGGREGATES, Improvement, Summary
from envs.games import reference_scores
from experiment.plot import BLUE, INK, draw_band, draw_intervals, legend, legend_height, log_axis, plotting, render

MANY = 12
"""Panels above which a figure has no PNG."""
AXES = {"steps": "agent steps", "hours": "hours of training"}


@dataclass(frozen=True)
class Figure:
    """A drawn figure: its file's name, what it shows, and its least width on a page in pixels.

    vector: SVG only, since a PNG of dozens of panels takes long to draw.
    """

    name: str
    title: str
    note: str
    figure: Any
    width: int
    vector: bool = False

    def png(self) -> bytes:
        return render(self.figure, "png")

    @cached_property
    def svg(self) -> str:
        """The SVG on a transparent background; equal figures give equal text."""
        return render(self.figure, "svg", transparent=True).decode()


def draw_figures(summary: Summary, curves: Curves) -> list[Figure]:
    """Every figure whose numbers exist. Raises ConfigError if matplotlib is not installed."""
    pyplot, look = plotting(), looks(summary.arms)
    found = []
    if summary.aggregates:
        found += [aggregates(pyplot, summary, look), profiles(pyplot, summary, look)]
    if summary.improvements:
        found.append(improvements(pyplot, summary.improvements, look))
    if any(curves.aggregates.values()):
        found.append(aggregate_curves(pyplot, curves, look))
    found += [game_curves(pyplot, axis, games, look) for axis, games in curves.games.items() if games]
    if any(curves.measures.values()):
        found.append(measures(pyplot, curves, look))
    for each in found:
        each.figure.draw_without_rendering()
        each.figure.set_layout_engine(None)  # laid out once instead of twice for each of its files
        pyplot.close(each.figure)  # so that nothing else keeps it
    drawn = list(dict.fromkeys(arm for axis in curves.games.values() for arms in axis.values() for arm in arms))
    compared = {"aggregates": list(summary.profiles), "profiles": list(summary.profiles), "improvement": summary.paired}
    cautions = [summary.caution(compared.get(each.name, drawn)) for each in found]
    return [replace(each, note=f"{each.note} {more}".rstrip()) for each, more in zip(found, cautions, strict=True)]


def aggregates(pyplot: Any, summary: Summary, look: Look) -> Figure:
    """A panel an aggregate: every arm's value and interval."""
    found = summary.aggregates
    labels = [look(each.arm)["label"] for each in found]
    figure, axes = pyplot.subplots(
        1, len(AGGREGATES), figsize=(10, 0.9 + rows_height(labels, 0.34)), sharey=True, layout="constrained"
    )
    for axis, key in zip(axes, AGGREGATES, strict=True):
        draw_intervals(axis, [each.values[key] for each in found], [look(each.arm)["color"] for each in found], labels)
        axis.set_title(f"{key[:1].upper()}{key[1:]}")
    figure.supxlabel("human-normalised score")
    note = "Dot: the value; bar: its 95% stratified bootstrap interval. For the optimality gap lower is better."
    return Figure("aggregates", "Aggregates", note, figure, 760)


def profiles(pyplot: Any, summary: Summary, look: Look) -> Figure:
    """The share of runs above each score."""
    height = 3.4 + legend_height([look(arm)["label"] for arm in summary.profiles], 7)
    figure, axis = pyplot.subplots(figsize=(7, height), layout="constrained")
    for arm, (value, low, high) in summary.profiles.items():
        axis.plot(summary.thresholds, value, **look(arm))
        draw_band(axis, summary.thresholds, low, high, look(arm)["color"])
    axis.set(xlabel="human-normalised score τ", ylabel="share of runs above τ", ylim=(-0.02, 1.02))
    axis.axhline(0.5, color=INK, alpha=0.3, linewidth=0.7, linestyle=":")
    legend(figure, [axis])
    note = "The mean over games of each game's share of runs above τ; bands: pointwise 95% bootstrap intervals."
    return Figure("profiles", "Performance profiles", note, figure, 520)


def improvements(pyplot: Any, found: Sequence[Improvement], look: Look) -> Figure:
    """How likely one arm beats another."""
    pairs = [label(f"{look(each.arm)['label']} > {look(each.other)['label']}") for each in found]
    figure, axis = pyplot.subplots(figsize=(7, 0.9 + rows_height(pairs, 0.3)), layout="constrained")
    draw_intervals(axis, [each.interval for each in found], [BLUE] * len(found), pairs)
    axis.axvline(0.5, color=INK, alpha=0.5, linewidth=0.8, linestyle=":")
    axis.set(xlim=(-0.02, 1.02), xlabel="probability that the first scores higher")
    note = "Dot: the probability of improvement; bar: its 95% stratified bootstrap interval."
    return Figure("improvement", "Probability of improvement", note, figure, 520)


def aggregate_curves(pyplot: Any, curves: Curves, look: Look) -> Figure:
    """The IQM of all runs over agent steps and over wall time."""
    shown = {name: arms for name, arms in curves.aggregates.items() if arms}
    width = 5 * len(shown)
    labels = dict.fromkeys(look(arm)["label"] for arms in shown.values() for arm in arms)
    size = (width, 3.2 + legend_height(list(labels), width))
    figure, axes = pyplot.subplots(1, len(shown), figsize=size, sharey=True, squeeze=False, layout="constrained")
    axes = axes[0]
    for axis, (name, arms) in zip(axes, shown.items(), strict=True):
        draw_curves(axis, arms, look)
        axis.set_xlabel(AXES[name])
    axes[0].set_ylabel("IQM of human-normalised return")
    legend(figure, axes)
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


def game_curves(pyplot: Any, kind: str, games: Mapping[str, Mapping[str, Curve]], look: Look) -> Figure:
    """A panel a game."""
    labels = dict.fromkeys(look(arm)["label"] for arms in games.values() for arm in arms)
    figure, axes = make_panels(pyplot, len(games), list(labels))
    for axis, (game, arms) in zip(axes, games.items(), strict=False):
        draw_curves(axis, arms, look)
        axis.set_title(game)
        if game in reference_scores():
            axis.axhline(reference_scores()[game][0], color=INK, alpha=0.5, linewidth=0.8, linestyle=":")
    legend(figure, axes)
    figure.supxlabel(AXES[kind])
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
    figure, axes = make_panels(pyplot, len(known), [look(arm)["label"] for arm in counts], columns=3)
    for axis, measure in zip(axes, known, strict=False):
        draw_curves(axis, curves.measures[measure.name], look)
        axis.set_title(measure.title)
        if measure.log:
            log_axis(axis)
    legend(figure, axes)
    figure.supxlabel(AXES["steps"])
    note = (
        "The median run of all games that an arm has; bands: the middle half of the runs. Dormant units, ranks and "
        f"churn are of 256 fixed states. Runs: {runs}."
    )
    return Figure("plasticity", "Plasticity", note, figure, 240 * min(len(known), 3) + 40)
