"""The figure that explains one run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiment.part import short_name
from experiment.plot import BLUE, GREEN, GREY, INK, ORANGE, RED, log_axis, plotting, save
from experiment.storage.run_dir import RunDir
from experiment.values import counted
from studies.figures import draw_panels, layers
from studies.grokking.config import GrokkingConfig
from studies.records import FinishedRun, load

Run = FinishedRun[GrokkingConfig]


def draw_run(directory: RunDir, out: Path) -> Path:
    """One run explained: accuracy, learning rates, feature change, ranks and norms over updates."""
    run, pyplot = load(GrokkingConfig, directory), plotting()
    panels = [_accuracy, _rates, _norms, _pattern_change, _covariance_change, _ranks]
    return save(draw_panels(pyplot, run, panels, _mark_rewarm, _title(run)), out)


def _title(run: Run) -> str:
    config = run.config
    task = "composition in S5" if config.operation == "s5" else f"x {config.operation} y mod {config.modulus}"
    rewarm = f"re-warmed after {counted(config.delay, 'update')}" if config.rewarm_at else "warm from the start"
    schedule = short_name(config.schedule) if ":" in config.schedule else rewarm
    return f"Grokking: {task}, {config.model}, {schedule}"


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
    axis.plot(run.column("update"), run.column("lr"), color=INK, label="lr")
    _layers(axis, run, "elr", labels=True)
    axis.set_title("Learning rate, and effective lr / ‖W‖ per layer")
    log_axis(axis)
    axis.set_ylim(top=60 * max(run.column("lr")))
    axis.legend(loc="upper center", ncols=5, fontsize=6.5, columnspacing=1, handlelength=1.2)


def _norms(axis: Any, run: Run) -> None:
    _layers(axis, run, "norm")
    for i, key in enumerate(layers(run.rows, "scale").values()):
        label = "scale of norms (root mean square)" if i == 0 else None
        axis.plot(run.column("update"), run.column(key), color=ORANGE, linestyle="--", linewidth=0.9, label=label)
    axis.plot([], [], color=BLUE, linewidth=0.9, label="‖W‖ per layer")
    axis.set_title("Norms")
    log_axis(axis)
    axis.set_ylim(top=5 * max(max(run.column(key)) for key in layers(run.rows, "norm").values()))
    axis.legend(loc="upper center", ncols=2)


def _layers(axis: Any, run: Run, metric: str, labels: bool = False) -> None:
    from matplotlib import colormaps

    found = layers(run.rows, metric)
    for i, (layer, key) in enumerate(found.items()):
        color = colormaps["winter"](i / max(len(found) - 1, 1))
        label = layer if labels else None
        axis.plot(run.column("update"), run.column(key), color=color, linewidth=0.9, label=label)


def _pattern_change(axis: Any, run: Run) -> None:
    _change(axis, run, "pattern_change", "Δ_A in {}: share of ReLUs that switched")


def _covariance_change(axis: Any, run: Run) -> None:
    _change(axis, run, "covariance_change", "Δ_C in {}: change of the Gram matrix")


def _change(axis: Any, run: Run, metric: str, title: str) -> None:
    for layer, key in layers(run.rows, metric).items():
        if layer.startswith("activation"):
            axis.plot(run.column("update"), run.column(key), color=GREEN, label=layer)
    axis.set(title=title.format(counted(run.config.log_interval or 0, "update")), ylim=(0, None))


def _ranks(axis: Any, run: Run) -> None:
    updates, found = run.column("update"), layers(run.rows, "erank_roy")
    for (layer, key), color in zip(found.items(), (GREEN, ORANGE, BLUE), strict=False):
        label = {"output": "attention output", "activation": "MLP features"}.get(layer, layer)
        axis.plot(updates, run.column(key), color=color, label=label)
    highest = max(max(run.column(key)) for key in found.values())
    axis.set(title="Effective rank, and entropy of attention", ylim=(0, 1.25 * highest))
    if "attention_entropy" in run.rows[0]:
        axis.plot([], [], color=GREY, linewidth=0.9, label="entropy (right)")
        entropy = axis.twinx()
        entropy.plot(updates, run.column("attention_entropy"), color=GREY, linewidth=0.9)
        entropy.set(ylim=(0, 2))
        entropy.set_ylabel("nats", color=GREY)
        entropy.spines["right"].set_visible(True)
    axis.legend(loc="upper center", ncols=3, columnspacing=1, handlelength=1.5)
