"""What to try, by rules of a figure, a threshold and a reason. They are hints: no rule has been tuned on a task."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nap.scanning import LayerScan, ScanReport, WeightScan

UNITS = 0.25
"""Share of a layer's units: above it a layer has lost a quarter of its width."""
CHANGE = 0.1
"""How much more that is than in the untrained model, where it is known; of ranks, half of the untrained one."""
RANK = 0.05
"""Effective rank over the most that is possible."""
LEAST_RANK = 32
"""The rules of ranks leave smaller matrices out: an effective rank is at least 1."""
GROWTH = 2.0
"""Norm over the initial norm: at 2 Adam turns the weight half as fast as at first, SGD a quarter as fast."""
SPREAD = 100.0
"""Largest over smallest effective learning rate of the weights that are no outputs."""


@dataclass
class Advice:
    """One rule that applies: where, what was found, and what to try."""

    where: str
    found: str
    attempt: str


def advise(report: ScanReport) -> list[Advice]:
    """The rules that apply, those of layers first."""
    untrained = {layer.name: layer for layer in report.untrained}
    normalised = any(weight.role == "scale-invariant" for weight in report.weights)
    found = [advice for layer in report.layers for advice in _of_layer(layer, untrained.get(layer.name), normalised)]
    found += [advice for weight in report.weights for advice in _of_weight(weight)]
    return found + list(_of_rates(report.weights))


def _of_layer(layer: LayerScan, first: LayerScan | None, normalised: bool) -> Iterator[Advice]:
    def lost(share: float, at_first: float | None) -> bool:
        return share > UNITS and (at_first is None or share >= at_first + CHANGE)

    def shown(share: float, at_first: float | None, state: str) -> str:
        before = "" if at_first is None else f"; untrained {at_first:.0%}"
        return f"{share:.0%} of the units are {state} (over {UNITS:.0%}{before})"

    dead, dormant, by_gradient, erank = (
        (None, None, None, None)
        if first is None
        else (first.dead, first.dormant, first.dormant_by_gradient, first.erank)
    )
    if lost(layer.dead, dead):
        yield Advice(
            layer.name,
            shown(layer.dead, dead, "0 on every input"),
            "A dead ReLU has no gradient and stays dead: re-initialise such units (ReDo, arXiv 2302.12902)"
            + (
                "."
                if normalised
                else ", or train with a norm before each nonlinearity (nap.normalize, nap.Projection)."
            ),
        )
    else:
        if lost(layer.dormant, dormant):
            yield Advice(
                layer.name,
                shown(layer.dormant, dormant, "dormant by activation"),
                "They add little to the output: re-initialise them from time to time (ReDo, arXiv 2302.12902).",
            )
        if lost(layer.dormant_by_gradient, by_gradient):
            yield Advice(
                layer.name,
                shown(layer.dormant_by_gradient, by_gradient, "dormant by gradient"),
                "They hardly learn, however active they are: re-initialise by gradient (ReGraMa, arXiv 2505.24061).",
            )
    if _is_low(layer.erank, layer.full_rank) and (erank is None or layer.erank < erank / 2):
        before = "" if erank is None else f"; untrained {erank:.1f}"
        yield Advice(
            layer.name,
            f"the features have effective rank {layer.erank:.1f} of {layer.full_rank} (below {RANK:.0%}{before})",
            "The layer sees few differences between inputs: make sure that the batch is diverse; then fewer updates "
            "per sample, resets of the last layers, or a penalty on feature rank (arXiv 2010.14498).",
        )


def _of_weight(weight: WeightScan) -> Iterator[Advice]:
    if _is_low(weight.erank, weight.full_rank):
        yield Advice(
            weight.name,
            f"the weight has effective rank {weight.erank:.1f} of {weight.full_rank} (below {RANK:.0%})",
            "Few directions carry the layer: shrink and perturb, or a reset, gives it new ones (arXiv 1910.08475).",
        )
    if weight.growth is not None and weight.growth > GROWTH:
        yield Advice(
            weight.name,
            f"the norm is {weight.growth:.1f} times the initial one (over {GROWTH:g})",
            "The effective learning rate fell with it: project the weights (nap.Projection) and let a schedule "
            "lower the rate, or re-warm the learning rate (arXiv 2507.20057).",
        )


def _of_rates(weights: list[WeightScan]) -> Iterator[Advice]:
    rates = {w.name: w.elr for w in weights if w.elr and math.isfinite(w.elr) and "output" not in w.role}
    if not rates:
        return
    least, most = min(rates, key=rates.__getitem__), max(rates, key=rates.__getitem__)
    if rates[most] > SPREAD * rates[least]:
        yield Advice(
            f"{most}, {least}",
            f"their effective learning rates differ {rates[most] / rates[least]:.0f} times (over {SPREAD:g})",
            "One learning rate turns them at very different speeds: rates by layer "
            '(nap.param_groups(model, lr, rates="even-ratio")), or one norm (nap.Projection(model, radius="unit")).',
        )


def _is_low(rank: float, full: int) -> bool:
    return full >= LEAST_RANK and rank < RANK * full
