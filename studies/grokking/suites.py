"""The study's experiments: named lists of runs, each a name and the settings in which it differs from the defaults."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

from studies.arms import Arm, over_seeds

INVARIANT = "embedding,query,key,attention-output,mlp,mlp-output,final"
"""Norm positions that make every weight matrix except the head scale-invariant; tokens and positions as a pair."""
FREE: dict[str, Any] = {"norm": "none", "projection": "off", "schedule": "constant", "anneal": 10_000}
"""Neither norms nor projection, at a constant rate: the setting of the other methods."""


def rewarm() -> list[Arm]:
    """Re-warming after delays, 3 seeds and once after 100,000 updates (arXiv 2507.20057, figure 3 left)."""
    arms = [arm for delay in (0, 2_000, 20_000) for arm in over_seeds(f"delay{delay}", delay=delay)]
    return arms + over_seeds("delay100000", (0,), delay=100_000)


def controls() -> list[Arm]:
    """Controls that must not grok: a low peak, and norms with projection but no scale decay. And S5, as a trial."""
    return [
        *over_seeds("peak0.001", (0, 1), lr=1e-3),
        *over_seeds("no-scale-decay", (0, 1), scale_decay=0.0),
        *over_seeds("s5", (0,), operation="s5"),
    ]


def figure2() -> list[Arm]:
    """Rate, weight decay and projection every 100 updates or never, without norms (figure 2 left)."""
    cells = product((1e-2, 1e-3, 1e-4), (0.01, 1.0), ("off", "frobenius"))
    return [
        arm
        for lr, decay, projection in cells
        for arm in over_seeds(
            f"lr{lr:g}-wd{decay:g}-{'free' if projection == 'off' else 'projected'}",
            (0,),
            **FREE | {"lr": lr, "weight_decay": decay, "projection": projection, "project_every": 100, "anneal": 8_000},
        )
    ]


def baselines() -> list[Arm]:
    """Other ways to grok on the same task and seeds, against re-warming at once.

    Rate, betas, decay and filter are their authors'; data, network, batch of 512 and warm-up are ours. Omnigrok's and
    the AdamW runs of that line of work take all pairs in every batch, in float64, on a network without norms; the
    networks of AdamW's and Grokfast's first papers have norms, so those two are tried with and without.
    """
    own: dict[str, Any] = {"schedule": "constant", "lr": 1e-3, "warmup": 10, "anneal": 10_000, "beta2": 0.98}
    own |= {"projection": "off"}
    grokfast: dict[str, Any] = {"optimizer": "grokfast-ema", "weight_decay": 0.005, "coupled_decay": True}
    return [
        *over_seeds("nap", delay=0),
        *over_seeds("adamw", **own, norm="none", weight_decay=1.0),
        *over_seeds("adamw-norms", **own, weight_decay=1.0, scale_decay=1.0),
        *over_seeds("omnigrok", **own, norm="none", optimizer="omnigrok"),
        *over_seeds("grokfast-ema", **own, **grokfast, norm="none"),
        *over_seeds("grokfast-ema-norms", **own, **grokfast, scale_decay=0.005),
    ]


def norm_or_elr() -> list[Arm]:
    """Norm to {1/4, 1, 4} of itself and lr / norm to {1/4, 1, 4} of itself, over the budget.

    Only the MLP's first matrix is scale-invariant here: elsewhere the norm changes the function too. The rate of the
    norms' scales, and with it their decay, follows the second factor alone.
    """
    return _norm_or_elr({})


def norm_or_elr_invariant() -> list[Arm]:
    """The same on a network that norms make nearly scale-invariant; the rate of the norms' scales stays."""
    return _norm_or_elr({"norm_positions": INVARIANT, "elr_of": "weights"})


def _norm_or_elr(settings: dict[str, Any]) -> list[Arm]:
    constant = settings | {"schedule": "constant", "lr": 3e-3, "anneal": 5_000}
    return [
        arm
        for norm, elr in product((0.25, 1.0, 4.0), repeat=2)
        for arm in over_seeds(f"norm{norm:g}-elr{elr:g}", **constant, norm_end=norm, elr_end=elr)
    ]


def mlp() -> list[Arm]:
    """The architecture check: an MLP, re-warmed, and with a peak too low.

    The MLP does not know that order does not matter and needs more pairs: with 0.2 or 0.4 of them it memorises.
    """
    half: dict[str, Any] = {"model": "mlp", "fraction": 0.5}
    return [*over_seeds("mlp", **half), *over_seeds("mlp-peak0.001", (0,), **half, lr=1e-3)]


def choices() -> list[Arm]:
    """Choices that the paper leaves open: batch size, low rate and length of the anneal."""
    two = (0, 1)
    arms = [arm for size in (128, 1024) for arm in over_seeds(f"batch{size}", two, batch_size=size)]
    arms += over_seeds("batch-all", (0,), batch_size=0)
    arms += [arm for low in (3e-5, 3e-4) for arm in over_seeds(f"low{low:g}", two, low_lr=low, delay=5_000)]
    return arms + [arm for length in (4_000, 20_000) for arm in over_seeds(f"anneal{length}", two, anneal=length)]


SUITES: dict[str, Callable[[], list[Arm]]] = {
    "rewarm": rewarm,
    "controls": controls,
    "figure2": figure2,
    "baselines": baselines,
    "norm-or-elr": norm_or_elr,
    "norm-or-elr-invariant": norm_or_elr_invariant,
    "mlp": mlp,
    "choices": choices,
}
