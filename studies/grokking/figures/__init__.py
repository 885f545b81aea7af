"""Figures from run directories: `python -m studies.grokking.figures RUN... --out DIR`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiment.storage.run_dir import RunDir
from experiment.values import counted
from studies import figures
from studies.drawing import BLUE, GREEN, GREY, ORANGE, RED, plotting, thousands
from studies.grokking.comparisons import DRAWINGS, draw_curves
from studies.grokking.config import GrokkingConfig
from studies.records import FinishedRun, load

Run = FinishedRun[GrokkingConfig]


def draw_run(directory: RunDir, out: Path) -> Path:
    """One run explained: accuracy, learning rates, feature change, ranks and norms over updates."""
    run, pyplot = load(GrokkingConfig, directory), plotting()
    figure, axes = pyplot.subplots(2, 3, figsize=(12, 6.2), sharex=True, layout="constrained")
    panels: list[Callable[[Any, Run], None]] = [
        _accuracy, _rates, _norms, _pattern_change, _covariance_change, _ranks,
    ]  # fmt: skip
    for axis, panel in zip(axes.flat, panels, strict=True):
        panel(axis, run)
        _mark_rewarm(axis, run)
        axis.margins(x=0.01)
        axis.xaxis.set_major_formatter(thousands)
    for axis in axes[1]:
        axis.set_xlabel("updates")
    figure.suptitle(_title(run), fontsize=11, x=0.01, ha="left")
    return figures.save(pyplot, figure, out)


def _title(run: Run) -> str:
    config = run.config
    task = "composition in S5" if config.operation == "s5" else f"x {config.operation} y mod {config.modulus}"
    rewarm = f"re-warmed after {counted(config.delay, 'update')}" if config.rewarm_at else "warm from the start"
    return f"Grokking: {task}, {config.model}, {rewarm}"


def _mark_rewarm(axis: Any, run: Run) -> None:
    if run.config.rewarm_at:
        axis.axvline(run.config.rewarm_at, ymax=0.83, color=RED, linestyle=":", linewidth=1)


def _accuracy(axis: Any, run: Run) -> None:
    updates = run.column("update")
    axis.plot(updates, run.column("train_accuracy"), color=GREY, label="train")
    axis.plot(updates, run.column("test_accuracy"), color=BLUE, label="test")
    if run.result:
        floor = run.result["symmetric_floor"]
        axis.axhline(floor, color=GREY, linestyle="--", linewidth=0.9, label=f"memorised and symmetric: {floor:.2f}")
    axis.set(title="Accuracy", ylim=(-0.02, 1.24), yticks=(0, 0.2, 0.4, 0.6, 0.8, 1))
    if run.config.rewarm_at:
        axis.annotate("re-warm", (run.config.rewarm_at, 0.62), color=RED, fontsize=8, rotation=90, ha="right")
    axis.legend(loc="upper center", ncols=3, columnspacing=1, handlelength=1.5)


def _rates(axis: Any, run: Run) -> None:
    updates = run.column("update")
    axis.plot(updates, run.column("lr"), color="black", label="lr")
    for (name, values), color in zip(_layers(run, "elr/"), _shades(run, "elr/"), strict=True):
        axis.plot(updates, values, color=color, linewidth=0.9, label=name)
    axis.set(title="Learning rate, and effective lr / ‖W‖ per layer", yscale="log")
    axis.set_ylim(top=60 * max(run.column("lr")))
    axis.legend(loc="upper center", ncols=5, fontsize=6.5, columnspacing=1, handlelength=1.2)


def _norms(axis: Any, run: Run) -> None:
    updates = run.column("update")
    for (_, values), color in zip(_layers(run, "norm/"), _shades(run, "norm/"), strict=True):
        axis.plot(updates, values, color=color, linewidth=0.9)
    for i, (_, values) in enumerate(_layers(run, "scale/")):
        label = "scale of norms (root mean square)" if i == 0 else None
        axis.plot(updates, values, color=ORANGE, linestyle="--", linewidth=0.9, label=label)
    axis.plot([], [], color=BLUE, linewidth=0.9, label="‖W‖ per layer")
    axis.set(title="Norms", yscale="log")
    axis.set_ylim(top=5 * max(max(values) for _, values in _layers(run, "norm/")))
    axis.legend(loc="upper center", ncols=2)


def _pattern_change(axis: Any, run: Run) -> None:
    _change(axis, run, "pattern_change/")
    axis.set(
        title=f"Δ_A in {counted(run.config.log_interval or 0, 'update')}: share of ReLUs that switched", ylim=(0, None)
    )


def _covariance_change(axis: Any, run: Run) -> None:
    _change(axis, run, "covariance_change/")
    axis.set(
        title=f"Δ_C in {counted(run.config.log_interval or 0, 'update')}: change of the Gram matrix", ylim=(0, None)
    )


def _change(axis: Any, run: Run, metric: str) -> None:
    updates = run.column("update")
    for name, values in _hidden(run, metric):
        axis.plot(updates, values, color=GREEN, label=name)


def _ranks(axis: Any, run: Run) -> None:
    updates = run.column("update")
    ranks = _layers(run, "erank_roy/")
    for (name, values), color in zip(ranks, (GREEN, ORANGE, BLUE), strict=False):
        label = "attention output" if name == "output" else "MLP features" if name == "activation" else name
        axis.plot(updates, values, color=color, label=label)
    axis.set(title="Effective rank, and entropy of attention", ylim=(0, 1.25 * max(max(values) for _, values in ranks)))
    if "attention_entropy" in run.rows[0]:
        axis.plot([], [], color=GREY, linewidth=0.9, label="entropy (right)")
        entropy = axis.twinx()
        entropy.plot(updates, run.column("attention_entropy"), color=GREY, linewidth=0.9)
        entropy.set(ylim=(0, 2))
        entropy.set_ylabel("nats", color=GREY)
        entropy.spines["right"].set_visible(True)
    axis.legend(loc="upper center", ncols=3, columnspacing=1, handlelength=1.5)


def _layers(run: Run, prefix: str) -> list[tuple[str, list[float]]]:
    """The metrics of a prefix, by the layer that follows it."""
    keys = dict.fromkeys(key for row in run.rows for key in row if key.startswith(prefix))
    return [(key.removeprefix(prefix).removesuffix(".weight"), run.column(key)) for key in keys]


def _hidden(run: Run, prefix: str) -> list[tuple[str, list[float]]]:
    return [(name, values) for name, values in _layers(run, prefix) if name.startswith("activation")]


def _shades(run: Run, prefix: str) -> list[Any]:
    from matplotlib import colormaps

    count = len(_layers(run, prefix))
    return [colormaps["winter"](i / max(count - 1, 1)) for i in range(count)]


def draw_folder(folder: Path, out: Path) -> Path:
    """The figure of a suite, from the folder of its runs; those that are not finished are left out, and named."""
    runs, pyplot = figures.load_finished(GrokkingConfig, folder), plotting()
    return figures.save(pyplot, DRAWINGS.get(folder.resolve().name, draw_curves)(pyplot, runs), out)
