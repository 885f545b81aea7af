"""Figures and tables from run directories: `python -m studies.warm_start.figures RUN_OR_FOLDER... --out DIR`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise, zip_longest
from pathlib import Path
from statistics import fmean, median
from textwrap import fill
from typing import Any

from experiment.config import ConfigError
from experiment.statistics import t_interval
from experiment.storage.files import write_atomic
from experiment.storage.run_dir import RunDir
from experiment.values import counted, every
from studies import figures
from studies.drawing import BLUE, COLORS, GREY, RED, by_arm, draw_seeds, plotting, thousands, updates_axis
from studies.records import FinishedRun, Row, load
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
from studies.warm_start.outcome import outcome

Run = FinishedRun[WarmStartConfig]

FEATURES = {
    "covariance_change": "Δ_C between rows, on test images: the Gram matrix",
    "pattern_change": "Δ_A between rows, on test images: ReLUs that switched",
    "dormant_sokar": "Dormant units (Sokar, 0.025)",
    "dead_units": "Dead units",
    "erank_roy": "Effective rank (Roy)",
    "srank_kumar": "srank (Kumar, 0.01)",
}
"""Measurements of the features of each layer, and their titles for one run."""
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
SWITCH: dict[str, Any] = {"color": RED, "linestyle": ":", "linewidth": 1.2}
ALARM: dict[str, Any] = {"color": "black", "linestyle": "-.", "linewidth": 0.9}
TITLE_WIDTH = 150
"""Letters in a line above a comparison."""
FEW = 6
"""Layers that have a colour of their own; more have shades from the first to the last."""


def draw_run(directory: RunDir, out: Path) -> Path:
    """One run explained: accuracy, rates, norms, and what the features of each layer do, over updates."""
    run, pyplot = load(WarmStartConfig, directory), plotting()
    figure, axes = pyplot.subplots(3, 3, figsize=(14, 9), sharex=True, layout="constrained")
    panels: list[Callable[[Any, Run], None]] = [_accuracy, _rates, _norms]
    for axis, panel in zip(axes[0], panels, strict=True):
        panel(axis, run)
    for axis, (metric, title) in zip(axes[1:].flat, FEATURES.items(), strict=True):
        _layers(axis, run, metric, width=1.3)
        axis.set(title=title)
        axis.set_ylim(bottom=0)
    for axis in axes.flat:
        _mark(axis, run)
        axis.margins(x=0.01)
        axis.xaxis.set_major_formatter(thousands)
    for axis in axes[-1]:
        axis.set_xlabel("updates")
    figure.legend(handles=_legend(pyplot, run), loc="outside lower center", ncols=10)
    figure.suptitle(_title(run), fontsize=11, x=0.01, ha="left")
    return figures.save(pyplot, figure, out)


def _title(run: Run) -> str:
    """Data, protocol, start; network, schedule, methods."""
    config = run.config
    data = run.result["data"] if run.result else config.dataset
    then = "then all" if config.phases == 2 else "a tenth more in each phase"
    start = "all images from the start" if config.fraction == 1 else f"{config.fraction:.0%} of the images, {then}"
    methods = [f"projected {every(config.nap_every, 'update')}"] * config.nap + list(config.plasticity)
    rate = f"{config.schedule} lr {config.lr:g}" + f", rates {config.rates}" * (config.rates != "constant")
    unfinished = "" if run.result else f"; not finished: {run.rows[-1]['update']:,} of {config.budget:,} updates"
    return (
        f"{data}, {config.protocol}: {start}; {config.phases} × {counted(config.phase_updates or 0, 'update')}, "
        f"{config.at_switch} start, seed {config.seed}{unfinished}\n"
        f"{config.network} of width {config.width}, {rate}, {', '.join(methods) or 'unconstrained'}"
    )


def _accuracy(axis: Any, run: Run) -> None:
    axis.plot(run.column("update"), run.column("train_accuracy"), color=GREY, label="training batches")
    axis.plot(run.column("update"), run.column("test_accuracy"), color=BLUE, label="test")
    axis.set(title=f"Accuracy, test {run.rows[-1]['test_accuracy']:.3f} in the last row", ylim=(-0.02, 1.04))
    axis.legend(loc="lower right")


def _rates(axis: Any, run: Run) -> None:
    axis.plot(run.column("update"), run.column("lr"), color="black", linestyle="--", label="lr")
    _layers(axis, run, "elr")
    axis.set(title="Learning rate (dashed), and effective: lr / ‖W‖", yscale="log")


def _norms(axis: Any, run: Run) -> None:
    _layers(axis, run, "norm")
    axis.set(title="Norm of the weights, ‖W‖")
    axis.set_ylim(bottom=0)


def _layers(axis: Any, run: Run, metric: str, *, width: float = 1.0) -> None:
    found = layers(run.rows, metric)
    for key, color in zip(found.values(), shades(len(found), _few(run)), strict=True):
        axis.plot(run.column("update"), run.column(key), color=color, linewidth=width)


def layers(rows: Sequence[Row], metric: str) -> dict[str, str]:
    """The keys of the metric whose name begins so, by layer, in the order of the network."""
    found = {}
    for key in dict.fromkeys(key for row in rows for key in row):
        name, _, layer = key.partition("/")
        if layer and name.startswith(metric):
            found[layer.removesuffix(".weight")] = key
    return found


def _few(run: Run) -> int:
    """How many layers have a colour of their own in the figure of a run: in all its panels or in none."""
    return FEW if max(len(layers(run.rows, metric)) for metric in ("norm", "erank_roy")) <= FEW else 0


def shades(count: int, few: int = len(COLORS)) -> list[Any]:
    """Colours of so many layers or arms: their own if they are few, else shades from the first to the last."""
    from matplotlib import colormaps

    if count <= few:
        return list(COLORS[:count])
    # darker, for names on white
    bright = [colormaps["turbo"](0.05 + 0.9 * i / max(count - 1, 1)) for i in range(count)]
    return [(0.8 * red, 0.8 * green, 0.8 * blue) for red, green, blue, _ in bright]


def _legend(pyplot: Any, run: Run) -> list[Any]:
    """What the vertical lines are, and the layers by colour."""

    def line(label: str, **style: Any) -> Any:
        return pyplot.Line2D([], [], label=label, **style)

    handles = [line("the data change", **SWITCH)] * bool(switches(run)) + [line("alarm", **ALARM)] * bool(alarms(run))
    weights, features = (list(layers(run.rows, metric)) for metric in ("norm", "erank_roy"))
    if _few(run):
        names = [", ".join(filter(None, pair)) for pair in zip_longest(weights, features)]
        return handles + [line(name, color=color) for name, color in zip(names, shades(len(names)), strict=True)]
    colors, trained = dict(zip(weights, shades(len(weights), 0), strict=True)), [*filter(_is_trained, weights)]
    ends = {"first layer": trained[0], "middle": trained[len(trained) // 2], "last": trained[-1]}
    return handles + [line(f"{place}, {layer}", color=colors[layer]) for place, layer in ends.items()]


def _mark(axis: Any, run: Run) -> None:
    for update in switches(run):
        axis.axvline(update, **SWITCH, zorder=0)
    for update in alarms(run):
        axis.axvline(update, **ALARM, zorder=0)


def switches(run: Run) -> list[int]:
    """The updates after which the data changed, so far."""
    return outcome(run.rows)["switches"]


def alarms(run: Run) -> list[int]:
    """The updates of the alarms; while a run goes on, the rows by which there were more."""
    if run.result:
        return run.result.get("alarms") or []
    return [
        row["update"]
        for before, row in pairwise(run.rows)
        for _ in range(row.get("alarms", 0) - before.get("alarms", 0))
    ]


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
    return figures.save(pyplot, draw_arms(pyplot, arms, title), out)


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
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure


def summarised(run: Run) -> Run:
    """The run with one number for all layers of each measurement: `MEASURED` says which."""
    found = {metric: layers(run.rows, metric) for metric in ("elr", *FEATURES)}
    keys = {metric: [names[layer] for layer in names if _is_trained(layer)] for metric, names in found.items()}
    keys |= {metric: keys[metric][-1:] for metric in RANKS}
    return replace(run, rows=[row | {metric: _mean(row, names) for metric, names in keys.items()} for row in run.rows])


def _is_trained(layer: str) -> bool:
    """Whether a layer learns: not those that the method injection freezes."""
    return not {"frozen", "fresh"} & set(layer.split("."))


def _mean(row: Row, names: Sequence[str]) -> float | None:
    values = [row[name] for name in names if row.get(name) is not None]
    return fmean(values) if values else None


def _over_updates(axis: Any, curves: dict[str, list[Run]], colors: dict[str, Any], metric: str, title: str) -> None:
    for arm, members in curves.items():
        draw_seeds(axis, members, colors[arm], None, metric=metric)
    _mark_arms(axis, curves, colors)
    updates_axis(axis, "updates", log=False)
    axis.set_title(title)
    axis.set_xlim(0, max(run.rows[-1]["update"] for members in curves.values() for run in members))
    if metric == "elr":
        axis.set_yscale("log")
    elif metric not in ("test_accuracy", *RANKS):
        axis.set_ylim(bottom=0)


def _mark_arms(axis: Any, curves: dict[str, list[Run]], colors: dict[str, Any]) -> None:
    """The median switches of each arm, in its colour where arms have others."""
    places = {arm: _median_switches(members) for arm, members in curves.items()}
    lines: dict[float, Any] = {}
    for arm, found in places.items():
        for update in found:
            lines[update] = RED if all(update in other for other in places.values()) else colors[arm]
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
    """The gap of each arm, and below it what a pair of arms differs by."""
    found = {arm: list(gaps(arm, arms).values()) for arm in arms}
    _intervals(axis, arms, colors, found)
    axis.tick_params(labelleft=False)
    axis.set_title("Gap to all data from the start, in points")
    notes = [f"{one} less {other}: {shown(paired, '.1f')}" for one, other, paired in contrasts(arms)]
    axis.set_xlabel("\n".join(notes), loc="right")  # long ones reach to the left, where there is room
    if any(found.values()):
        axis.axvline(0, color="black", linewidth=0.8)
    else:
        axis.set_xticks([])
        axis.text(0.5, 0.5, "no run of these seeds had them", transform=axis.transAxes, ha="center", va="center")


def _intervals(axis: Any, arms: Arms, colors: dict[str, Any], values: dict[str, list[float]]) -> None:
    """Every seed, and the mean with its Student-t interval, in a line for each arm."""
    for i, arm in enumerate(arms):
        if values[arm]:
            found = t_interval(values[arm])
            axis.plot(values[arm], [i] * len(values[arm]), "|", color=colors[arm], markersize=7, alpha=0.6)
            axis.plot(found.value, i, "o", color=colors[arm], markersize=5)
            axis.plot([found.low, found.high], [i, i], color=colors[arm], linewidth=1.6)
    axis.grid(axis="y", color="#e2e8f0", linewidth=0.6)
    axis.set_ylim(len(arms) - 0.4, -0.6)
    axis.locator_params(axis="x", nbins=5)
