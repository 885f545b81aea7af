"""The figures of a study of games in sequence: returns over the run with its changes, and plasticity by visit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.report.figures import Figure
from benchmarks.report.learning_curves import Curve, mean_curve
from benchmarks.report.panels import looks
from benchmarks.report.visit_runs import Study, short_game
from benchmarks.report.visits import POINTS
from experiment.plot import GREY, INK, draw_band, draw_line, plotting, thousands
from experiment.statistics import Interval

MOST = 4
"""Arms in a panel, next to the two that are in all."""
LEVEL = 8
"""Visits up to which the names of games are level."""
WIDTH = 8.5
HEIGHT = 2.3
"""Inches of a panel."""

Styles = dict[str, dict[str, Any]]
Ratios = Mapping[tuple[str, str], tuple[Interval, int]]


def draw_visits(study: Study, ratios: Ratios) -> list[Figure]:
    """Every figure whose numbers exist. Raises ConfigError if matplotlib is not installed.

    ratios: those of `benchmarks.report.visit_tables.ratios`.
    """
    pyplot = plotting()
    groups = arm_groups(study.arms, study.plain, study.fresh)
    found = [returns(pyplot, study, groups)]
    if ratios:
        found.append(plasticity(pyplot, study, groups, ratios))
    for each in found:
        each.figure.draw_without_rendering()
        each.figure.set_layout_engine(None)  # laid out once instead of twice for each of its files
        pyplot.close(each.figure)
    return found


def arm_groups(arms: Sequence[str], plain: str, fresh: str) -> list[list[str]]:
    """The arms of each panel: those with NaP apart from the others, at most so many in one (MOST)."""
    others = [arm for arm in arms if arm not in (plain, fresh)]
    found = []
    for kind in (False, True):
        own = [arm for arm in others if arm.startswith("nap") == kind]
        parts = -(-len(own) // MOST)
        found += [part.tolist() for part in np.array_split(np.array(own, dtype=object), parts)] if own else []
    return found or [[]]


def _styles(study: Study, group: Sequence[str]) -> Styles:
    """The looks of a panel's arms: the two that are in all panels come first, in grey and in ink."""
    shared: Styles = {
        study.plain: {"color": GREY, "linestyle": "--", "label": study.plain},
        study.fresh: {"color": INK, "linestyle": ":", "label": study.fresh},
    }
    found = {arm: style for arm, style in shared.items() if arm in study.arms}
    if group:
        look = looks(group)
        found |= {arm: look(arm) for arm in group}
    return found


# --- returns


def curve_of(study: Study, arm: str) -> Curve:
    """The mean over runs of the return over agent steps, with its Student-t interval and a gap at each change.

    Of each game over the mean return of a fresh agent in it, where that is known.
    """
    tasks = study.tasks
    parts = np.append((np.arange(POINTS) + 0.5) / POINTS, 1.0)
    steps = np.concatenate([tasks[number].start + parts * tasks.task_steps for number in range(len(tasks))])
    runs = np.array([[np.append(visit.curve, np.nan) for visit in run.visits] for run in study.of(arm)])
    return mean_curve(steps, (runs / _scales(study)[:, None]).reshape(len(runs), -1))


def _scales(study: Study) -> np.ndarray:
    """What returns are divided by: 1 if a fresh agent's are not known of every game."""
    return study.scales if np.isfinite(study.scales).all() else np.ones(len(study.tasks))


def returns(pyplot: Any, study: Study, groups: Sequence[Sequence[str]]) -> Figure:
    """A panel for each group of arms over the whole run."""
    figure, axes = _panels(pyplot, len(groups))
    curves = {arm: curve_of(study, arm) for arm in study.arms}
    divided, above = np.isfinite(study.scales).all(), 1.1 if len(study.tasks) <= LEVEL else 1.35
    for axis, group in zip(axes, groups, strict=True):
        for arm, style in _styles(study, group).items():
            curve = curves[arm]
            draw_band(axis, curve.x, curve.low, curve.high, style["color"])
            draw_line(axis, curve.x, curve.middle, **style)
        _mark_changes(axis, study, named=axis is axes[0])
        axis.set_ylabel(f"return / {study.fresh}'s" if divided else "return")
        _legend_above(axis, above if axis is axes[0] else 1.0)
    axes[-1].set_xlabel("agent steps")
    note = (
        f"The mean over runs of the return in each {_ordinal(POINTS)} of a visit; bands: 95% Student-t intervals. "
        "Vertical lines: changes of game."
    )
    if divided:
        note += f" Every game's return is divided by the mean return of {study.fresh} in all of its visits to the game."
    return Figure("visit_returns", "Returns over the run", note, figure, 640)


def _ordinal(parts: int) -> str:
    return "twentieth" if parts == 20 else f"part of {parts}"


def _panels(pyplot: Any, count: int) -> tuple[Any, list[Any]]:
    size = (WIDTH, HEIGHT * count + 0.8)
    figure, axes = pyplot.subplots(
        count, 1, figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    return figure, list(axes[:, 0])


def _mark_changes(axis: Any, study: Study, named: bool) -> None:
    """Lines where the game changes; the games' names above the first panel."""
    tasks = study.tasks
    for number in range(len(tasks)):
        visit = tasks[number]
        if number:
            axis.axvline(visit.start, color=INK, alpha=0.35, linewidth=0.7)
        if named:
            tilted = {"ha": "left", "rotation": 40, "rotation_mode": "anchor"}
            place = {"ha": "center"} if len(tasks) <= LEVEL else tilted
            middle, above = (visit.start + visit.stop) / 2, axis.get_xaxis_transform()
            axis.text(middle, 1.02, short_game(visit.game), transform=above, fontsize=8, **place)
    axis.xaxis.set_major_formatter(thousands)
    axis.set_xlim(0, tasks.steps)


def _legend_above(axis: Any, height: float) -> None:
    """A legend above a panel; height: of its lower end, in panels."""
    columns = min(max(len(axis.get_legend_handles_labels()[1]), 1), 7)
    place = {"loc": "lower left", "bbox_to_anchor": (0, height)}
    axis.legend(ncols=columns, borderpad=0, columnspacing=1.2, **place)


# --- plasticity


def plasticity(pyplot: Any, study: Study, groups: Sequence[Sequence[str]], ratios: Ratios) -> Figure:
    """A panel for each group of arms: what each visit brings over what it brings a fresh agent."""
    figure, axes = _panels(pyplot, len(groups))
    places = np.arange(len(study.labels))
    for axis, group in zip(axes, groups, strict=True):
        styles = {arm: style for arm, style in _styles(study, group).items() if arm != study.fresh_of(arm)}
        axis.axhline(1, color=INK, linestyle=":", linewidth=1, label="a fresh agent")
        for place, (arm, style) in enumerate(styles.items()):
            shift = 0.1 * (place - (len(styles) - 1) / 2)
            _draw_arm(axis, places + shift, [ratios.get((label, arm)) for label in study.labels], style)
        axis.set_ylabel("mean return / a fresh agent's")
        _legend_above(axis, 1.0)
    axes[-1].set_xlim(-0.6, len(places) - 0.4)
    axes[-1].set_ylim(bottom=min(axes[-1].get_ylim()[0], 0))
    level = {} if len(places) <= LEVEL else {"rotation": 40, "ha": "right"}
    axes[-1].set_xticks(places, study.labels, **level)
    note = (
        f"Each visit's mean return over that of a fresh agent in the same visit ({study.fresh_names}): below 1 the "
        "network has lost plasticity. Bars: 95% bootstrap intervals over seeds, which are too narrow for few seeds."
    )
    return Figure("visit_plasticity", "Plasticity by visit", note, figure, 560)


def _draw_arm(axis: Any, x: np.ndarray, found: Sequence[tuple[Interval, int] | None], style: Mapping[str, Any]) -> None:
    known = [(place, each[0]) for place, each in zip(x, found, strict=True) if each is not None]
    if not known:
        return
    color = style["color"]
    axis.plot([place for place, _ in known], [each.value for _, each in known], "o", markersize=4.5, color=color)
    axis.plot([place for place, _ in known], [each.value for _, each in known], linewidth=0.8, **dict(style))
    for place, each in known:
        axis.vlines(place, each.low, each.high, color=color, linewidth=2.5, alpha=0.45)
