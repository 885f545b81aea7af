"""The study's experiments: named lists of runs, each a name and the settings in which it differs from the defaults."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

from studies.arms import Arm, over_seeds

SEEDS = (0, 1, 2, 3, 4)
SEARCH_SEEDS = (100,)
QUARTER = 3_500
"""Updates in a phase of the shorter experiments; the paper has 14,000."""
TENTH = 700
"""Updates in each of the ten phases of increments, as many in all."""

CONSTANT: dict[str, Any] = {"schedule": "constant", "lr": 1e-3}
"""A rate that is never annealed, at a level that can be kept."""

# Settings are published or lie in a published range, except spectral's strength; none was searched on this task.
# None replaces weights at a phase's last update, since the phase is evaluated after it.
METHODS: dict[str, str] = {
    # arXiv 2205.07802: the head; once, when the data have changed
    "reset": f"reset:period={QUARTER + 1}",
    # arXiv 1910.08475: 0.6 of the old weights, when the data have changed; the rest are fresh ones, as in SR-SPR
    "shrink-perturb": f"shrink-perturb:period={QUARTER + 1},strength=0.4",
    # arXiv 2302.12902: all along, every 1,000 updates, with the larger of its thresholds
    "redo": "redo:period=1001,tau=0.1",
    # arXiv 2410.20098: all along, with the settings of arXiv 2602.08040 for ResNet-18
    "snr": "snr:percentile=0.99,revise=16",
    # Nature 632:768: all along, with the settings of Continual ImageNet, which has a small CNN and short tasks as here
    "cbp": "cbp:rate=3e-4,maturity=100",
    # arXiv 2602.08040: once, when the data have changed
    "fire": f"fire:at={QUARTER + 1}",
    # arXiv 2308.11958: a penalty, all along; within the range that is swept, 1e-5 to 1e-2
    "l2-init": "l2-init:strength=1e-3",
    # arXiv 2303.07507: structure; widths stay, so that most weights double in number
    "crelu": "crelu",
    # arXiv 2305.15555: once, at the switch; the outputs stay as they are
    "injection": f"injection:at={QUARTER}",
    # arXiv 2406.02596: every 10 passes, here nearly so through all images, and at a phase's end: the average is judged
    "hare-tortoise": f"hare-tortoise:mu=0.999,period={QUARTER // 2}",
    # arXiv 2406.06811: a penalty, all along, at this project's strength: none was found
    "spectral": "spectral:strength=1e-4,k=2",
    # arXiv 2412.07224: a penalty, all along, at its larger strength, which arXiv 2602.08040 has too
    "parseval": "parseval:strength=1e-3",
    # arXiv 2407.01704: all along; kappa is the authors' default
    "weight-clipping": "weight-clipping:kappa=1",
    # arXiv 2410.23495: once; ten updates late, for its gradients to be 97% those of the new data, as they are there
    "dash": f"dash:alpha=0.3,shrinkage=0.3,period={QUARTER + 10}",
    # arXiv 1711.05101: all along; of the strengths in arXiv 2406.02596, 1e-4 to 1, one with an effect in 7,000 updates
    "weight-decay": "weight-decay:strength=0.1",
    # arXiv 2306.17833 and 2412.17113: once, at the switch, in place of a change of the target network; weights stay
    "optimizer-reset": f"optimizer-reset:at={QUARTER}",
    "adam-rel": f"adam-rel:at={QUARTER}",
    # arXiv 2506.00592: a penalty, all along, with the values for MinAtar but the window, which is as long as a phase
    "c-chain": f"c-chain:after=100,window={QUARTER}",
    # arXiv 2204.09560: a penalty, all along, with the default values of a port
    "infer": "infer",
    # arXiv 2505.24061: all along, with the values of its code
    "regrama": "regrama:period=1001",
    # arXiv 2404.00781: all along, with the default values of its code
    "upgd": "upgd:sigma=1e-3,beta=0.999,decay=1e-3",
}
"""Methods against loss of plasticity, each with the settings of a supervised paper where there is one."""


def search() -> list[Arm]:
    """Settings that the paper leaves open, on a seed of their own and a quarter of the length.

    The peak, what a restart does to Adam's moments, a warm-up of each cycle, the axes of the norms; a constant rate; a
    network without norms.
    """
    jump: dict[str, Any] = {"lr_warmup": 0}
    stale: dict[str, Any] = jump | {"restart_moments": False}
    rise: dict[str, Any] = {"restart_moments": False, "lr_warmup": 500, "first_warmup": 500}
    choices: dict[str, dict[str, Any]] = {
        "": {},
        "-from100": {"fraction": 1.0},
        "-jump": jump,
        "-jump-lr5e-3": jump | {"lr": 5e-3},
        "-jump-lr1e-2": jump | {"lr": 1e-2},
        "-jump-lr5e-3-from100": jump | {"lr": 5e-3, "fraction": 1.0},
        "-stale": stale,
        "-stale-from100": stale | {"fraction": 1.0},
        "-stale-channels": stale | {"norm_over": "channels"},
        "-stale-lr1e-3": stale | {"lr": 1e-3},
        "-stale-lr1e-3-from100": stale | {"lr": 1e-3, "fraction": 1.0},
        "-stale-lr5e-3": stale | {"lr": 5e-3},
        "-stale-lr5e-3-from100": stale | {"lr": 5e-3, "fraction": 1.0},
        "-rise": rise,
        "-rise-channels": rise | {"norm_over": "channels"},
        "-rise-lr1e-2": rise | {"lr": 1e-2},
        "-constant-lr1e-3": {"schedule": "constant", "lr": 1e-3},
        "-constant-lr3e-4": {"schedule": "constant", "lr": 3e-4},
    }
    found = {
        name + suffix: settings | {"nap": name == "nap"}
        for suffix, settings in choices.items()
        for name in ("nap", "plain")
    }
    for lr, fraction in product((3e-4, 1e-3, 3e-3), (0.1, 1.0)):
        found[f"no-norms-lr{lr:g}-from{100 * fraction:g}"] = {"norm_over": "none", "lr": lr, "fraction": fraction}
    return _each(found, seeds=SEARCH_SEEDS, phase_updates=QUARTER)


def headline() -> list[Arm]:
    """Projected against unconstrained, all re-warmed when the data change, from a tenth and from all of the data.

    Unconstrained without norms and, after these pairs, with norms as the projected network has them.
    """
    kinds: dict[str, dict[str, Any]] = {"nap": {"nap": True}, "no-norms": {"norm_over": "none"}, "plain": {}}
    return [
        arm
        for names in (("nap", "no-norms"), ("plain",))
        for seed in SEEDS
        for name, fraction in product(names, (0.1, 1.0))
        for arm in over_seeds(f"{name}-from{100 * fraction:g}", (seed,), fraction=fraction, **kinds[name])
    ]


def arms() -> list[Arm]:
    """All ways to go on, on one protocol; a method acts on the unconstrained network, with a restart at the switch.

    Projected or not, with CUSUM or one cycle, is figure 5 (right) of arXiv 2507.20057.
    """
    free: dict[str, dict[str, Any]] = {
        "plain-from100": {"fraction": 1.0},
        "cold": {"at_switch": "cold", "lr_warmup": 0},  # new weights begin at the peak, as those of its reference
        "warm-from100": CONSTANT | {"fraction": 1.0},
        "warm": CONSTANT,
        "warm-single-cycle": {"cycles": 1},
        "fresh-optimizer": CONSTANT | {"at_switch": "fresh-optimizer"},
        "no-norms-from100": {"norm_over": "none", "lr": 1e-3, "fraction": 1.0},
        "no-norms": {"norm_over": "none", "lr": 1e-3},
        "lr-restart": {},
        "lr-restart-cusum": {"schedule": "cusum", "cycles": 2},
    }
    projected: dict[str, dict[str, Any]] = {
        "nap-from100": {"fraction": 1.0},
        "nap-constant-from100": CONSTANT | {"fraction": 1.0},
        "nap-constant": CONSTANT,
        "nap-single-cycle": {"cycles": 1},
        "nap-rewarm": {},
        "nap-five-cycles": {"cycles": 5},
        "nap-cusum": {"schedule": "cusum", "cycles": 2},
        # restarts of half a phase: they do not know where it ends
        "nap-cusum-short": {"schedule": "cusum", "cycles": 4},
    }
    found = free | {name: settings | {"nap": True} for name, settings in projected.items()}
    found |= {name: {"plasticity": spec} for name, spec in METHODS.items()}
    return _each(found, phase_updates=QUARTER)


def increments() -> list[Arm]:
    """A tenth more of the images in each of ten phases."""
    return _each(
        {
            "plain-constant-from100": CONSTANT | {"fraction": 1.0},
            "plain-constant": CONSTANT,
            "plain-cyclic-from100": {"fraction": 1.0},
            "plain-cyclic": {},
            "cold": {"at_switch": "cold", "lr_warmup": 0},
            "nap-constant-from100": CONSTANT | {"nap": True, "fraction": 1.0},
            "nap-constant": CONSTANT | {"nap": True},
            "nap-cyclic-from100": {"nap": True, "fraction": 1.0},
            "nap-cyclic": {"nap": True},
            # restarts of half a phase: it scores the loss again 500 updates after an alarm, in time for the next switch
            "nap-cusum": {"nap": True, "schedule": "cusum", "cycles": 20},
            # within nine updates after each switch
            "shrink-perturb": {"plasticity": f"shrink-perturb:period={TENTH + 1},strength=0.4"},
        },
        protocol="increments",
        phase_updates=TENTH,
    )


def rates() -> list[Arm]:
    """Learning rates by layer (arXiv 2507.20057, figure 5 left), from a tenth and from all of the data.

    Slow features also with a second peak ten times the first, as in figure 13: at it the features have the rate that
    they have in the other arms, and the head ten times that.
    """
    kinds = [("constant", 1), ("fast-features", 1), ("slow-features", 1), ("slow-features", 10), ("even-ratio", 1)]
    found = {
        f"{rates}{'-peak10' if peak == 10 else ''}-from{100 * fraction:g}": {
            "rates": rates,
            "later_peak": peak,
            "fraction": fraction,
        }
        for (rates, peak), fraction in product(kinds, (0.1, 1.0))
    }
    return _each(found, nap=True, phase_updates=QUARTER)


def cusum() -> list[Arm]:
    """Re-warmed when a rise of the loss is detected; against nap-from10 and nap-from100 of `headline`.

    A restart is as long as a phase, as in `headline`: the first one ends at the switch, and the detector listens from
    its middle on. `nap-cusum-short` of `arms` has restarts half as long, which do not end at the switch.
    """
    return over_seeds("nap-cusum", SEEDS, nap=True, schedule="cusum", cycles=2)


def tasks() -> list[Arm]:
    """The question on other tasks: with augmentation, on the other protocols, with a narrow ResNet-18."""
    other: dict[str, dict[str, Any]] = {
        "augmented": {"augment": True},
        "ash50": {"protocol": "ash50"} | CONSTANT,
        "lee10noisy": {"protocol": "lee10noisy"},
        "resnet18": {"network": "resnet18", "width": 8, "batch_size": 50},
    }
    kinds: dict[str, dict[str, Any]] = {"nap": {"nap": True}, "plain": {}}
    found = {
        f"{task}-{name}{'-from100' * all_data}": other[task] | kinds[name] | ({"fraction": 1.0} if all_data else {})
        for task, name, all_data in product(other, kinds, (False, True))
    }
    return _each(found, phase_updates=QUARTER)


def fire() -> list[Arm]:
    """The eleven arms of the warm-start script of FIRE's authors (arXiv 2602.08040), forks of one first phase a seed.

    Theirs has 19,600 updates in a phase, ResNet-18 of width 64 with batch norm, gradients clipped at 0.5 and a warm-up
    of its own, and pulls l2-init's weights to the initial ones, not to those at the change.
    """
    switch = 1_400
    trunk: dict[str, Any] = CONSTANT | {"network": "resnet18", "width": 8, "batch_size": 256}
    trunk |= {"at_switch": "fresh-optimizer", "phase_updates": switch}
    methods = {
        "shrink-perturb": "shrink-perturb:at=now,strength=0.8",
        "dash": f"dash:alpha=0.3,shrinkage=0.05,period={switch + 10}",
        "parseval": "parseval:strength=1e-3,scale=1",
        "cbp": "cbp:rate=1e-4,maturity=1000",
        "redo": "redo:period=196,tau=0.5",  # a pass through the images
        "l2-init": "l2-init:strength=1e-3",
        "snr": "snr:percentile=0.99,revise=16",
        "fire": "fire:at=now",
    }
    forks: dict[str, dict[str, Any]] = {name: {"plasticity": spec} for name, spec in methods.items()}
    forks |= {"muon": {"optimizer": "muon"}, "cold": {"at_switch": "cold"}}
    found = []
    for first in over_seeds("none", **trunk):
        found.append(first)
        found += [Arm(f"{name}-s{first.seed}", settings, first, switch) for name, settings in forks.items()]
    return found


def _each(found: dict[str, dict[str, Any]], seeds: tuple[int, ...] = (0, 1, 2), **shared: Any) -> list[Arm]:
    """Arms of the settings by name. Seeds are outermost, so that all arms can be compared early."""
    return [
        arm
        for seed in seeds
        for name, settings in found.items()
        for arm in over_seeds(name, (seed,), **shared | settings)
    ]


SUITES: dict[str, Callable[[], list[Arm]]] = {
    "search": search,
    "headline": headline,
    "arms": arms,
    "increments": increments,
    "rates": rates,
    "cusum": cusum,
    "tasks": tasks,
    "fire": fire,
}
