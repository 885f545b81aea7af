"""The roofline of a measurement: rates over arithmetic intensity, under the machine's own two roofs."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from agents.config import STACK
from agents.networks.encoders import make_network
from benchmarks.speed.alternate import Series
from benchmarks.speed.learners import BATCH, NUM_ACTIONS, PRECISIONS
from benchmarks.speed.limits import PEAK, Shape, matmul_name, shapes, update_costs
from benchmarks.speed.measure import Results
from benchmarks.speed.replays import FRAME_SHAPE
from experiment.values import counted

BYTES = {"fp32": 4, "bf16": 2}
COLOURS = {"fp32": "tab:blue", "bf16": "tab:orange"}
ADAM_PASSES = 7  # reads of weight, gradient and two moments, writes of weight and moments: fp32


def matmul_intensity(shape: Shape, precision: str) -> float:
    """FLOP per byte if each matrix moves once."""
    m, k, n = shape
    return 2 * m * k * n / (BYTES[precision] * (m * k + k * n + m * n))


def update_intensity(network: str, precision: str) -> float:
    """FLOP per byte of a double-DQN update if every pass moves weights, pixels and outputs once, and Adam its state."""
    costs = update_costs(network)
    module = make_network(network, STACK, FRAME_SHAPE, NUM_ACTIONS)
    weights = sum(p.numel() for p in module.parameters())
    outputs = sum(cost.shape[0] * cost.shape[2] for cost in costs)
    pixels = BATCH * STACK * FRAME_SHAPE[0] * FRAME_SHAPE[1]
    passes = 3 + 2
    moved = BYTES[precision] * passes * (weights + 2 * outputs) + passes * pixels + 4 * ADAM_PASSES * weights
    return 1e9 * sum(cost.gflop for cost in costs) / moved


def draw(results: Results, path: Path) -> None:
    """Measured multiplications as dots, learners as crosses (ours) and triangles (peers).

    Bytes are counted as if they came from memory and moved once. What fits into a cache can pass its roof.
    """
    rates = {series.name: series.median for series in results.series}
    figure, axes = plt.subplots(figsize=(9, 5.5))
    x = np.logspace(0, 3.2, 200)
    for precision in PRECISIONS:
        peak, colour = rates[matmul_name("large", PEAK, precision)], COLOURS[precision]
        axes.plot(x, np.minimum(peak, x * rates["copy, read and write"]), color=colour, label=f"{precision} roof")
        for label, shape in shapes(results.settings.networks):
            at = matmul_intensity(shape, precision), rates[matmul_name(label, shape, precision)]
            axes.plot(*at, "o", color=colour, alpha=0.6)
            axes.annotate(label, at, fontsize=7, xytext=(4, 3), textcoords="offset points")
    _learners(results, axes)
    axes.set(xscale="log", yscale="log", xlabel="FLOP per byte", ylabel="GFLOP/s")
    axes.set_title(f"{results.processor}, {counted(results.settings.threads, 'thread')}", fontsize=9)
    axes.legend(loc="lower right", fontsize=8)
    axes.grid(alpha=0.3, which="both")
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _learners(results: Results, axes: plt.Axes) -> None:
    """The fastest learner of each network, precision and side; more would hide one another."""
    for network in results.settings.networks:
        gflop = sum(cost.gflop for cost in update_costs(network))
        fastest: dict[tuple[str, str], Series] = {}
        for series in results.series:
            if series.task == f"learner {network}" and series.role != "limit":
                key = "bf16" if series.name.startswith("bf16") else "fp32", series.role
                fastest[key] = max(fastest.get(key, series), series, key=lambda each: each.median)
        for (precision, role), series in fastest.items():
            at = update_intensity(network, precision), gflop * series.median
            axes.plot(*at, "X" if role == "ours" else "v", color=COLOURS[precision], markersize=9)
            note = f"{network} update, {'ours' if role == 'ours' else 'best peer'}"
            axes.annotate(note, at, fontsize=8, weight="bold", xytext=(8, -3), textcoords="offset points")
