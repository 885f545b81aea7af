"""Cycling that stops by itself: against literal forms of the rules, and resumed to the bit."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import nap

PEAK, FLOOR, CYCLE, TOTAL = 1e-2, 1e-4, 10, 200
RULES = ["early-cycle-cusum", "early-cycle-plateau"]


def make(kind: str, total: int = TOTAL, **options: Any) -> nap.StoppingCycle:
    """Cycles of 10 steps, if there are 200."""
    lr = torch.tensor(PEAK, dtype=torch.float64)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr)
    options = {"cycles": 4, "cycle_fraction": 0.2} | options
    made = nap.make_schedule(kind, optimizer, total, floor=FLOOR, **options)
    assert isinstance(made, nap.StoppingCycle)
    optimizer.step()
    return made


def feed(schedule: nap.StoppingCycle, signal: list[float]) -> list[float]:
    """The lr after each sample, one a step."""
    rates = []
    for value in signal:
        schedule.step(value)
        rates.append(float(schedule.optimizer.param_groups[0]["lr"]))
    return rates


def cycles_of(signal: list[float]) -> list[list[float]]:
    """The samples of each whole cycle: sample i belongs to step i + 1, and the first cycle begins at step 0."""
    ends = [CYCLE - 1, *range(2 * CYCLE - 1, len(signal), CYCLE)]
    return [signal[max(end - CYCLE, 0) : end] for end in ends if end <= len(signal)]


def first_stop(changes: list[bool], patience: int) -> int | None:
    """The step at which `patience` cycles in a row had no change."""
    for end in range(patience, len(changes) + 1):
        if not any(changes[end - patience : end]):
            return end * CYCLE if end * CYCLE < TOTAL else None
    return None


def slow_plateau(cycles: list[list[float]], window: int, margin: float) -> list[bool]:
    """Whether each cycle ended with a mean better than the best so far; the first one did."""
    changes, best = [], -math.inf
    for end in range(1, len(cycles) + 1):
        last = [value for cycle in cycles[:end] for value in cycle][-window:]
        mean = math.fsum(last) / len(last)
        better = best == -math.inf or mean > best + margin * abs(best)
        changes.append(better)
        best = mean if better else best
    return changes


def shifted(cycle: list[float], reference: list[float], slack: float, threshold: float) -> bool:
    """Page's definition: over some stretch, the clipped scores less the slack add up to more than the threshold."""
    n = min(len(cycle), len(reference))
    d = [math.log(cycle[-n + i]) - math.log(reference[-n + i]) for i in range(n)]
    noise = math.sqrt(math.fsum((d[i + 1] - d[i]) ** 2 for i in range(n - 1)) / 2 / (n - 1))
    scores = [min(max(x / max(noise, 1e-12), -4), 4) for x in d]
    stretches = [scores[i:j] for i in range(n) for j in range(i + 1, n + 1)]
    return any(sign * math.fsum(s) - slack * len(s) > threshold for s in stretches for sign in (1, -1))


def slow_cusum(cycles: list[list[float]], slack: float, threshold: float) -> list[bool]:
    changes, reference = [], None
    for cycle in cycles:
        changes.append(reference is None or shifted(cycle, reference, slack, threshold))
        reference = cycle if changes[-1] else reference
    return changes


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    drift=st.sampled_from([0, 0.02, 0.2]),
    patience=st.integers(1, 4),
    slack=st.sampled_from([0.3, 0.5, 1.0]),
)
def test_cusum_stops_where_the_literal_form_does(seed: int, drift: float, patience: int, slack: float) -> None:
    generator = random.Random(seed)
    signal = [math.exp(generator.gauss(0, 0.3) - drift * min(i, 100)) for i in range(TOTAL)]
    schedule = make("early-cycle-cusum", patience=patience, slack=slack, threshold=4.0)
    feed(schedule, signal)
    assert schedule.stopped_at == first_stop(slow_cusum(cycles_of(signal), slack, 4.0), patience)


@pytest.mark.parametrize("interval", [170, 200, 230, 250])
@pytest.mark.parametrize("seed", range(3))
def test_cusum_compares_places_of_the_cycle_whether_or_not_the_interval_divides_it(interval: int, seed: int) -> None:
    """The signal follows the rate, and nothing else; a cycle has 2,000 steps."""
    schedule = make("early-cycle-cusum", 200_000, cycles=20, cycle_fraction=0.2)
    generator = random.Random(seed)
    for step in range(interval, schedule.total_steps, interval):
        schedule.move_to(step)
        rate = float(schedule.optimizer.param_groups[0]["lr"]) / PEAK
        schedule.observe(math.exp(0.8 * rate + generator.gauss(0, 0.05)))
    assert schedule.stopped_at is not None
    assert schedule.stopped_at <= 12 * 2_000


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rise=st.sampled_from([0, 0.01, 0.1]),
    patience=st.integers(1, 4),
    window=st.integers(1, 25),
    mode=st.sampled_from(["max", "min"]),
)
def test_plateau_stops_where_the_literal_form_does(
    seed: int, rise: float, patience: int, window: int, mode: str
) -> None:
    generator = random.Random(seed)
    signal = [generator.gauss(-1, 1) + rise * min(i, 90) for i in range(TOTAL)]
    schedule = make("early-cycle-plateau", patience=patience, window=window, margin=0.05, mode=mode)
    feed(schedule, signal if mode == "max" else [-value for value in signal])
    assert schedule.stopped_at == first_stop(slow_plateau(cycles_of(signal), window, 0.05), patience)


@pytest.mark.parametrize("anneal", ["floor", "cosine", "linear"])
@pytest.mark.parametrize("kind", RULES)
def test_the_lr_cycles_as_early_cycle_does_then_anneals_over_what_is_left(kind: str, anneal: str) -> None:
    schedule = make(kind, anneal=anneal)
    lr = schedule.optimizer.param_groups[0]["lr"]
    rates = feed(schedule, [1.0] * (TOTAL + 5))
    assert schedule.stopped_at == 40  # of the first cycle there is nothing to compare; three stand still
    for step, rate in enumerate(rates, start=1):
        left = (min(step, TOTAL) - 40) / 160
        tail = {"floor": 0.0, "cosine": (1 + math.cos(math.pi * left)) / 2, "linear": 1 - left}[anneal]
        shape = (1 + math.cos(math.pi * (step % 10) / 10)) / 2 if step < 40 else tail
        assert rate == pytest.approx(FLOOR + (PEAK - FLOOR) * shape, rel=1e-9)
    assert schedule.optimizer.param_groups[0]["lr"] is lr


@pytest.mark.parametrize("kind", RULES)
def test_without_a_signal_or_with_too_little_of_it_cycling_goes_on_to_the_end(kind: str) -> None:
    schedule = make(kind)
    for step in range(TOTAL):
        schedule.step(math.nan if step % 3 else None)
    assert schedule.stopped_at is None
    assert schedule.ignored > 100
    assert float(schedule.optimizer.param_groups[0]["lr"]) == pytest.approx(FLOOR, rel=1e-9)
    sparse = make("early-cycle-cusum")
    for step in range(TOTAL):
        sparse.step(1.0 if step % 2 else None)  # 5 samples a cycle
    assert sparse.stopped_at is None


def test_what_the_rate_does_to_the_signal_and_a_lone_outlier_are_no_shift() -> None:
    def signal(rate: float, step: int) -> float:
        noise = 0.1 * math.sin(7.3 * step)
        return math.exp(rate / PEAK + noise + (3 if step in (15, 27) else 0))

    schedule = make("early-cycle-cusum")
    for step in range(TOTAL):
        schedule.step(signal(float(schedule.optimizer.param_groups[0]["lr"]), step))
    assert schedule.stopped_at == 40


@pytest.mark.parametrize("drift", [0.0, 0.2])
def test_many_samples_a_cycle_make_no_shift_by_chance_and_find_a_small_one(drift: float) -> None:
    generator = random.Random(0)
    schedule = make("early-cycle-cusum", total=20_000)  # 1,000 a cycle
    for step in range(20_000):
        schedule.step(math.exp(generator.gauss(-drift * (step // 1000), 1)))
    if drift:
        assert schedule.stopped_at is None
    else:
        assert schedule.stopped_at is not None
        assert schedule.stopped_at <= 8_000


@settings(max_examples=40, deadline=None)
@given(kind=st.sampled_from(RULES), seed=st.integers(0, 10**6), cut=st.integers(0, TOTAL - 1), stride=st.integers(1, 7))
def test_a_resume_in_the_middle_of_cycling_or_after_the_stop_is_exact(
    kind: str, seed: int, cut: int, stride: int
) -> None:
    generator = random.Random(seed)
    signal = {step: math.exp(generator.gauss(0, 1)) for step in range(stride, TOTAL + 1, stride)}

    def play(schedule: nap.StoppingCycle, steps: list[int]) -> list[float]:
        rates = []
        for step in steps:
            schedule.move_to(step)
            rates.append(float(schedule.optimizer.param_groups[0]["lr"]))
            schedule.observe(signal[step])
        return rates

    options: dict[str, Any] = {"min_samples": 2} if "cusum" in kind else {}
    whole = make(kind, **options)
    rates = play(whole, list(signal))
    first, second = make(kind, **options), make(kind, **options)
    begun = play(first, [step for step in signal if step <= cut])
    second.load_state_dict(first.state_dict())
    assert begun + play(second, [step for step in signal if step > cut]) == rates
    assert second.state_dict() == whole.state_dict()


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("early-cycle-cusum", {"patience": 0}, "CusumStop: patience=0 must be a whole number, at least 1"),
        ("early-cycle-cusum", {"clip": 0.1}, "clip=0.1 must be at least 0.5"),
        ("early-cycle-cusum", {"min_samples": 1}, "min_samples=1"),
        ("early-cycle-plateau", {"mode": "mx"}, "mode='mx' is unknown; did you mean 'max'"),
        ("early-cycle-plateau", {"margin": -1}, "margin=-1 must be at least 0"),
        ("early-cycle-plateau", {"anneal": "cosin"}, "did you mean 'cosine'"),
        ("early-cycle-plateau", {"pacience": 1}, "did you mean 'patience'"),
    ],
)
def test_bad_options_are_named(kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(kind, **options)


def test_a_negative_signal_has_no_logarithm() -> None:
    with pytest.raises(ValueError, match="log_signal=False"):
        make("early-cycle-cusum").observe(-1.0)
    make("early-cycle-cusum", log_signal=False).observe(-1.0)
