"""Closed-loop re-warming: against a slow literal form, on simulated training curves, and resumed to the bit."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import nap

PEAK = 1e-2
KINDS: dict[str, type[nap.Rewarm]] = {"cusum": nap.Cusum, "page-hinkley": nap.PageHinkley}


def optimizer(lr: float | torch.Tensor = PEAK) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr)


def make(kind: str, total: int = 1000, **options: Any) -> nap.Rewarm:
    schedule = nap.make_schedule(kind, optimizer(), total, **options)
    assert isinstance(schedule, nap.Rewarm)
    schedule.optimizer.step()
    return schedule


def feed(schedule: nap.Rewarm, signal: list[float]) -> list[int]:
    for value in signal:
        schedule.step(value)
    return schedule.alarms


def rates(schedule: nap.Rewarm, signal: list[float]) -> list[float]:
    """The lr after each sample."""
    found = []
    for value in signal:
        schedule.step(value)
        found.append(schedule.optimizer.param_groups[0]["lr"])
    return found


def noise(seed: int, count: int, level: float = 0.0) -> list[float]:
    generator = random.Random(seed)
    return [generator.gauss(level, 1) for _ in range(count)]


def standardised(taken: list[float], value: float, time_constant: float, min_samples: int, clip: float) -> float:
    """The score of a value after the samples taken, from their weighted mean and deviation, written out."""
    if len(taken) < min_samples:
        return 0.0
    weights = [(1 - 1 / time_constant) ** age for age in reversed(range(len(taken)))]
    shares = [weight / math.fsum(weights) for weight in weights]
    mean = math.fsum(share * x for share, x in zip(shares, taken, strict=True))
    spread = math.fsum(share * (x - mean) ** 2 for share, x in zip(shares, taken, strict=True))
    deviation = math.sqrt(spread / (1 - math.fsum(share**2 for share in shares)))
    value = min(max(value, mean - clip * deviation), mean + clip * deviation)
    taken.append(value)
    return (value - mean) / deviation


def slow_alarms(signal: list[float], cooldown: int, o: dict[str, Any], fade: float) -> list[int]:
    """Page's definition: an alarm when the faded sum of (score - slack) over some stretch up to now exceeds it."""
    alarms: list[int] = []
    taken: list[float] = []
    scores: list[float] = []
    for step, value in enumerate(signal, start=1):
        if step - (alarms[-1] if alarms else 0) < cooldown:
            continue
        before = len(taken)
        scores.append(standardised(taken, value, o["time_constant"], o["min_samples"], o["clip"]))
        if len(taken) == before:
            taken.append(value)
        for sign in (1, -1) if o["two_sided"] else (1,):
            total, best, weight = 0.0, 0.0, 1.0
            for score in reversed(scores):
                total += weight * (sign * score - o["slack"])
                best, weight = max(best, total), weight * fade
            if best > o["threshold"]:
                alarms.append(step)
                taken, scores = [], []
                break
    return alarms


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    seed=st.integers(0, 10**6),
    levels=st.lists(st.floats(-6, 6), min_size=1, max_size=4),
    cooldown=st.integers(0, 20),
    fade=st.sampled_from([0.8, 0.99, 1.0]),
    data=st.data(),
)
def test_alarms_are_those_of_the_literal_form(
    kind: str, seed: int, levels: list[float], cooldown: int, fade: float, data: st.DataObject
) -> None:
    signal = [value for i, level in enumerate(levels) for value in noise(seed + i, 40, level)]
    options = {
        "slack": data.draw(st.floats(0, 1)),
        "threshold": data.draw(st.floats(1, 12)) + 0.012345,  # no sum of clipped scores lies exactly on it
        "time_constant": data.draw(st.sampled_from([5.0, 30.0, math.inf])),
        "min_samples": data.draw(st.integers(2, 15)),
        "clip": data.draw(st.sampled_from([2.0, 4.0, math.inf])),
        "two_sided": data.draw(st.booleans()),
    }
    extra = {"forgetting": fade} if kind == "page-hinkley" else {}
    schedule = make(kind, cooldown=cooldown, log_signal=False, **options, **extra)
    expected = slow_alarms(signal, cooldown, options, fade if extra else 1.0)
    assert feed(schedule, signal) == expected


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), level=st.floats(-3, 3))
def test_page_hinkley_that_forgets_nothing_is_cusum(seed: int, level: float) -> None:
    signal = noise(seed, 60) + noise(seed + 1, 60, level)
    options = {"cooldown": 5, "log_signal": False, "threshold": 4.0, "min_samples": 10}
    assert feed(make("page-hinkley", forgetting=1.0, **options), signal) == feed(make("cusum", **options), signal)


def test_evidence_of_page_hinkley_fades_so_that_a_slow_drift_sets_nothing_off() -> None:
    drift = [x + 0.012 * i for i, x in enumerate(noise(0, 3000))]
    options = {"cooldown": 1, "log_signal": False, "time_constant": 50.0}
    assert feed(make("page-hinkley", forgetting=0.9, **options), drift) == []
    assert feed(make("cusum", **options), drift)


@pytest.mark.parametrize("warmup", [0, 6])
def test_each_alarm_restarts_the_course_of_the_lr(warmup: int) -> None:
    lr = torch.tensor(PEAK, dtype=torch.float64)
    made = optimizer(lr)
    schedule = nap.Cusum(made, 500, floor=1e-4, cycle_steps=40, warmup=warmup, log_signal=False, min_samples=10)
    signal = noise(1, 200) + noise(2, 200, 5.0)
    for step, value in enumerate(signal, start=1):
        made.step()
        schedule.step(value)
        since = min(step - max([0, *schedule.alarms]), 40)
        anneal = (1 + math.cos(math.pi * (since - warmup) / (40 - warmup))) / 2
        expected = 1e-4 + (PEAK - 1e-4) * (since / warmup if since < warmup else anneal)
        assert float(made.param_groups[0]["lr"]) == pytest.approx(expected, rel=1e-9)
    assert len(schedule.alarms) == 1
    assert 200 < schedule.alarms[0] < 210
    assert made.param_groups[0]["lr"] is lr
    assert [schedule.lr_at(s)[0] for s in (0, 300)] == pytest.approx([1e-4 if warmup else PEAK, 1e-4])


def test_the_first_rise_may_be_another() -> None:
    schedule = nap.Cusum(optimizer(), 100, floor=1e-4, cycle_steps=40, warmup=10, first_warmup=0)
    schedule.alarms.append(50)
    assert schedule.lr_at(0) == [PEAK]
    assert schedule.lr_at(50) == pytest.approx([1e-4])
    assert schedule.lr_at(60) == pytest.approx([PEAK])


@pytest.mark.parametrize(("options", "first"), [({}, 60), ({"first_warmup": 0}, 50), ({"cooldown": 7}, 7)])
def test_the_signal_is_looked_at_after_the_first_rise_and_half_of_what_follows(
    options: dict[str, int], first: int
) -> None:
    schedule = nap.Cusum(optimizer(), 1000, warmup=20, **options)
    assert schedule.cycle_steps == 100
    for step, looked_at in ((first - 1, 0), (first, 1)):
        schedule.move_to(step)
        schedule.observe(1.0)
        assert schedule.score.count == looked_at


SHAPES: dict[str, Callable[[int], float]] = {
    "exponential": lambda t: 0.01 + 2.29 * math.exp(-t / 1500),
    "power": lambda t: max(2.3 / (1 + t / 60), 0.01),
    "linear": lambda t: 2.3 + (0.01 - 2.3) * t / 14_000,
}
NOISES: dict[str, Callable[[random.Random], float]] = {
    "gamma": lambda generator: generator.gammavariate(4, 1 / 4),
    "exponential": lambda generator: generator.expovariate(1) + 1e-9,
    "lognormal": lambda generator: math.exp(generator.gauss(-0.5, 1)),
}


@pytest.mark.parametrize("noisy", NOISES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_switch_of_data_gives_one_alarm_and_neither_training_nor_the_rewarming_any(
    kind: str, shape: str, noisy: str
) -> None:
    generator = random.Random(sum(map(ord, shape + noisy)))
    schedule = make(kind, 20_000, cycle_steps=3_000, warmup=300)
    lr = schedule.optimizer.param_groups[0]
    for t in range(14_000):
        schedule.step(SHAPES[shape](t) * NOISES[noisy](generator))
    assert schedule.alarms == []
    for t in range(6_000):
        loss = 0.01 + 0.49 * math.exp(-t / 1_000) + 0.8 * float(lr["lr"]) / PEAK  # a high rate raises the loss again
        schedule.step(loss * NOISES[noisy](generator))
    assert len(schedule.alarms) == 1
    assert 14_000 < schedule.alarms[0] <= 14_100


@pytest.mark.parametrize("kind", KINDS)
def test_a_rise_by_one_deviation_is_found_within_tens_of_samples(kind: str) -> None:
    delays = []
    for seed in range(20):
        signal = noise(seed, 300) + noise(seed + 100, 200, 1.0)
        alarms = feed(make(kind, cooldown=0, log_signal=False), signal)
        assert alarms
        delays.append(alarms[0] - 300)
    assert min(delays) > 0
    assert sorted(delays)[10] < 40
    assert max(delays) < 120


@settings(max_examples=15, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)), seed=st.integers(0, 999), size=st.floats(4, 1e9), sign=st.sampled_from([1, -1])
)
def test_a_lone_outlier_sets_nothing_off_and_blinds_nothing(kind: str, seed: int, size: float, sign: int) -> None:
    schedule = make(kind, cooldown=0, log_signal=False, two_sided=True)
    before = noise(seed, 150)
    before[100] = sign * size
    assert feed(schedule, before) == []
    alarms = feed(schedule, noise(seed + 1, 60, 4.0))
    assert alarms[0] <= 150 + 8


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), slope=st.floats(0, 0.5))
def test_a_steady_fall_sets_nothing_off_unless_falls_are_asked_for(seed: int, slope: float) -> None:
    signal = [x - slope * i for i, x in enumerate(noise(seed, 600))]
    assert feed(make("cusum", cooldown=0, log_signal=False), signal) == []
    dropped = noise(seed, 200) + noise(seed, 50, -6.0)
    assert feed(make("cusum", cooldown=0, log_signal=False), dropped) == []
    assert 200 < feed(make("cusum", cooldown=0, log_signal=False, two_sided=True), dropped)[0] < 210


@pytest.mark.parametrize("level", [0.0, 3.5])
def test_a_change_after_a_constant_signal_is_found(level: float) -> None:
    schedule = make("cusum", cooldown=0, log_signal=False)
    assert feed(schedule, [level] * 100) == []
    assert feed(schedule, [level + 1e-3] * 5)


def test_what_happens_in_the_cooldown_is_not_looked_at() -> None:
    runs = []
    for seed in (1, 2):
        schedule = make("cusum", cycle_steps=100, warmup=20, log_signal=False)
        feed(schedule, [1e6 * x for x in noise(seed, 59)] + noise(3, 200) + noise(4, 10, 9.0))
        [alarm] = schedule.alarms
        feed(schedule, [1e6 * x for x in noise(seed, alarm + 59 - 269)] + noise(5, 200, 9.0))
        runs.append((schedule.alarms, schedule.state_dict()))
    assert runs[0] == runs[1]
    assert len(runs[0][0]) == 1


def test_the_default_cooldown_ends_halfway_down_the_cosine() -> None:
    schedule = make("cusum", 1000, warmup=20)
    assert schedule.lr_at(60) == pytest.approx([PEAK / 2])


def test_steps_without_a_signal_count_for_the_lr_alone() -> None:
    values = noise(1, 60) + noise(2, 20, 6.0)
    dense, sparse = (make("cusum", cooldown=0, cycle_steps=10, log_signal=False) for _ in range(2))
    feed(dense, values)
    for value in values:
        for _ in range(4):
            sparse.step()
        sparse.step(value)
    assert sparse.last_epoch == 400
    assert sparse.alarms == [5 * alarm for alarm in dense.alarms]
    assert sparse.alarms


def test_nan_and_infinity_are_ignored_and_counted() -> None:
    values = [math.exp(x) for x in noise(1, 200)]
    clean, dirty = make("cusum", cooldown=0), make("cusum", cooldown=0)
    feed(clean, values)
    for value in values:
        dirty.step(value)
        for bad in (math.nan, math.inf, -math.inf, 0.0):
            assert not dirty.observe(bad)
    assert dirty.ignored == 800
    assert {**dirty.state_dict(), "ignored": 0} == clean.state_dict()
    with pytest.raises(ValueError, match=r"signal -1\.0 has no logarithm; pass log_signal=False"):
        dirty.step(-1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_tensor_signals_are_read(kind: str) -> None:
    values = [math.exp(x) for x in noise(1, 100) + noise(2, 20, 5.0)]
    plain, tensors = make(kind, cooldown=3), make(kind, cooldown=3)
    feed(plain, values)
    for value in values:
        tensors.step(torch.tensor(value, dtype=torch.float64, requires_grad=True).detach())
    assert tensors.state_dict() == plain.state_dict()
    assert plain.alarms


@settings(max_examples=25, deadline=None)
@given(kind=st.sampled_from(sorted(KINDS)), seed=st.integers(0, 999), cut=st.integers(0, 300) | st.integers(120, 130))
def test_a_resumed_schedule_goes_on_to_the_bit(kind: str, seed: int, cut: int) -> None:
    options = {"cycle_steps": 30, "warmup": 5, "log_signal": False, "two_sided": True, "floor": 1e-4, "threshold": 20.0}
    signal = noise(seed, 120) + noise(seed + 1, 100, 3.0) + noise(seed + 2, 80, -3.0)
    whole, first, resumed = (make(kind, **options) for _ in range(3))
    expected = rates(whole, signal)
    feed(first, signal[:cut])
    state = first.state_dict()
    saved = copy.deepcopy(state)
    resumed.load_state_dict(state)
    feed(first, signal[:220])  # what the first does later must not reach the resumed one, nor what was saved
    assert resumed.optimizer.param_groups[0]["lr"] == (expected[cut - 1] if cut else whole.lr_at(0)[0])
    assert rates(resumed, signal[cut:]) == expected[cut:]
    assert resumed.state_dict() == whole.state_dict()
    assert state == saved


def test_bad_input_is_one_clear_line() -> None:
    bad: list[tuple[str, dict[str, Any], str]] = [
        ("cusum", {"treshold": 1}, "did you mean 'threshold'"),
        ("cusum", {"forgetting": 0.9}, "has no option 'forgetting'"),
        ("page-hinkley", {"forgeting": 0.9}, "did you mean 'forgetting'"),
        ("page-hinkley", {"cooldow": 9}, "did you mean 'cooldown'"),
        ("page-hinkley", {"forgetting": 0.0}, "nap.schedules.rewarm.PageHinkley: forgetting=0.0 must be above 0"),
        ("cusum", {"warmup": 5, "cycle_steps": 5}, "warmup=5 must be shorter than a cycle, 5 steps"),
        ("cusum", {"cycle_steps": 0}, "nap.schedules.rewarm.Cusum: cycle_steps=0"),
        ("cusum", {"floor": 2.0}, "nap.schedules.rewarm.Cusum: floor=2.0"),
        ("cusum", {"threshold": -1}, "threshold=-1 must be at least 0"),
        ("cusum", {"time_constant": math.nan}, "time_constant=nan must be at least 1"),
        ("cusum", {"min_samples": 1}, "min_samples=1"),
        ("cusum", {"clip": 0.1}, "clip=0.1 must be at least 0.5"),
        ("cusum", {"cooldown": -1}, "cooldown=-1"),
        ("cusums", {}, "did you mean 'cusum'"),
    ]
    for kind, options, message in bad:
        with pytest.raises(ValueError, match=message) as error:
            make(kind, **options)
        assert "\n" not in str(error.value)
