"""The figure that explains one run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

from experiment.plot import BLUE, GREY, INK, RED, log_axis, plotting, save, shades
from experiment.storage.run_dir import RunDir
from experiment.values import counted, every
from studies.figures import draw_panels, layers
from studies.records import FinishedRun, load
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
SWITCH: dict[str, Any] = {"color": RED, "linestyle": ":", "linewidth": 1.2}
ALARM: dict[str, Any] = {"color": INK, "linestyle": "-.", "linewidth": 0.9}
FEW = 6
"""Layers that have a colour of their own; more have shades from the first to the last."""


def draw_run(directory: RunDir, out: Path) -> Path:
    """One run explained: accuracy, rates, norms, and what the features of each layer do, over updates."""
    run, pyplot = load(WarmStartConfig, directory), plotting()
    panels: list[Callable[[Any, Run], None]] = [_accuracy, _rates, _norms]
    panels += [partial(_feature, metric) for metric in FEATURES]
    figure = draw_panels(pyplot, run, panels, _mark, _title(run))
    figure.legend(handles=_legend(pyplot, run), loc="outside lower center", ncols=10)
    return save(figure, out)


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
    axis.plot(run.column("update"), run.column("lr"), color=INK, linestyle="--", label="lr")
    _layers(axis, run, "elr")
    axis.set(title="Learning rate (dashed), and effective: lr / ‖W‖")
    log_axis(axis)


def _norms(axis: Any, run: Run) -> None:
    _layers(axis, run, "norm")
    axis.set_title("Norm of the weights, ‖W‖")
    axis.set_ylim(bottom=0)


def _feature(metric: str, axis: Any, run: Run) -> None:
    _layers(axis, run, metric, width=1.3)
    axis.set_title(FEATURES[metric])
    axis.set_ylim(bottom=0)


def _layers(axis: Any, run: Run, metric: str, *, width: float = 1.0) -> None:
    found = layers(run.rows, metric)
    for key, color in zip(found.values(), shades(len(found), _few(run)), strict=True):
        axis.plot(run.column("update"), run.column(key), color=color, linewidth=width)


def _few(run: Run) -> int:
    """How many layers have a colour of their own in the figure of a run: in all its panels or in none."""
    return FEW if max(len(layers(run.rows, metric)) for metric in ("norm", "erank_roy")) <= FEW else 0


def _legend(pyplot: Any, run: Run) -> list[Any]:
    """The meaning of the vertical lines, and the layers by colour."""

    def line(label: str, **style: Any) -> Any:
        return pyplot.Line2D([], [], label=label, **style)

    handles = [line("the data change", **SWITCH)] * bool(switches(run)) + [line("alarm", **ALARM)] * bool(alarms(run))
    weights, features = (list(layers(run.rows, metric)) for metric in ("norm", "erank_roy"))
    if _few(run):
        names = [", ".join(filter(None, pair)) for pair in zip_longest(weights, features)]
        return handles + [line(name, color=color) for name, color in zip(names, shades(len(names)), strict=True)]
    colors, trained = dict(zip(weights, shades(len(weights), 0), strict=True)), [*filter(is_trained, weights)]
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
    """The updates of the alarms; for an unfinished run, the rows at which their number had grown."""
    if run.result:
        return run.result.get("alarms") or []
    return [
        row["update"]
        for before, row in pairwise(run.rows)
        for _ in range(row.get("alarms", 0) - before.get("alarms", 0))
    ]


def is_trained(layer: str) -> bool:
    """Whether a layer learns: not those that the method injection freezes."""
    return not {"frozen", "fresh"} & set(layer.split("."))
