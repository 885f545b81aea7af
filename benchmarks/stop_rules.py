"""When do rules stop the cycling? Judged on simulated learners in seconds: `python -m benchmarks.stop_rules`.

A linear learner follows a target with minibatch SGD under cyclic rates. The target grows up to a known cycle and then
rests, so that it is known when cycling has nothing left to follow. Every rule is a schedule of nap that reads a signal
of the learner; agents have the signals fresh_td_error and return, the others stand for what they could have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from experiment.config import exit_on_bad_input, parse_cli
from experiment.interrupt import cli_session
from experiment.setting import check_ranges, setting
from experiment.tables import aligned_table

CYCLES = 30
SAMPLES = 20
"""Samples of the signals in a cycle, one for each row of metrics."""
UPDATES = 4
"""Updates between two samples."""
BATCH, FEATURES, ACTIONS, STATES = 32, 16, 4, 256
PEAK, FLOOR = 0.05, 0.005
RESTS = (0, 8, 16, CYCLES)
"""The cycle in which the target comes to rest; the last one: it never does."""
RULES: Mapping[str, tuple[str, str, dict[str, object]]] = {
    "CUSUM, fresh TD error": ("early-cycle-cusum", "fresh_td_error", {}),
    "plateau, return": ("early-cycle-plateau", "return", {}),
    "no drop of fresh TD error": ("early-cycle-plateau", "fresh_td_error", {"mode": "min", "window": 3}),
    "CUSUM, churn": ("early-cycle-cusum", "churn", {"log_signal": False}),
    "no rise of noise scale": ("early-cycle-plateau", "noise_scale", {"window": SAMPLES}),
    "CUSUM, noise scale": ("early-cycle-cusum", "noise_scale", {}),
}
"""The schedule, the signal and the options of each rule."""


@dataclass(frozen=True)
class Settings:
    """How many learners, from which seed."""

    learners: int = setting(50, "runs", at_least=1, at_most=1_000)
    """Simulated learners for each cycle in which the target comes to rest."""
    seed: int = setting(0, "runs", at_least=0)
    """Seed of targets, minibatches and noise."""
    growth: float = setting(0.13, "runs", at_least=0, at_most=100)
    """Growth of the target and its noise in a cycle, in parts of the first; with 0.02 it can hardly be seen."""


def simulate(rest: int, learners: int, seed: int, growth: float = 0.13) -> dict[str, np.ndarray]:
    """The signals of learners whose target rests from a cycle on, each of shape (samples, learners)."""
    rng = np.random.default_rng([seed, rest])
    shape = learners, FEATURES, ACTIONS
    direction, weights = rng.normal(size=shape), np.zeros(shape)
    size = 1.0
    states = rng.normal(size=(learners, STATES, FEATURES))
    greedy = (states @ weights).argmax(2)
    found: dict[str, list[np.ndarray]] = {name: [] for name in ("fresh_td_error", "return", "churn", "noise_scale")}
    for sample in range(CYCLES * SAMPLES):
        rate = FLOOR + (PEAK - FLOOR) * (1 + math.cos(math.pi * (sample % SAMPLES) / SAMPLES)) / 2
        for _ in range(UPDATES):
            if sample < rest * SAMPLES:
                size += growth / (SAMPLES * UPDATES)
            target = size * direction
            inputs = rng.normal(size=(learners, BATCH, FEATURES))
            errors = inputs @ (weights - target) + size * rng.normal(size=(learners, BATCH, ACTIONS))
            halves = [np.swapaxes(inputs[:, half], 1, 2) @ errors[:, half] / (BATCH // 2) for half in HALVES]
            weights -= rate * (halves[0] + halves[1]) / 2
        fresh = rng.normal(size=(learners, 64, FEATURES))
        shown = fresh @ (weights - target) + size * rng.normal(size=(learners, 64, ACTIONS))
        values = states @ target
        before, greedy = greedy, (states @ weights).argmax(2)
        won = np.take_along_axis(values, greedy[..., None], 2)[..., 0].mean(1)
        found["fresh_td_error"].append(np.abs(shown).mean((1, 2)))
        found["return"].append(won + 0.1 * rng.normal(size=learners))
        found["churn"].append((greedy != before).mean(1))
        found["noise_scale"].append(noise_scale(*halves))
    return {name: np.array(values) for name, values in found.items()}


HALVES = (slice(0, BATCH // 2), slice(BATCH // 2, BATCH))


def noise_scale(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """The spread of a gradient over its squared norm, from the gradients of two half minibatches (arXiv 1812.06162).

    The squared norm is estimated by their product, which may be near 0 or below: it is at least
    1% of the squared norm of the whole gradient.
    """
    both = ((one + two) ** 2).sum((1, 2)) / 4
    spread = BATCH * ((one - two) ** 2).sum((1, 2)) / 4
    return spread / np.maximum((one * two).sum((1, 2)), 0.01 * both)


def stopped(rule: str, signals: Mapping[str, np.ndarray]) -> list[float]:
    """The cycles after which a rule stopped each learner; infinity where it never did."""
    import torch

    from nap.schedules import make_schedule

    name, signal, options = RULES[rule]
    found = []
    for values in signals[signal].T:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
        steps = CYCLES * SAMPLES
        schedule = make_schedule(
            name, optimizer, steps, floor=FLOOR, cycles=CYCLES, cycle_fraction=1.0, anneal="floor", signal=signal,
            **options,
        )  # fmt: skip
        for step, value in enumerate(values):
            schedule.observe(value)
            schedule.move_to(step + 1)
        end = schedule.metrics()["stopped_at"]
        found.append(math.inf if end is None else end / SAMPLES)
    return found


def row(rule: str, rest: int, ends: Sequence[float]) -> list[str]:
    """What a rule did where the target rests from a cycle on."""
    early = [end for end in ends if end < rest]
    delays = [end - rest for end in ends if rest <= end < math.inf]
    never = sum(end == math.inf for end in ends)
    shares = [f"{len(early) / len(ends):.2f}", f"{never / len(ends):.2f}"]
    median = f"{np.median(delays):.1f}" if delays else "-"
    return [rule, str(rest) if rest < CYCLES else "never", shares[0], median, shares[1]]


@cli_session()
def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; the exit code."""
    with exit_on_bad_input():
        settings = parse_cli(Settings, argv, prog="python -m benchmarks.stop_rules", description=__doc__ or "")
        check_ranges(settings)
    signals = {rest: simulate(rest, settings.learners, settings.seed, settings.growth) for rest in RESTS}
    rows = [row(rule, rest, stopped(rule, signals[rest])) for rule in RULES for rest in RESTS]
    header = ["rule", "target rests from cycle", "stopped before", "median delay, cycles", "never stopped"]
    print(aligned_table(header, rows), end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
