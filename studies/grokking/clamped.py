"""Norm or rate, with norms that are held from the start: which orders the times, and the delay as a law of the norm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from experiment.plot import log_axis
from experiment.samples import Interval, bootstrap_interval, concordance
from experiment.tables import with_bounds
from studies.grokking.config import GrokkingConfig
from studies.grokking.outcome import first_at, outcome
from studies.records import FinishedRun

Run = FinishedRun[GrokkingConfig]
NETWORKS = {"none": "without norms", "rms": "with norms, scale-invariant weights"}
LEVEL = 0.95


@dataclass(frozen=True)
class Law:
    """ln T = alpha rho + c: one alpha with its interval, c of each rate its own. R² is of the variance within rates."""

    alpha: Interval
    r2: float
    runs: int


@dataclass(frozen=True)
class Held:
    """The held runs of one network: multiples of the initial norm, rates, and updates to the level, None if never."""

    runs: Sequence[Run]
    norms: list[float]
    rates: list[float]
    times: list[int | None]

    @property
    def elrs(self) -> list[float]:
        """The rate over the norm, that in multiples of the initial one."""
        return [rate / norm for rate, norm in zip(self.rates, self.norms, strict=True)]

    def orders(self) -> dict[str, Interval]:
        """Concordance of the times with a larger ELR, a smaller norm, and a larger rate; never is censored."""
        pairs = list(zip(self.runs, self.times, strict=True))
        ends = [run.config.budget if time is None else time for run, time in pairs]
        censored = [time is None for time in self.times]
        columns = {
            "ELR": [-elr for elr in self.elrs], "norm": self.norms, "rate": [-rate for rate in self.rates],
        }  # fmt: skip
        return {name: concordance(column, ends, censored) for name, column in columns.items()}


def held(runs: Sequence[Run], norm: str) -> Held:
    """The runs of a network whose norms are held."""
    own = [run for run in runs if run.config.norm == norm and run.config.projection != "off"]
    times = [outcome(run.rows, run.config)["updates_to_test_95"] for run in own]
    return Held(own, [run.config.hold_norm_at for run in own], [run.config.lr for run in own], times)


def critical_norm(runs: Sequence[Run]) -> float | None:
    """W_c of arXiv 2606.13753: the global norm at which freely trained networks generalise, the median over seeds.

    None if none has.
    """
    free = [first_at(run.rows, "test_accuracy", LEVEL) for run in runs if run.config.projection == "off"]
    reached = [row["global_norm"] for row in free if row is not None]
    return float(median(reached)) if reached else None


def laws(found: Held, critical: float) -> dict[str, Law]:
    """The law at each rate and over all rates; rho is the global norm over `critical`. What never came is left out."""
    points = [
        (rate, run.rows[0]["global_norm"] / critical, math.log(time))
        for run, rate, time in zip(found.runs, found.rates, found.times, strict=True)
        if time is not None
    ]
    groups = {f"{rate:g}": [point for point in points if point[0] == rate] for rate in sorted({p[0] for p in points})}
    return {name: law(group) for name, group in [*groups.items(), ("all rates", points)] if _varies(group)}


def law(points: Sequence[tuple[float, float, float]]) -> Law:
    """The law through points of (rate, rho, ln T), by least squares."""
    values = np.array(points)
    return Law(bootstrap_interval(values, lambda rows: _slope(rows)[0]), _slope(values)[1], len(values))


def _varies(points: Sequence[tuple[float, float, float]]) -> bool:
    return any(a[0] == b[0] and a[1] != b[1] for a in points for b in points)


def _slope(rows: np.ndarray) -> tuple[float, float]:
    """Slope and R² of ln T over rho, each less its mean at the same rate; NaN if rho does not vary."""
    centred = rows[:, 1:].astype(float)
    for rate in np.unique(rows[:, 0]):
        same = rows[:, 0] == rate
        centred[same] -= centred[same].mean(0)
    x, y = centred.T
    spread, total = x @ x, y @ y
    if spread < 1e-12:
        return math.nan, math.nan
    return float(x @ y / spread), float((x @ y) ** 2 / (spread * total)) if total else math.nan


def draw_clamped(pyplot: Any, runs: Sequence[Run]) -> Any:
    """Updates to 0.95 over the effective rate, a panel for each network, the norm as colour."""
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.2), sharey=True, layout="constrained")
    norms = sorted({norm for kind in NETWORKS for norm in held(runs, kind).norms})
    colors = dict(zip(norms, pyplot.get_cmap("viridis")(np.linspace(0, 0.92, max(len(norms), 1))), strict=True))
    for axis, (kind, title) in zip(axes, NETWORKS.items(), strict=True):
        found = held(runs, kind)
        if found.runs:
            _scatter(axis, found, colors)
            scores = {name: with_bounds(score, "{:.2f}".format) for name, score in found.orders().items()}
            title += f"\nconcordance: ELR {scores['ELR']}, norm {scores['norm']},\nrate {scores['rate']}"
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("lr / norm, the norm in multiples of the initial one")
    axes[0].set_ylabel("updates to test accuracy 0.95")
    axes[1].legend(title="norm held at", loc="center left", bbox_to_anchor=(1, 0.5))
    without = held(runs, "none")
    if without.runs:
        axes[0].text(0.02, 0.02, law_lines(without, critical_norm(runs)), transform=axes[0].transAxes, fontsize=7)
    return figure


def law_lines(found: Held, critical: float | None) -> str:
    """The laws, a line each."""
    if critical is None:
        return f"no law: no freely trained run has reached {LEVEL}, which would give the norm to compare with"
    lines = [f"ln T = α ρ + c, ρ = global norm / {critical:.1f}"]
    for name, fitted in laws(found, critical).items():
        where = name if name == "all rates" else f"lr {name}"
        alpha = with_bounds(fitted.alpha, "{:.1f}".format)
        lines.append(f"{where}: α {alpha}, R² {fitted.r2:.2f}, {fitted.runs} runs")
    never = sum(time is None for time in found.times)
    return "\n".join([*lines, f"{never} of {len(found.times)} runs never reached it and are left out"])


def _scatter(axis: Any, found: Held, colors: dict[float, Any]) -> None:
    for norm in sorted(set(found.norms)):
        own = [i for i, other in enumerate(found.norms) if other == norm]
        for reached, marker in ((True, "o"), (False, "^")):
            chosen = [i for i in own if (found.times[i] is not None) is reached]
            heights = [found.times[i] or found.runs[i].config.budget for i in chosen]
            label = f"×{norm:g}" + ("" if reached else ", never")
            if chosen:
                rates = [found.elrs[i] for i in chosen]
                axis.plot(rates, heights, marker, color=colors[norm], alpha=0.75, markersize=5, label=label)
    for side in ("x", "y"):
        log_axis(axis, side)
