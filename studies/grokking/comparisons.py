"""Figures that compare runs: delays, the grid of figure 2, other methods, and norm against effective learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import cycle
from statistics import median, median_low
from typing import Any

from experiment.plot import BLUE, COLORS, GREY, RED, shades
from experiment.statistics import Interval, concordance
from experiment.tables import with_bounds
from experiment.values import counted, every
from studies.figures import by_arm, draw_seeds, updates_axis
from studies.grokking.clamped import draw_clamped
from studies.grokking.config import GrokkingConfig
from studies.grokking.outcome import outcome
from studies.records import FinishedRun

Run = FinishedRun[GrokkingConfig]


def draw_curves(pyplot: Any, runs: Sequence[Run]) -> Any:
    """Test accuracy over updates for each arm: seeds thin, their median bold."""
    figure, axis = pyplot.subplots(figsize=(7.5, 4), layout="constrained")
    _draw_arms(axis, by_arm(runs))
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _draw_arms(axis: Any, groups: dict[str, list[Run]]) -> None:
    for (name, members), color in zip(groups.items(), shades(len(groups)), strict=True):
        draw_seeds(axis, members, color, name)
    accuracy_axis(axis, "updates (logarithmic)", log=True)
    axis.set_title("Test accuracy: seeds thin, median bold")


def draw_delays(pyplot: Any, runs: Sequence[Run]) -> Any:
    """Test accuracy over all updates, and over those since the re-warm."""
    figure, (whole, since) = pyplot.subplots(1, 2, figsize=(11, 3.8), sharey=True, layout="constrained")
    groups = dict(sorted(by_arm(runs).items(), key=lambda item: item[1][0].config.rewarm_at))
    for members, color in zip(groups.values(), cycle(COLORS), strict=False):
        delay = members[0].config.rewarm_at
        draw_seeds(whole, members, color, counted(delay, "update"))
        draw_seeds(since, members, color, None, shift=delay)
        if delay:
            whole.axvline(delay, color=color, linestyle=":", linewidth=1)
    accuracy_axis(whole, "updates (logarithmic)", log=True)
    accuracy_axis(since, "updates since the re-warm", log=False)
    budget = max(run.config.budget - run.config.rewarm_at for run in runs)
    since.set_xlim(-0.15 * budget, budget)
    since.axvline(0, color="black", linestyle=":", linewidth=1)
    for axis in (whole, since):
        _floor(axis, runs)
    whole.set_title("Test accuracy; dotted: the re-warm")
    since.set_title("The same, from the re-warm on: seeds thin, median bold")
    whole.legend(title="delay", title_fontsize=8, loc="upper left")
    return figure


def draw_grid(pyplot: Any, runs: Sequence[Run]) -> Any:
    """Figure 2 left: free weights against periodically projected ones, a line for each rate and weight decay."""
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 3.8), sharey=True, layout="constrained")
    rates = sorted({run.config.lr for run in runs}, reverse=True)
    colors = dict(zip(rates, COLORS, strict=False))
    decays = sorted({run.config.weight_decay for run in runs})
    styles = dict(zip(decays, (":", "-", "--"), strict=False))
    for run in sorted(runs, key=lambda run: (-run.config.lr, run.config.weight_decay)):
        config = run.config
        axis = axes[int(config.projection != "off")]
        label = f"lr {config.lr:g}, decay {config.weight_decay:g}" if config.seed == 0 else None
        style = {"color": colors[config.lr], "linestyle": styles[config.weight_decay]}
        axis.plot(run.column("update"), run.column("test_accuracy"), label=label, **style)
    period = max(run.config.project_every for run in runs)
    for axis, title in zip(axes, ("free weights", f"projected {every(period, 'update')}"), strict=True):
        accuracy_axis(axis, "updates (logarithmic)", log=True)
        _floor(axis, runs)
        axis.set_title(f"Test accuracy, {title}")
    axes[1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def draw_methods(pyplot: Any, runs: Sequence[Run]) -> Any:
    """Test accuracy of each method, and a table of updates and seconds to 95% and 99%."""
    groups = by_arm(runs)
    rows = 0.3 * (1 + len(groups))  # inches
    figure, (axis, table) = pyplot.subplots(
        2, 1, figsize=(10.5, 4.2 + rows), height_ratios=(4.2, rows), layout="constrained"
    )
    _draw_arms(axis, groups)
    _floor(axis, runs)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    table.axis("off")
    cells = table.table(cellText=table_rows(groups), colLabels=TABLE_HEAD, loc="center", cellLoc="center")
    cells.auto_set_font_size(False)
    cells.set_fontsize(8)
    cells.scale(1, 1.35)
    for place, cell in cells.get_celld().items():
        cell.set_edgecolor("#cbd5e0")
        if place[0] == 0:
            cell.set_text_props(weight="bold")
    return figure


TABLE_HEAD = ("method", "updates to 0.95", "seconds", "updates to 0.99", "seconds", "at the end")


def table_rows(groups: dict[str, list[Run]]) -> list[list[str]]:
    """For each arm the median (lowest-highest) of the seeds; what was not reached counts as later than the budget."""
    rows = []
    for name, members in groups.items():
        found = [outcome(run.rows, run.config) for run in members]
        columns = ("updates_to_test_95", "seconds_to_test_95", "updates_to_test_99", "seconds_to_test_99")
        finals = [row["final_test_accuracy"] for row in found]
        end = f"{median(finals):.3f}" + (f" ({min(finals):.3f}-{max(finals):.3f})" if len(finals) > 1 else "")
        rows.append([name, *(median_and_range([row[column] for row in found]) for column in columns), end])
    return rows


def draw_norm_or_elr(pyplot: Any, runs: Sequence[Run]) -> Any:
    """Updates to 95% in every cell of norm and ELR, and against each of them, with its concordance."""
    figure, (grid, by_elr, by_norm) = pyplot.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    times = [outcome(run.rows, run.config)["updates_to_test_95"] for run in runs]
    budget = max(run.config.budget for run in runs)
    _heat(grid, runs, times, budget)
    scores = orders(runs, times)
    for axis, field, name in ((by_elr, "elr_end", "ELR"), (by_norm, "norm_end", "norm")):
        _scatter(axis, [getattr(run.config, field) for run in runs], times, budget)
        claim = "larger is earlier" if field == "elr_end" else "smaller is earlier"
        axis.set_title(f"{name}, {claim}: concordance {with_bounds(scores[field], '{:.2f}'.format)}", fontsize=9)
        axis.set_xlabel(f"final {name} / initial {name}")
    by_elr.set_ylabel("updates to test accuracy 0.95")
    return figure


def orders(runs: Sequence[Run], times: Sequence[int | None]) -> dict[str, Interval]:
    """How well a larger final ELR, and a smaller norm, order the times to 95%; never is censored at the budget."""
    ends = [run.config.budget if time is None else time for run, time in zip(runs, times, strict=True)]
    censored = [time is None for time in times]
    return {
        "elr_end": concordance([-run.config.elr_end for run in runs], ends, censored),
        "norm_end": concordance([run.config.norm_end for run in runs], ends, censored),
    }


def _heat(axis: Any, runs: Sequence[Run], times: Sequence[int | None], budget: int) -> None:
    norms = sorted({run.config.norm_end for run in runs})
    elrs = sorted({run.config.elr_end for run in runs})
    cells = [[_median_time(runs, times, norm, elr) for elr in elrs] for norm in norms]
    shades = [[min(value, budget) for value in row] for row in cells]
    axis.imshow(shades, cmap="YlGnBu_r", aspect="auto", origin="lower", vmin=0, vmax=budget)
    for i, row in enumerate(cells):
        for j, value in enumerate(row):
            text = "" if value != value else "never" if value == math.inf else f"{value:,.0f}"
            color = "white" if value < 0.45 * budget else "black"
            axis.text(j, i, text, ha="center", va="center", color=color, fontsize=9)
    axis.set_xticks(range(len(elrs)), [f"×{elr:g}" for elr in elrs])
    axis.set_yticks(range(len(norms)), [f"×{norm:g}" for norm in norms])
    axis.set(title="Median updates to test accuracy 0.95", xlabel="ELR over the budget", ylabel="norm over the budget")
    axis.spines[:].set_visible(False)


def _median_time(runs: Sequence[Run], times: Sequence[int | None], norm: float, elr: float) -> float:
    ends = [math.inf if time is None else time for time in times]
    pairs = zip(runs, ends, strict=True)
    cell = [end for run, end in pairs if (run.config.norm_end, run.config.elr_end) == (norm, elr)]
    return float(median_low(cell)) if cell else math.nan


def _scatter(axis: Any, ends: Sequence[float], times: Sequence[int | None], budget: int) -> None:
    for reached, marker, label in ((True, "o", "reached"), (False, "^", "not within the budget")):
        chosen = [(end, time) for end, time in zip(ends, times, strict=True) if (time is not None) is reached]
        if chosen:
            spread = [end * 1.06 ** (i % 9 - 4) for i, (end, _) in enumerate(chosen)]
            heights = [budget if time is None else time for _, time in chosen]
            axis.plot(spread, heights, marker, color=BLUE if reached else RED, alpha=0.7, label=label)
    ticks = sorted(set(ends))
    axis.set_xscale("log")
    axis.set_xticks(ticks, [f"×{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.set_ylim(0, 1.08 * budget)
    axis.legend(loc="best")


def accuracy_axis(axis: Any, label: str, *, log: bool) -> None:
    """Accuracy over updates."""
    updates_axis(axis, label, log=log)
    axis.set_ylim(-0.02, 1.04)


def median_and_range(values: Sequence[float | None]) -> str:
    """The median, and the lowest and highest of values; None is one that was not reached, and counts as the largest."""
    reached = sorted(value for value in values if value is not None)
    if not reached:
        return "never"
    if len(reached) < len(values):
        middle = median_low([*reached, *[math.inf] * (len(values) - len(reached))])
        return f"{'never' if middle == math.inf else f'{middle:,.0f}'} ({len(reached)} of {len(values)})"
    return f"{median(reached):,.0f}" + (f" ({reached[0]:,.0f}-{reached[-1]:,.0f})" if len(reached) > 1 else "")


def _floor(axis: Any, runs: Sequence[Run]) -> None:
    floors = [run.result["symmetric_floor"] for run in runs if run.result]
    if floors:
        axis.axhline(median(floors), color=GREY, linestyle="--", linewidth=0.9, zorder=0)


DRAWINGS: dict[str, Callable[[Any, Sequence[Run]], Any]] = {
    "rewarm": draw_delays,
    "figure2": draw_grid,
    "baselines": draw_methods,
    "baselines-mul": draw_methods,
    "norm-or-elr": draw_norm_or_elr,
    "norm-or-elr-invariant": draw_norm_or_elr,
    "norm-or-elr-clamped": draw_clamped,
}
"""The figure of each suite, by its name; any other suite has `draw_curves`."""
