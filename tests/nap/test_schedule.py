"""The schedules against closed forms written from their descriptions, and the lr tensor's identity."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import nap

PEAK, FLOOR, TOTAL = 2e-3, 1e-5, 200


def optimizer(lr: float | torch.Tensor = PEAK) -> torch.optim.Optimizer:
    return torch.optim.Adam([torch.nn.Parameter(torch.ones(2))], lr)


def cosine(fraction: float) -> float:
    return (1 + math.cos(math.pi * fraction)) / 2


def reference(name: str, step: int) -> float:
    """The share of the way from floor to peak, at a step of 200, with the options below."""
    step = min(step, TOTAL)
    early = cosine(step % 10 / 10) if step < 40 else None
    return {
        "constant": 1.0,
        "linear": 1 - step / 200,
        "cosine": cosine(step / 200),
        "one-cycle": step / 50 if step < 50 else cosine((step - 50) / 150),
        "cyclic": cosine(step % 50 / 50) if step < 200 else 0.0,
        "cyclic warmup": 0.0 if step == 200 else step % 50 / 20 if step % 50 < 20 else cosine((step % 50 - 20) / 30),
        "early-cycle": early if early is not None else 0.0,
        "early-cycle cosine": early if early is not None else cosine((step - 40) / 160),
        "early-cycle linear": early if early is not None else 1 - (step - 40) / 160,
        "delayed-cosine": 0.0 if step < 60 else (step - 60) / 20 if step < 80 else cosine((step - 80) / 120),
        "delayed-cosine short": 0.0
        if step < 60
        else (step - 60) / 20
        if step < 80
        else cosine(min(step - 80, 50) / 50),
    }[name]


OPTIONS: dict[str, dict[str, Any]] = {
    "constant": {},
    "linear": {"floor": FLOOR},
    "cosine": {"floor": FLOOR},
    "one-cycle": {"floor": FLOOR, "warmup_fraction": 0.25},
    "cyclic": {"floor": FLOOR, "cycles": 4},
    "cyclic warmup": {"floor": FLOOR, "cycles": 4, "warmup": 20},
    "early-cycle": {"floor": FLOOR, "cycles": 4, "cycle_fraction": 0.2, "anneal": "floor"},
    "early-cycle cosine": {"floor": FLOOR, "cycles": 4, "cycle_fraction": 0.2, "anneal": "cosine"},
    "early-cycle linear": {"floor": FLOOR, "cycles": 4, "cycle_fraction": 0.2, "anneal": "linear"},
    "delayed-cosine": {"floor": FLOOR, "delay": 60, "warmup": 20},
    "delayed-cosine short": {"floor": FLOOR, "delay": 60, "warmup": 20, "anneal_steps": 50},
}


def make(name: str, made: torch.optim.Optimizer) -> nap.Schedule:
    return nap.make_schedule(name.split()[0], made, TOTAL, **OPTIONS[name])


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("as_tensor", [False, True])
def test_the_lr_of_every_step_is_the_closed_form(name: str, as_tensor: bool) -> None:
    made = optimizer(torch.tensor(PEAK, dtype=torch.float64) if as_tensor else PEAK)
    lr, schedule = made.param_groups[0]["lr"], make(name, made)
    made.step()
    for step in range(TOTAL + 20):
        expected = FLOOR + (PEAK - FLOOR) * reference(name, step)
        assert float(made.param_groups[0]["lr"]) == pytest.approx(expected, rel=1e-9, abs=1e-12)
        assert float(schedule.get_last_lr()[0]) == pytest.approx(expected, rel=1e-9, abs=1e-12)
        schedule.step()
    assert not as_tensor or made.param_groups[0]["lr"] is lr


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(nap.SCHEDULES)),
    total=st.integers(1, 300),
    floor=st.just(0.0) | st.floats(1e-12, PEAK),
    step=st.integers(0, 400),
    data=st.data(),
)
def test_the_lr_stays_from_floor_to_peak_and_depends_on_the_step_alone(
    name: str, total: int, floor: float, step: int, data: st.DataObject
) -> None:
    options: dict[str, Any] = {} if name == "constant" else {"floor": floor}
    if "cycl" in name and name != "one-cycle":
        options["cycles"] = data.draw(st.integers(1, min(total, 20)))
    if name == "cyclic":
        options["warmup"] = data.draw(st.integers(0, -(-total // options["cycles"]) - 1))
    if name.startswith("early-cycle"):
        options |= {
            "cycle_fraction": data.draw(st.just(0.0) | st.floats(options["cycles"] / total, 1)),
            "anneal": data.draw(st.sampled_from(["floor", "cosine"] if floor else ["cosine", "linear"])),
        }
    if name == "one-cycle":
        options["warmup_fraction"] = data.draw(st.floats(0, 1))
    if name == "delayed-cosine":
        options["delay"] = data.draw(st.integers(0, total))
        options["warmup"] = data.draw(st.integers(0, total - options["delay"]))
    made = optimizer()
    schedule = nap.make_schedule(name, made, total, **options)
    [lr] = schedule.lr_at(step)
    assert floor * (1 - 1e-9) <= lr <= PEAK * (1 + 1e-9)
    schedule.move_to(step)
    assert made.param_groups[0]["lr"] == lr
    assert schedule.lr_at(total) == schedule.lr_at(total + step)
    stepped = nap.make_schedule(name, made_again := optimizer(), total, **options)
    made_again.step()
    for _ in range(step):
        stepped.step()
    assert made_again.param_groups[0]["lr"] == lr


@settings(max_examples=40, deadline=None)
@given(cycles=st.integers(1, 12), steps_per_cycle=st.integers(2, 30), extra=st.integers(0, 11))
def test_the_number_of_restarts(cycles: int, steps_per_cycle: int, extra: int) -> None:
    total = cycles * steps_per_cycle + extra % cycles
    schedule = nap.Cyclic(optimizer(), total, cycles=cycles)
    lrs = [schedule.lr_at(step)[0] for step in range(total + 1)]
    assert sum(later > earlier for earlier, later in pairwise(lrs)) == cycles - 1
    early = nap.EarlyCycle(optimizer(), 5 * total, cycles=cycles, cycle_fraction=0.2, anneal="cosine")
    lrs = [early.lr_at(step)[0] for step in range(5 * total + 1)]
    assert sum(later > earlier for earlier, later in pairwise(lrs)) == cycles
    assert lrs[total] == PEAK
    stopped = nap.EarlyCycle(optimizer(), 5 * total, floor=FLOOR, cycles=cycles, anneal="floor")
    assert stopped.lr_at(total) == pytest.approx([FLOOR])
    whole = nap.EarlyCycle(optimizer(), total, cycles=cycles, cycle_fraction=1.0, anneal="floor")
    assert whole.lr_at(total) == [0.0]  # a floor of 0 is one that nothing follows


def test_the_first_cycle_may_rise_otherwise() -> None:
    schedule = nap.Cyclic(optimizer(), 90, floor=FLOOR, cycles=3, warmup=10, first_warmup=0)
    same = nap.Cyclic(optimizer(), 90, floor=FLOOR, cycles=3, warmup=10)
    plain = nap.Cyclic(optimizer(), 90, floor=FLOOR, cycles=3)
    assert [schedule.lr_at(step) for step in range(30)] == [plain.lr_at(step) for step in range(30)]
    assert [schedule.lr_at(step) for step in range(30, 95)] == [same.lr_at(step) for step in range(30, 95)]
    assert same.lr_at(0) == same.lr_at(30) == [FLOOR]
    with pytest.raises(ValueError, match="first_warmup=30 must be shorter than a cycle, 30 steps"):
        nap.Cyclic(optimizer(), 90, cycles=3, first_warmup=30)


def test_groups_keep_their_own_peaks_and_the_floor_its_ratio() -> None:
    parameters = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    groups = [{"params": parameters[0], "lr": 1e-2}, {"params": parameters[1], "lr": torch.tensor(4e-2)}]
    schedule = nap.Cosine(torch.optim.SGD(groups, lr=1.0), 10, floor=1e-3)
    assert schedule.lr_at(0) == pytest.approx([1e-2, 4e-2])
    assert schedule.lr_at(10) == pytest.approx([1e-3, 4e-3])


@pytest.mark.parametrize("low", [0.0, 1e-6, 5e-5, PEAK])
def test_the_low_rate_of_the_delay_is_not_the_floor(low: float) -> None:
    groups = [{"params": torch.nn.Parameter(torch.ones(2)), "lr": PEAK * factor} for factor in (1, 3)]
    options = {"floor": FLOOR, "delay": 60, "low": low, "warmup": 20, "anneal_steps": 100}
    schedule = nap.make_schedule("delayed-cosine", torch.optim.SGD(groups, lr=1.0), TOTAL, **options)
    for step in range(TOTAL + 5):
        if step < 80:
            expected = low + (PEAK - low) * max(step - 60, 0) / 20
        else:
            expected = FLOOR + (PEAK - FLOOR) * cosine(min(step - 80, 100) / 100)
        assert schedule.lr_at(step) == pytest.approx([expected, 3 * expected], rel=1e-9, abs=1e-15)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(set(OPTIONS) - {"constant"})),
    peaks=st.lists(st.floats(1e-5, 1e-1), min_size=2, max_size=2),
    step=st.integers(0, TOTAL),
)
def test_new_peaks_keep_the_shape_the_floors_ratio_and_the_lr_tensors(name: str, peaks: list[float], step: int) -> None:
    rates = [torch.tensor(PEAK, dtype=torch.float64), torch.tensor(PEAK / 2, dtype=torch.float64)]
    groups = [{"params": torch.nn.Parameter(torch.ones(2)), "lr": rate} for rate in rates]
    made = torch.optim.Adam(groups)
    schedule = make(name, made)
    schedule.move_to(step)
    schedule.set_peaks(peaks)
    share = FLOOR / PEAK + (1 - FLOOR / PEAK) * reference(name, step)
    assert [float(rate) for rate in rates] == pytest.approx([peak * share for peak in peaks], rel=1e-9)
    assert all(group["lr"] is rate for group, rate in zip(made.param_groups, rates, strict=True))
    resumed = make(name, torch.optim.Adam([{"params": torch.nn.Parameter(torch.ones(2)), "lr": 1.0} for _ in range(2)]))
    resumed.load_state_dict(schedule.state_dict())
    assert resumed.lr_at(step + 1) == schedule.lr_at(step + 1)


def test_a_state_of_other_groups_is_refused() -> None:
    two = torch.optim.SGD([{"params": torch.nn.Parameter(torch.ones(2))} for _ in range(2)], lr=PEAK)
    state = nap.Cosine(two, TOTAL).state_dict()
    with pytest.raises(ValueError, match="of 2 parameter groups, the optimizer has 1"):
        nap.Cosine(optimizer(), TOTAL).load_state_dict(state)


@pytest.mark.parametrize("saved_as_tensor", [False, True])
def test_loading_keeps_the_lr_tensor_and_takes_its_value(saved_as_tensor: bool) -> None:
    saved = optimizer(torch.tensor(PEAK) if saved_as_tensor else PEAK)
    old = nap.Cosine(saved, 10)
    saved.step()
    for _ in range(4):
        old.step()
    made = optimizer(torch.tensor(PEAK))
    lr = made.param_groups[0]["lr"]
    schedule = nap.Cosine(made, 10)
    nap.load_optimizer_state(made, saved.state_dict())
    assert made.param_groups[0]["lr"] is lr
    assert float(lr) == pytest.approx(old.lr_at(4)[0])
    schedule.load_state_dict(old.state_dict())
    made.step()
    schedule.step()
    assert made.param_groups[0]["lr"] is lr
    assert float(lr) == pytest.approx(old.lr_at(5)[0])


def test_two_tensor_lrs_stay_independent_of_the_saved_ones() -> None:
    saved, made = optimizer(torch.tensor(PEAK)), optimizer(torch.tensor(1.0))
    nap.load_optimizer_state(made, saved.state_dict())
    nap.Linear(made, 4).move_to(4)
    assert float(saved.param_groups[0]["lr"]) == pytest.approx(PEAK)


@pytest.mark.parametrize("peaks", [[], [1.0, 1.0], [math.nan], [-1.0]])
def test_bad_peaks_are_refused(peaks: list[float]) -> None:
    with pytest.raises(ValueError, match=r"Cosine: peaks=.* must be 1 finite learning rates"):
        nap.Cosine(optimizer(), 10).set_peaks(peaks)


def test_a_plain_lr_stays_plain_when_a_tensor_is_loaded() -> None:
    made = optimizer()
    nap.load_optimizer_state(made, optimizer(torch.tensor(1.0)).state_dict())
    assert made.param_groups[0]["lr"] == 1.0
    assert isinstance(made.param_groups[0]["lr"], float)


def test_bad_input_is_one_clear_line() -> None:
    bad: list[tuple[str, int, dict[str, Any], str]] = [
        ("cosin", 10, {}, "did you mean 'cosine'"),
        ("cosine", 10, {"flor": 0.1}, "did you mean 'floor'"),
        ("constant", 10, {"floor": 0.1}, "it takes none"),
        ("cosine", 0, {}, "total_steps=0 must be a whole number"),
        ("cosine", 10, {"floor": 1.0}, "from 0 to the peak"),
        ("cyclic", 10, {"cycles": 0}, "nap.schedules.open_loop.Cyclic: cycles=0"),
        ("cyclic", 10, {"cycles": 11}, "cycles=11 is more than total_steps=10"),
        ("early-cycle", 100, {"cycles": 21}, "cycles=21 is more than the 20 steps to cycle in"),
        ("one-cycle", math.inf, {}, "nap.schedules.open_loop.OneCycle: total_steps=inf must be a whole number"),
        ("early-cycle", 10, {"anneal": "cosin"}, "did you mean 'cosine'"),
        ("early-cycle", 100, {"anneal": "floor"}, "anneal='floor' needs a floor above 0"),
        ("early-cycle-plateau", 100, {"anneal": "floor"}, "anneal='floor' needs a floor above 0"),
        ("early-cycle", 10, {"cycle_fraction": 1.5}, "fraction from 0 to 1"),
        ("delayed-cosine", 10, {"delay": 8, "warmup": 3}, "more than total_steps=10"),
        ("delayed-cosine", 10, {"delay": 4, "warmup": 3, "anneal_steps": 4}, "more than the 3 steps that are left"),
        ("delayed-cosine", 10, {"delay": 4, "warmup": 3, "low": 1.0}, "low=1.0 must be from 0 to the peak"),
    ]
    for name, total, options, message in bad:
        with pytest.raises(ValueError, match=message) as error:
            nap.make_schedule(name, optimizer(), total, **options)
        assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", nap.SCHEDULES)
def test_a_loss_goes_to_any_schedule_and_only_those_that_listen_read_it(name: str) -> None:
    with_loss, without = (nap.make_schedule(name, optimizer(), 2000) for _ in range(2))
    loss = torch.tensor(1.0, requires_grad=True)
    for step in range(1, 150):  # fewer than what any of them reacts to
        with_loss.optimizer.step()
        without.optimizer.step()
        with_loss.step(loss * (1 + 0.01 * (step % 3)))
        without.step()
        assert with_loss.last_epoch == step
        assert with_loss.get_last_lr() == without.get_last_lr()
    if with_loss.signal is not None:
        with_loss.observe(loss)
    assert (with_loss.state_dict() == without.state_dict()) == (with_loss.signal is None)


@pytest.mark.parametrize("own", nap.SCHEDULES)
def test_the_state_of_another_kind_is_refused_in_one_line(own: str) -> None:
    schedule = nap.make_schedule(own, optimizer(), 2000)
    with pytest.raises(ValueError, match=r"the loaded state is of another kind of schedule: it has no step"):
        nap.Schedule.load_state_dict(schedule, {})
    if schedule.signal:
        with pytest.raises(ValueError, match="the loaded state is of another kind of schedule: it has no "):
            schedule.load_state_dict(nap.make_schedule("linear", optimizer(), TOTAL).state_dict())
