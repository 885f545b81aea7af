"""Norms that are held: the law of the delay, the concordances and the figure, against numbers worked out by hand."""

import math
from dataclasses import replace

import pytest

from studies.grokking import figures
from studies.grokking.clamped import critical_norm, held, law, law_lines, laws
from studies.grokking.config import GrokkingConfig
from studies.grokking.suites import HELD_NORMS, HELD_RATES, INVARIANT, SUITES
from studies.records import FinishedRun
from tests.studies.grokking.test_command import fake

CONSTANT = GrokkingConfig(schedule="constant", norm="none", anneal=2_000, warmup=0)


def run(norm, rate, time, network="none"):
    config = replace(CONSTANT, norm=network, hold_norm_at=norm, lr=rate).resolved()
    return made(config, 40.0 * norm, time)


def free(norm, time=700):
    return made(replace(CONSTANT, projection="off", weight_decay=1.0).resolved(), norm, time)


def made(config, norm, time):
    reached = config.budget + 1 if time is None else time
    rows = [
        {"update": u, "seconds": u / 100, "train_accuracy": 1.0, "test_accuracy": 0.95 if u >= reached else 0.2}
        | {"global_norm": norm}
        for u in range(0, config.budget + 1, 100)
    ]
    return FinishedRun("", config, rows, None)


def test_the_critical_norm_is_the_median_where_free_runs_generalise():
    assert critical_norm([free(50.0), free(42.0), free(44.0), free(1.0, None), run(1, 1e-3, 300)]) == 44.0
    without = [free(50.0, None), run(1, 1e-3, 300)]
    assert critical_norm(without) is None
    assert law_lines(held(without, "none"), None).startswith("no law")


def test_the_law_is_least_squares_within_each_rate():
    by_hand = law([(1e-3, 1.0, 1.0), (1e-3, 2.0, 3.0), (1e-3, 3.0, 4.0)])
    assert by_hand.alpha.value == pytest.approx(1.5)  # 3 / 2
    assert by_hand.r2 == pytest.approx(27 / 28)  # 9 / (2 * 14/3)
    assert by_hand.alpha.low <= 1.5 <= by_hand.alpha.high
    exact = [(rate, rho, 7.5 * rho + c) for rate, c in ((1e-3, 2.0), (2e-3, -1.0)) for rho in (0.8, 1.1, 1.3)]
    assert law(exact).alpha == pytest.approx((7.5, 7.5, 7.5))
    assert (law(exact).r2, law(exact).runs) == (pytest.approx(1.0), 6)


def test_laws_are_of_the_runs_that_reached_it_and_of_each_rate_with_two_norms():
    times = {(1.0, 1e-3): 200, (1.5, 1e-3): 600, (2.0, 1e-3): None, (1.0, 2e-3): 100, (1.0, 4e-3): 100}
    found = held([run(norm, rate, time) for (norm, rate), time in times.items()] + [free(40.0)], "none")
    fitted = laws(found, 40.0)
    assert fitted.keys() == {"0.001", "all rates"}
    assert fitted["0.001"].alpha.value == pytest.approx(math.log(600 / 200) / 0.5)
    assert fitted["all rates"].alpha.value == pytest.approx(math.log(3) / 0.5)  # one norm says nothing on the slope
    assert (fitted["0.001"].runs, fitted["all rates"].runs) == (2, 4)
    assert "1 of 5 runs never reached it" in law_lines(found, 40.0)


def test_orders_are_told_apart_and_those_of_one_network_are_its_own():
    cells = [(norm, rate) for norm in (0.5, 1.0, 2.0) for rate in (1e-3, 2e-3, 4e-3)]
    by_elr = [run(norm, rate, round(0.8 * norm / rate), "rms") for norm, rate in cells]
    by_norm = [run(norm, rate, int(400 * norm)) for norm, rate in cells]
    runs = [*by_elr, *by_norm, free(40.0)]
    scores = held(runs, "rms").orders()
    assert scores["ELR"].value == 1.0
    assert max(scores["norm"].value, scores["rate"].value) < 0.95
    scores = held(runs, "none").orders()
    assert scores["norm"].value == 1.0
    assert scores["rate"].value == 0.5
    # by hand: times go as the norm, and of two runs with different norms the larger ELR is right unless its norm is too
    later = [(a, b) for a in cells for b in cells if a[0] > b[0] and a[1] / a[0] != b[1] / b[0]]
    right = sum(a[1] / a[0] < b[1] / b[0] for a, b in later)
    assert scores["ELR"].value == pytest.approx(right / len(later))


def test_the_suite_holds_both_networks_alike_and_draws(tmp_path):
    arms = SUITES["norm-or-elr-clamped"]()
    assert len(arms) == 3 * (1 + 2 * len(HELD_NORMS) * len(HELD_RATES))
    norms = [arm.settings for arm in arms if arm.name.startswith("norms-")]
    plain = [arm.settings for arm in arms if arm.name.startswith("plain-")]
    assert all(s["norm_positions"] == INVARIANT and s["scale_lr"] == 1e-3 and "norm" not in s for s in norms)
    assert all(s["norm"] == "none" for s in plain)
    for field in ("lr", "fraction", "anneal", "seed"):
        assert [s[field] for s in norms] == [s[field] for s in plain]
    assert [s.get("hold_norm_at") for s in norms] == [s.get("hold_norm_at") for s in plain]
    folder = tmp_path / "norm-or-elr-clamped"
    for i, arm in enumerate(arms[::3][:14]):
        fake(arm, folder, 0.05 * i, {"global_norm": 30.0 + i})
    assert figures.main([str(folder), "--out", str(tmp_path / "figures")]) == 0
    assert (tmp_path / "figures" / "norm-or-elr-clamped.png").read_bytes().startswith(b"\x89PNG")
