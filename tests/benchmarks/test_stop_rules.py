"""Rules for the end of cycling: the simulated learners, and the table of the real command."""

import math

import numpy as np
import pytest

from benchmarks.stop_rules import CYCLES, RULES, SAMPLES, main, noise_scale, row, simulate, stopped


def test_a_learner_whose_target_grows_has_rising_errors_and_returns():
    signals = simulate(CYCLES, 4, seed=0)
    rest = simulate(0, 4, seed=0)
    early, late = slice(4 * SAMPLES, 8 * SAMPLES), slice(-4 * SAMPLES, None)
    for name in ("fresh_td_error", "return"):
        assert signals[name].shape == (CYCLES * SAMPLES, 4)
        assert (signals[name][late].mean(0) > 1.5 * signals[name][early].mean(0)).all()
        assert rest[name][late].mean(0) == pytest.approx(rest[name][early].mean(0), rel=0.1)


def test_the_noise_scale_of_two_half_minibatches():
    one, two = np.array([[[3.0, 0.0]]]), np.array([[[1.0, 0.0]]])
    assert noise_scale(one, two) == pytest.approx(32 * 4 / 4 / 3)
    assert noise_scale(one, -one * 0.5) == pytest.approx(32 * (4.5**2 / 4) / (0.01 * 1.5**2 / 4))


def test_cusum_stops_after_a_target_rests_and_not_before():
    signals = {rest: simulate(rest, 3, seed=1) for rest in (8, CYCLES)}
    ends = stopped("CUSUM, fresh TD error", signals[8])
    assert all(8 <= end < 16 for end in ends)
    assert stopped("CUSUM, fresh TD error", signals[CYCLES]) == [math.inf] * 3


def test_a_row_counts_early_stops_delays_and_none():
    assert row("x", 8, [4.0, 9.0, 11.0, math.inf]) == ["x", "8", "0.25", "2.0", "0.25"]
    assert row("x", CYCLES, [math.inf, 3.0]) == ["x", "never", "0.50", "-", "0.50"]


def test_the_command_prints_every_rule_and_refuses_what_is_none(capsys):
    assert main(["--learners", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 4 * len(RULES)
    with pytest.raises(SystemExit) as refused:
        main(["--learners", "0"])
    assert refused.value.code == 2
    assert "--learners" in capsys.readouterr().err
    with pytest.raises(SystemExit) as refused:
        main(["--learners", "1", "--growth", "1e300"])
    assert refused.value.code == 2
    assert "--growth" in capsys.readouterr().err
