"""A scan of one model: norms, rates, spectra and ranks of its weights, the units of its layers, and what to try."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn, optim

from nap.graph.layers import feature_layers
from nap.graph.weights import Weight, find_weights, joint_norms
from nap.metrics.features import dormant_grama, erank_of, singular_values, stable_rank_of
from nap.metrics.probe import Probe
from nap.metrics.unit_gradients import unit_gradients
from nap.metrics.weight_metrics import effective_lr
from nap.report import Report, analyze
from nap.scan_advice import Advice, advise
from nap.scan_files import report_files, save_all
from nap.scan_page import page, text_tables

QUANTILES = 33
"""Singular values of a weight that a report holds: its quantiles, largest first, with the median in the middle."""
Loss = Callable[[Any], Tensor]


@dataclass
class WeightScan:
    """One weight matrix; of a convolution [output channels, everything else]."""

    name: str
    shape: list[int]
    role: str
    """scale-invariant, scale matters, output, maybe output, left out: as `nap.analyze` finds them."""
    reason: str
    norm: float
    """Frobenius norm; of a noisy layer that of μ and σ together."""
    growth: float | None
    """The norm over the initial one, if that is known."""
    elr: float | None
    """The effective learning rate, if the optimiser is known."""
    stable_rank: float
    erank: float
    """Effective rank (Roy & Vetterli 2007)."""
    full_rank: int
    """The most that a rank can be."""
    singular_values: list[float]
    """Quantiles of the singular values, largest first."""


@dataclass
class LayerScan:
    """The units behind one nonlinearity, on the batch. Shares are of units, 0 to 1."""

    name: str
    units: int
    dead: float
    dormant: float
    """By activation: `nap.dormant_sokar`, at most 0.025 of the layer's mean."""
    dormant_by_gradient: float
    """`nap.dormant_grama`, at most 0.01 of the layer's mean."""
    erank: float
    """Effective rank of the features."""
    srank: float
    """Singular values that hold 99% of their sum."""
    full_rank: int
    """The most that a rank can be: the inputs or the features, whichever are fewer."""


@dataclass
class ScanReport:
    """What `scan_model` found; as text, as data and as a page."""

    title: str
    parameters: int
    weights: list[WeightScan] = field(default_factory=list)
    layers: list[LayerScan] = field(default_factory=list)
    untrained: list[LayerScan] = field(default_factory=list)
    """The same of the untrained model, on the same batch: dead units and low ranks may be there from the start."""
    advice: list[Advice] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What was not measured, and why."""

    def table(self, width: int = 100) -> str:
        """Tables for a terminal of that many columns; a narrow one shows fewer figures."""
        return text_tables(self, width)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON: null stands for a number that is not finite or not known."""
        return _plain(asdict(self))

    def html(self) -> str:
        """One page without any other file."""
        return page(self)

    @staticmethod
    def files(out: str | Path) -> list[Path]:
        """What `save` writes to `out`: scan.json and scan.html in a folder, or one file that ends as they do.

        Raises ValueError for a place where they cannot be.
        """
        return report_files(Path(out))

    def save(self, out: str | Path) -> list[Path]:
        """Writes those files, and returns them; on an OSError those that were there are as they were."""
        return save_all(
            {
                file: self.html() if file.suffix == ".html" else json.dumps(self.as_dict(), indent=2) + "\n"
                for file in self.files(out)
            }
        )


def scan_model(
    model: nn.Module,
    batch: Tensor | tuple[Any, ...] | None = None,
    *,
    optimizer: optim.Optimizer | None = None,
    initial_norms: Mapping[str, Tensor] | None = None,
    untrained: nn.Module | None = None,
    loss: Loss | None = None,
    layers: Iterable[str] | Mapping[str, int] | None = None,
    outputs: Iterable[str] | None = None,
    title: str = "",
) -> ScanReport:
    """Measures a model as it is, and changes nothing of it.

    batch: inputs for the units and ranks of features, a tensor or a tuple of arguments; without it only weights.
    optimizer: owns the weights; gives their effective learning rates.
    initial_norms: norms of weights by name when training began, e.g. `Projection.initial_norms`.
    untrained: the model before training, or one drawn as it was; the rules on units and features then need a change.
    loss: of the model's output, for the gradients; without it a fixed random sum of the outputs (`nap.unit_gradients`).
    layers, outputs: as `Probe` and `nap.analyze` take them.

    Raises ValueError for a weight that is not finite, and for what the parts raise.
    """
    weights = find_weights(model, free=True)
    norms = dict(zip(weights, joint_norms([weight.values() for weight in weights.values()]), strict=True))
    if broken := [name for name, norm in norms.items() if not norm.isfinite()]:
        raise ValueError(f"{broken[0]} holds NaN or infinity: training diverged, scan an earlier checkpoint")
    analysis = analyze(model, batch, outputs)
    rates = {} if optimizer is None else effective_lr(model, optimizer)
    report = ScanReport(title or type(model).__name__, sum(parameter.numel() for parameter in model.parameters()))
    report.weights = [
        _weight(weight, norms[name], rates.get(name), (initial_norms or {}).get(name), analysis)
        for name, weight in weights.items()
    ]
    if batch is None:
        report.notes.append("No batch: units and ranks of features are not measured.")
    elif unseen := _unseen(model, layers):
        report.notes.append(f"Units and ranks of features are not measured: {unseen}.")
    else:
        report.layers = _layers(model, batch, loss, layers)
        report.untrained = [] if untrained is None else _layers(untrained, batch, loss, layers)
    if optimizer is None:
        report.notes.append("No optimiser: effective learning rates (ELR) are not known.")
    report.notes += [f"{name}: {why}." for name, why in analysis.not_handled]
    report.notes += [f"{name}: {why}; not measured." for name, why in analysis.left_out.items() if name not in weights]
    report.advice = advise(report)
    return report


def _weight(weight: Weight, norm: Tensor, rate: Tensor | None, initial: Tensor | None, report: Report) -> WeightScan:
    role, reason = _role(weight.name, report)
    matrix = weight.value().movedim(weight.out_axis, 0).flatten(1)
    sigma = singular_values(matrix)
    at = torch.linspace(1, 0, QUANTILES, dtype=sigma.dtype, device=sigma.device)
    return WeightScan(
        name=weight.name,
        shape=list(weight.value().shape),
        role=role,
        reason=reason,
        norm=float(norm),
        growth=float(norm / initial) if initial is not None and initial.numel() == 1 and initial > 0 else None,
        elr=None if rate is None else float(rate),
        stable_rank=float(stable_rank_of(sigma)),
        erank=float(erank_of(sigma)),
        full_rank=min(matrix.shape),
        singular_values=torch.quantile(sigma, at).tolist(),
    )


def _role(name: str, report: Report) -> tuple[str, str]:
    if name in report.outputs_unknown:
        return "maybe output", "nothing is known of what follows"
    if name in report.outputs:
        return "output", ""
    if name in report.scale_invariant:
        return "scale-invariant", ""
    if name in report.projected_only:
        return "scale matters", report.projected_only[name]
    return "left out", report.left_out.get(name, "")


def _unseen(model: nn.Module, layers: Any) -> str:
    """Why the features of a model cannot be watched, if no layers were named."""
    try:
        feature_layers(model, layers)
    except ValueError as error:
        if layers is None:
            return str(error)
        raise
    return ""


def _layers(model: nn.Module, batch: Any, loss: Loss | None, layers: Any) -> list[LayerScan]:
    names = ("dead_units", "dormant_sokar", "erank_roy", "srank_kumar")
    probe = Probe(model, batch, names, layers)
    found = probe.measure()
    gradients = unit_gradients(model, batch, loss, layers)
    return [
        LayerScan(
            name=name,
            units=gradient.shape[1],
            dead=float(found[f"dead_units/{name}"]),
            dormant=float(found[f"dormant_sokar_0.025/{name}"]),
            dormant_by_gradient=float(dormant_grama(gradient)),
            erank=float(found[f"erank_roy/{name}"]),
            srank=float(found[f"srank_kumar_0.01/{name}"]),
            full_rank=min(probe.shapes[name]),
        )
        for name, gradient in gradients.items()
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
