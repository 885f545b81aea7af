"""The study's experiments: named lists of runs, each a name and the settings in which it differs from the defaults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from studies.arms import Arm, over_seeds

SEEDS = (0, 1, 2, 3, 4)
SEARCH_SEEDS = (100,)
QUARTER = 3_500
"""Updates in a phase of the shorter experiments; the paper has 14,000."""


def search() -> list[Arm]:
    """Settings that the paper leaves open, on seeds of their own and a quarter of the length: peak, scales, strides."""
    short: dict[str, Any] = {"phase_updates": QUARTER}
    arms = [
        arm
        for lr in (1e-3, 3e-3, 1e-2)
        for nap in (True, False)
        for arm in over_seeds(f"{'nap' if nap else 'plain'}-lr{lr:g}", SEARCH_SEEDS, **short, nap=nap, lr=lr)
    ]
    arms += over_seeds("nap-joint", SEARCH_SEEDS, **short, nap=True, nap_affine="joint")
    arms += over_seeds("nap-hidden512", SEARCH_SEEDS, **short, nap=True, hidden=512)
    return arms + over_seeds("nap-strides212", SEARCH_SEEDS, **short, nap=True, strides="2,1,2")


def headline() -> list[Arm]:
    """Projected against unconstrained, both re-warmed when the data change, from a tenth and from all of the data."""
    return [
        arm
        for seed in SEEDS
        for name, nap in (("nap", True), ("plain", False))
        for fraction in (0.1, 1.0)
        for arm in over_seeds(f"{name}-from{100 * fraction:g}", (seed,), nap=nap, fraction=fraction)
    ]


SUITES: dict[str, Callable[[], list[Arm]]] = {"search": search, "headline": headline}
