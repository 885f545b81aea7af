"""The alternation, its medians and its ratios, on contestants that move a fake clock."""

import statistics
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.speed.alternate import Contestant, Round, Series, alternate, best_peer, limit_of, ratio, rotated


class Field:
    """Contestants whose calls take as long as they are told, and the log of who ran when."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slow = 1.0
        self.log: list[tuple[str, int]] = []

    def contestant(self, name: str, per_call: float, **options) -> Contestant:
        def setup():
            def run(count: int) -> None:
                self.log.append((name, count))
                self.now += count * per_call * self.slow
                self.slow *= options_drift

            return run

        options_drift = options.pop("drift", 1.0)
        return Contestant("task", name, "calls/s", setup, **options)

    def run(self, contestants, rounds: int, seconds: float = 1.0) -> list[Series]:
        return alternate(contestants, rounds, seconds, clock=lambda: self.now)


def series(name: str, values, role="ours", task="task", limit="") -> Series:
    return Series(task, name, "x/s", role, limit, rounds=[Round(1, 1.0, value) for value in values])


@given(st.integers(1, 12), st.integers(1, 8))
def test_every_round_has_everyone_once_and_starts_elsewhere(size, rounds):
    orders = [rotated(range(size), number, rounds) for number in range(rounds)]
    assert all(sorted(order) == list(range(size)) for order in orders)
    assert all((b - a) % size == 1 % size for order in orders for a, b in pairwise(order))
    assert len({order[0] for order in orders}) == min(size, rounds)


@given(st.lists(st.sampled_from([0.001, 0.01, 0.3]), min_size=1, max_size=5), st.integers(1, 4))
def test_rounds_alternate_and_hold_calls_for_the_asked_time(costs, rounds):
    field = Field()
    result = field.run([field.contestant(str(i), cost) for i, cost in enumerate(costs)], rounds)
    measured = field.log[-len(costs) * rounds :]
    for number in range(rounds):
        names = [name for name, _ in measured[number * len(costs) : (number + 1) * len(costs)]]
        assert names == rotated([str(i) for i in range(len(costs))], number, rounds)
    for each, cost in zip(result, costs, strict=True):
        assert len(each.rounds) == rounds
        assert each.median == pytest.approx(1 / cost)
        assert all(0.99 <= r.seconds <= 1.0 + cost + 1e-6 for r in each.rounds)


def test_work_scales_values_least_sets_calls_and_a_run_may_report_its_own_value():
    field = Field()
    worker = field.contestant("worker", 0.5, work=8.0, least=20)
    teller = Contestant("task", "teller", "%", lambda: lambda count: setattr(field, "now", field.now + count) or 42.0)
    worked, told = field.run([worker, teller], 3)
    assert worked.median == pytest.approx(16.0)
    assert {r.count for r in worked.rounds} == {20}
    assert told.values == [42.0, 42.0, 42.0]


def test_setup_time_holds_the_first_call():
    field = Field()
    compiled = Contestant("task", "compiled", "x/s", lambda: first_slow(field))
    assert field.run([compiled], 1)[0].setup_seconds == pytest.approx(30.0)


def first_slow(field: Field):
    calls = iter([30.0])

    def run(count: int) -> None:
        field.now += next(calls, 0.1 * count)

    return run


def test_ratio_is_blind_to_a_drift_that_ratios_of_medians_show():
    speed = [1.0, 0.5, 0.9, 0.4, 1.1]
    ours, peer = series("a", [30 * s for s in speed]), series("b", [10 * s for s in speed], "peer")
    assert ratio(ours, peer) == pytest.approx(3.0)
    shifted = series("b", [10 * s for s in speed[1:] + speed[:1]], "peer")
    assert ratio(ours, shifted) != pytest.approx(statistics.median(ours.values) / shifted.median)


def test_best_peer_and_limit_stay_within_the_task():
    ours = series("ours", [3.0], limit="cap 1")
    field = [
        ours,
        series("slow", [1.0], "peer"),
        series("fast", [2.0], "peer"),
        series("other", [9.0], "peer", task="elsewhere"),
        series("cap 1", [4.0], "limit"),
        series("cap 2", [5.0], "limit"),
    ]
    assert best_peer(ours, field).name == "fast"
    assert limit_of(ours, field).name == "cap 1"
    assert limit_of(series("free", [3.0]), field) is None, "two limits and none named"
    assert limit_of(series("free", [3.0]), field[:-1]).name == "cap 1"
    assert limit_of(field[-1], field) is None
    assert best_peer(series("alone", [1.0], task="nowhere"), field) is None
