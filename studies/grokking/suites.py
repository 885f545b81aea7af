"""The study's experiments: named lists of runs, each a name and the settings in which it differs from the defaults."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

from studies.arms import SEEDS, Arm, over_seeds

INVARIANT = "embedding,query,key,attention-output,mlp,mlp-output,final"
"""Norm positions that make every weight matrix except the head scale-invariant; tokens and positions as a pair."""
EARLIER: dict[str, Any] = {"anneal": 6_000}
"""Setting of all runs here that name no other. The command's own default is shorter, and ends in the same accuracy."""
FIVE = (0, 1, 2, 3, 4)
CLAMPED_TASK: dict[str, Any] = {"fraction": 0.4, "anneal": 8_000}
HELD_NORMS = (0.75, 1.0, 1.25, 1.5, 2.0)
HELD_RATES = (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3)
FREE: dict[str, Any] = {"norm": "none", "projection": "off", "schedule": "constant", "anneal": 10_000}
"""Neither norms nor projection, at a constant rate: the setting of the other methods."""


def _runs(name: str, seeds: tuple[int, ...] = SEEDS, **settings: Any) -> list[Arm]:
    return over_seeds(name, seeds, **EARLIER | settings)


def rewarm() -> list[Arm]:
    """Re-warming after delays, 3 seeds and once after 100,000 updates (arXiv 2507.20057, figure 3 left)."""
    arms = [arm for delay in (0, 2_000, 20_000) for arm in _runs(f"delay{delay}", delay=delay)]
    return arms + _runs("delay100000", (0,), delay=100_000)


def controls() -> list[Arm]:
    """Controls that must not grok: a low peak, and norms with projection but no scale decay. And S5, as a trial."""
    return [
        *_runs("peak0.001", (0, 1), lr=1e-3),
        *_runs("no-scale-decay", (0, 1), scale_decay=0.0),
        *_runs("s5", (0,), operation="s5"),
    ]


def figure2() -> list[Arm]:
    """Rate, weight decay and projection every 100 updates or never, without norms (figure 2 left)."""
    cells = product((1e-2, 1e-3, 1e-4), (0.01, 1.0), ("off", "frobenius"))
    return [
        arm
        for lr, decay, projection in cells
        for arm in _runs(
            f"lr{lr:g}-wd{decay:g}-{'free' if projection == 'off' else 'projected'}",
            (0,),
            **FREE | {"lr": lr, "weight_decay": decay, "projection": projection, "project_every": 100, "anneal": 8_000},
        )
    ]


def baselines() -> list[Arm]:
    """Other ways to grok on the same task, against re-warming at once; x + y mod 117, 20% of the pairs."""
    return _methods({})


def baselines_mul() -> list[Arm]:
    """The same on x y mod 97 with half of the pairs, the task of Clip to Grok."""
    return _methods({"operation": "mul", "modulus": 97, "fraction": 0.5})


def _methods(task: dict[str, Any]) -> list[Arm]:
    """Every method at a constant rate, without a delay.

    Rate, betas, decay and filter are their authors'; data, network, batch of 512 and warm-up are ours. Omnigrok's and
    the AdamW runs of that line of work take all pairs in every batch, in float64, on a network without norms; the
    networks of AdamW's and Grokfast's first papers have norms, so those two are tried with and without. StableMax is
    published on an MLP without norms, and is tried with and without. Muon has the decay per update of AdamW on its own
    matrices; its rate is ours, and so are those of MuonH and AdamH, of four tried on seed 100.
    """
    own: dict[str, Any] = {"schedule": "constant", "lr": 1e-3, "warmup": 10, "anneal": 10_000, "beta2": 0.98}
    own |= task
    free = own | {"projection": "off"}
    bare = free | {"scale_decay": 0.0}
    grokfast: dict[str, Any] = {"optimizer": "grokfast-ema", "weight_decay": 0.005, "coupled_decay": True}
    muon = {name: value for name, value in own.items() if name != "beta2"} | {"optimizer": "muon"}
    stablemax: dict[str, Any] = {"loss": "stablemax", "lr": 1e-2, "beta2": 0.999}
    arms: dict[str, dict[str, Any]] = {
        "nap": {"delay": 0} | task,
        "adamw": free | {"norm": "none", "weight_decay": 1.0},
        "adamw-norms": free | {"weight_decay": 1.0, "scale_decay": 1.0},
        "omnigrok": free | {"norm": "none", "optimizer": "omnigrok"},
        "grokfast-ema": free | grokfast | {"norm": "none"},
        "grokfast-ema-norms": free | grokfast | {"scale_decay": 0.005},
        "clip": own | {"projection": "clip", "beta2": 0.97, "scale_decay": 0.0},
        "muon": muon | {"projection": "off", "weight_decay": 0.1},
        "muonh": muon | {"projection": "hyperball", "lr": 1e-2},
        "adamh": own | {"projection": "hyperball", "lr": 3e-2},
        "orthogonal": bare | {"orthogonal_gradient": True, "beta2": 0.99},
        "stablemax": bare | stablemax,
        "stablemax-no-norms": free | stablemax | {"norm": "none"},
        "adam": bare,
    }
    return [arm for name, settings in arms.items() for arm in _runs(name, FIVE, **settings)]


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
        for arm in _runs(f"norm{norm:g}-elr{elr:g}", **constant, norm_end=norm, elr_end=elr)
    ]


def norm_or_elr_clamped() -> list[Arm]:
    """Norms held at five multiples of the initial ones from the start, and five constant rates, with norms and without.

    arXiv 2606.13753 holds the global norm of a network without norms at rho times W_c, the norm at which networks with
    weight decay generalise: `free` finds it. Here each matrix is held. With norms every weight matrix but the output
    layer is scale-invariant; that layer keeps its norm, since its norm is the scale of the logits, and the norms'
    scales keep one rate.
    """
    shared: dict[str, Any] = {"schedule": "constant", "warmup": 10, "beta2": 0.98, **CLAMPED_TASK}
    plain = shared | {"norm": "none"}
    invariant = shared | {"norm_positions": INVARIANT, "hold_norm_of": "inner", "scale_lr": 1e-3}
    arms = _runs("free", **plain, projection="off", weight_decay=1.0, lr=1e-3)
    for norm, lr in product(HELD_NORMS, HELD_RATES):
        cell = f"norm{norm:g}-lr{lr:g}"
        scope = {} if norm == 1 else {"hold_norm_at": norm}
        arms += _runs(f"plain-{cell}", **plain | scope, lr=lr)
        own = {name: value for name, value in invariant.items() if norm != 1 or name != "hold_norm_of"}
        arms += _runs(f"norms-{cell}", **own | scope, lr=lr)
    return arms


def mlp() -> list[Arm]:
    """The architecture check: an MLP, re-warmed, and with a peak too low.

    The MLP does not know that order does not matter and needs more pairs: with 0.2 or 0.4 of them it memorises.
    """
    half: dict[str, Any] = {"model": "mlp", "fraction": 0.5}
    return [*_runs("mlp", **half), *_runs("mlp-peak0.001", (0,), **half, lr=1e-3)]


def choices() -> list[Arm]:
    """Choices that the paper leaves open: batch size, low rate and length of the anneal."""
    two = (0, 1)
    arms = [arm for size in (128, 1024) for arm in _runs(f"batch{size}", two, batch_size=size)]
    arms += _runs("batch-all", (0,), batch_size=0)
    arms += [arm for low in (3e-5, 3e-4) for arm in _runs(f"low{low:g}", two, low_lr=low, delay=5_000)]
    return arms + [arm for length in (4_000, 20_000) for arm in _runs(f"anneal{length}", two, anneal=length)]


SUITES: dict[str, Callable[[], list[Arm]]] = {
    "rewarm": rewarm,
    "controls": controls,
    "figure2": figure2,
    "baselines": baselines,
    "baselines-mul": baselines_mul,
    "norm-or-elr": norm_or_elr,
    "norm-or-elr-invariant": norm_or_elr_invariant,
    "norm-or-elr-clamped": norm_or_elr_clamped,
    "mlp": mlp,
    "choices": choices,
}
