"""Figures and tables from run directories: `python -m studies.warm_start.figures RUN_OR_FOLDER... --out DIR`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from textwrap import fill
from typing import Any

from experiment.config import ConfigError
from experiment.plot import INK, RED, draw_intervals, log_axis, plotting, save, shades
from experiment.results import Row
from experiment.statistics import t_interval
from experiment.storage.files import write_atomic
from studies import figures
from studies.figures import by_arm, draw_seeds, layers, updates_axis
from studies.records import FinishedRun, load
from studies.warm_start.comparisons import (
    COMPARED_WITH,
    Arms,
    contrasts,
    described,
    differences,
    final,
    gaps,
    in_order,
    markdown,
    missing,
    runs_csv,
    shown,
    table_csv,
)
from studies.warm_start.config import WarmStartConfig
from studies.warm_start.run_figure import FEATURES, SWITCH, draw_run, is_trained, switches

Run = FinishedRun[WarmStartConfig]

MEASURED = {
    "global_norm": "Norm of all weights",
    "elr": "Effective learning rate, mean over layers",
    "covariance_change": "Δ_C on test images, mean over layers",
    "pattern_change": "Δ_A on test images, mean over layers",
    "dormant_sokar": "Dormant units, mean over layers",
    "dead_units": "Dead units, mean over layers",
    "erank_roy": "Effective rank (Roy), last features",
    "srank_kumar": "srank (Kumar, 0.01), last features",
}
RANKS = ("erank_roy", "srank_kumar")
TITLE_WIDTH = 150
"""Letters in a line above a comparison."""


def draw_folder(folder: Path, out: Path) -> Path:
    """The figure of a suite; its table is printed, and written next to it as Markdown and CSV, as are its runs.

    Runs that are not finished are left out, and named. Raises ConfigError if none is finished.
    """
    pyplot, name, arms = plotting(), folder.resolve().name, load_arms(folder)
    text = markdown(name, arms)
    print(text)
    write_atomic(out.with_suffix(".md"), text)
    write_atomic(out.with_suffix(".csv"), table_csv(arms))
    write_atomic(out.with_name(f"{out.stem}-runs.csv"), runs_csv(arms))
    lacking = missing(name, arms, whole_arms=False)
    parts = [described(arms)] + [f"missing: {lacking}"] * bool(lacking)
    title = "\n".join(fill(part, TITLE_WIDTH, break_on_hyphens=False) for part in parts)
    return save(draw_arms(pyplot, arms, title), out)


def load_arms(folder: Path) -> Arms:
    """The finished runs of a suite by arm, and those that are compared with them from the folder next to it."""
    runs, name = figures.load_finished(WarmStartConfig, folder), folder.resolve().name
    other, names = COMPARED_WITH.get(name, ("", ()))
    others = figures.inside(folder.resolve().parent / other) if other else []
    found = [run for run in others if run.path.name.rpartition("-s")[0] in names and run.finished]
    arms = by_arm(runs + [load(WarmStartConfig, run) for run in found])
    for arm, members in arms.items():
        if len({run.config.seed for run in members}) < len(members):
            raise ConfigError(f"{folder}: two of the runs {arm}-s... have the same seed: they are one run twice")
        if unlike := set.union(*(differences(members[0].config, run.config) for run in members)):
            raise ConfigError(
                f"{folder}: the runs {arm}-s... differ in {', '.join(sorted(unlike))}, not in the seed alone"
            )
    results = [run.result for members in arms.values() for run in members if run.result is not None]
    titles, bits = ({result[key] for result in results if key in result} for key in ("data", "data_sha256"))
    if len(titles) > 1 or len(bits) > 1:
        data = " and ".join(sorted(titles)) + (", two sets of one name" if len(titles) == 1 else "")
        raise ConfigError(f"{folder}: its runs learned from different data, {data}: compare them apart")
    return in_order(name, arms)


def draw_arms(pyplot: Any, arms: Arms, title: str) -> Any:
    """Accuracy and measurements over updates for each arm; its final accuracy, and its gap, with 95% intervals."""
    height = max(3.6, 0.24 * len(arms) + 1)
    figure = pyplot.figure(figsize=(15, 5.6 + height), layout="constrained")
    grid = figure.add_gridspec(3, 4, height_ratios=(height, 2.6, 2.6))
    accuracy, ends = figure.add_subplot(grid[0, :2]), figure.add_subplot(grid[0, 2])
    gap = figure.add_subplot(grid[0, 3], sharey=ends)
    colors = dict(zip(arms, shades(len(arms)), strict=True))
    curves = {arm: [summarised(run) for run in members] for arm, members in arms.items()}
    _over_updates(
        accuracy, curves, colors, "test_accuracy", "Test accuracy: seeds thin, median bold; dotted: the data change"
    )
    _ends(ends, arms, colors, {arm: [final(run) for run in members] for arm, members in arms.items()})
    _gaps(gap, arms, colors)
    for i, (metric, text) in enumerate(MEASURED.items()):
        axis = figure.add_subplot(grid[1 + i // 4, i % 4])
        _over_updates(axis, curves, colors, metric, text)
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def summarised(run: Run) -> Run:
    """The run with one number for all layers of each measurement: `MEASURED` says which."""
    found = {metric: layers(run.rows, metric) for metric in ("elr", *FEATURES)}
    keys = {metric: [names[layer] for layer in names if is_trained(layer)] for metric, names in found.items()}
    keys |= {metric: keys[metric][-1:] for metric in RANKS}
    return replace(run, rows=[row | {metric: _mean(row, names) for metric, names in keys.items()} for row in run.rows])


def _mean(row: Row, names: Sequence[str]) -> float | None:
    values = [row[name] for name in names if row.get(name) is not None]
    return fmean(values) if values else None


def _over_updates(axis: Any, curves: dict[str, list[Run]], colors: dict[str, Any], metric: str, title: str) -> None:
    for arm, members in curves.items():
        draw_seeds(axis, members, colors[arm], None, metric=metric)
    _mark_arms(axis, curves, colors)
    updates_axis(axis)
    axis.set_title(title)
    axis.set_xlim(0, max(run.rows[-1]["update"] for members in curves.values() for run in members))
    if metric == "elr":
        log_axis(axis)
    elif metric not in ("test_accuracy", *RANKS):
        axis.set_ylim(bottom=0)


def _mark_arms(axis: Any, curves: dict[str, list[Run]], colors: dict[str, Any]) -> None:
    """Lines at each arm's median switches, in the arm's colour where arms differ."""
    switches = {arm: _median_switches(members) for arm, members in curves.items()}
    lines: dict[float, Any] = {}
    for arm, found in switches.items():
        for update in found:
            lines[update] = RED if all(update in other for other in switches.values()) else colors[arm]
    for update, color in lines.items():
        axis.axvline(update, **SWITCH | {"color": color}, zorder=0)


def _median_switches(members: Sequence[Run]) -> list[float]:
    return [median(updates) for updates in zip(*(switches(run) for run in members), strict=False)]


def _ends(axis: Any, arms: Arms, colors: dict[str, Any], values: dict[str, list[float]]) -> None:
    """The arms by name and colour, each with its final accuracy: the legend of the figure."""
    _intervals(axis, arms, colors, values)
    axis.set_yticks(range(len(arms)), list(arms))
    for label, color in zip(axis.get_yticklabels(), colors.values(), strict=True):
        label.set_color(color)
    axis.set_title("Final test accuracy, mean, 95% interval")


def _gaps(axis: Any, arms: Arms, colors: dict[str, Any]) -> None:
    """The gap of each arm, and below it the difference of each pair of arms."""
    found = {arm: list(gaps(arm, arms).values()) for arm in arms}
    _intervals(axis, arms, colors, found)
    axis.tick_params(labelleft=False)
    axis.set_title("Gap to all data from the start, in points")
    notes = [f"{one} less {other}: {shown(paired, '.1f')}" for one, other, paired in contrasts(arms)]
    axis.set_xlabel("\n".join(notes), loc="right")  # long ones reach to the left, where there is room
    if any(found.values()):
        axis.axvline(0, color=INK, linewidth=0.8)
    else:
        axis.set_xticks([])
        axis.text(0.5, 0.5, "no run of these seeds had them", transform=axis.transAxes, ha="center", va="center")


def _intervals(axis: Any, arms: Arms, colors: dict[str, Any], values: dict[str, list[float]]) -> None:
    """Every seed, and the mean with its Student-t interval, in a line for each arm."""
    draw_intervals(axis, [t_interval(values[arm]) if values[arm] else None for arm in arms], list(colors.values()))
    for row, arm in enumerate(arms):
        axis.plot(values[arm], [row] * len(values[arm]), "|", color=colors[arm], markersize=7)


def main(argv: Sequence[str] | None = None) -> int:
    return figures.main(argv, prog="python -m studies.warm_start.figures", draw_run=draw_run, draw_folder=draw_folder)


if __name__ == "__main__":
    raise SystemExit(main())
