"""The high-UTD study: its arms, the real command on Catch, and the tables that its report adds."""

import json
import shlex

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.config import DQNConfig
from benchmarks import high_utd
from benchmarks.high_utd import STOPS, StudySettings, study
from benchmarks.report.learning_curves import Trace
from benchmarks.report.metric_series import WINDOW
from benchmarks.report.stability import largest_fall, largest_rise
from benchmarks.sweep.command import parse
from benchmarks.sweep.runs import KIND
from experiment.sweeps.manifest import Manifest
from experiment.sweeps.status import SweepStatus
from experiment.values import ConfigError

TINY = "--steps 200 --update-start 80 --log-interval 20 --probe-interval 0 --eval-episodes 2 --compile false"


def parsed(
    experiment: str, *more: str, common: str = "--steps 20000 --log-interval 50"
) -> tuple[StudySettings, tuple[str, ...]]:
    words = ["--experiment", experiment, "--suite", "Catch", *more, "--", *shlex.split(common)]
    return parse(words, StudySettings)


def configs(experiment: str, *more: str, **options: str) -> dict[str, DQNConfig]:
    return {name: arm.config("Catch") for name, arm in study(*parsed(experiment, *more, **options)).arms.items()}


def test_schedules_are_five_with_nap_and_without():
    found = configs("schedules", common="--lr 2e-4 --lr-floor 3e-6")
    assert len(found) == 10
    for name, config in found.items():
        kind = name.removeprefix("nap-")
        assert config.nap == name.startswith("nap-")
        assert config.schedule == ("constant" if kind == "low" else kind)
        assert config.lr == (3e-6 if kind == "low" else 2e-4)
        assert (config.lr_floor, config.anneal) == (3e-6, "floor")


def test_stops_have_cycles_of_one_length_and_three_peaks():
    found = configs("stops", common="--lr 1e-3 --cycles 20 --cycle-fraction 0.4")
    assert len(found) == len(STOPS) * 3
    assert {2 / 50, 5 / 50, 10 / 50} < set(STOPS)  # 2, 5 and 10 cycles of the paper's 4M of 200M frames
    assert all(config.cycle_fraction / config.cycles == pytest.approx(0.02) for config in found.values())
    assert {(config.cycle_fraction, config.lr) for config in found.values()} == {
        (stop, lr) for stop in STOPS for lr in (2.5e-4, 1e-3, 4e-3)
    }
    assert all(config.nap and config.schedule == "early-cycle" for config in found.values())


def test_automatic_stops_differ_in_the_rule_alone_and_own_arms_and_options_come_on_top():
    found = configs("automatic", "--arm", "own:--nap --schedule cosine", common="--log-interval 10 --anneal linear")
    assert [config.schedule for config in found.values()] == [*high_utd.AUTOMATIC, "cosine"]
    assert {(config.anneal, config.cycles, config.cycle_fraction) for config in found.values()} == {("linear", 10, 0.2)}


def test_options_of_nap_are_shared_by_arms_with_and_without_it():
    found = configs("schedules", common="--nap-norm rms")
    assert {config.nap_norm for config in found.values()} == {"rms"}


@pytest.mark.parametrize(
    ("experiment", "common", "message"),
    [
        ("schedules", "--lr-floor 0", "--lr-floor is 0.0: it has to be above 0, at most --lr 0.0003"),
        ("automatic", "--steps 20000", "early-cycle-cusum needs 8 rows of metrics in each"),
        ("stops", "--cycles 3000 --steps 2000 --update-start 10", "fewer"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_is_written(experiment, common, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        study(*parsed(experiment, "--root", str(tmp_path / "root"), common=common))
    assert not (tmp_path / "root").exists()


@settings(max_examples=100, deadline=None)
@given(
    games=st.lists(st.tuples(st.integers(1, 20), st.integers(-50, 50)), min_size=1, max_size=45),
    steps=st.integers(0, 60),
)
def test_the_largest_fall_is_that_of_all_pairs_of_games_within_the_steps(games, steps):
    ended = np.cumsum([length for length, _ in games]).astype(float)
    returns = np.array([value for _, value in games], float)
    trace = Trace("arm", "Catch", ended, ended, ended, returns, {})
    whole = range(WINDOW - 1, len(games))
    falls = [returns[i] - returns[j] for j in whole for i in whole if i <= j and ended[j] - ended[i] <= steps]
    assert largest_fall(trace, steps) == max(falls, default=None)


@settings(max_examples=100, deadline=None)
@given(errors=st.lists(st.just(0.0) | st.floats(1e-3, 1e3), max_size=20))
def test_the_largest_rise_is_that_of_all_pairs_of_the_second_half(errors):
    steps = np.arange(len(errors), dtype=float) + 1
    end = np.array([max(len(errors), 1)], float)
    trace = Trace("arm", "Catch", end, end, end, end, {"td": (steps, np.array(errors))})
    late = [error for step, error in zip(steps, errors, strict=True) if step >= end / 2 and error > 0]
    rises = [after / before for i, before in enumerate(late) for after in late[i:]]
    assert largest_rise(trace) == max(rises, default=None)


def test_the_command_runs_an_experiment_and_reports_on_it(tmp_path, monkeypatch):
    """Two arms and two short runs, in the processes of the launcher; a schedule that stops by itself is one of them."""
    monkeypatch.setattr(high_utd, "AUTOMATIC", ("cyclic", "early-cycle-plateau"))
    root = tmp_path / "root"
    where = ["--experiment", "automatic", "--suite", "Catch", "--seeds", "1", "--root", str(root)]
    assert high_utd.main([*where, "--", *shlex.split(TINY), "--lr-floor", "1e-5", "--cycle-patience", "2"]) == 0
    sweep = SweepStatus(KIND, root, Manifest.load(root).runs)
    sweep.look()
    assert len(sweep.named("done")) == 2
    metrics = root / "early-cycle-plateau-Catch-s0" / "metrics.jsonl"
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    stop = [row["stopped_at"] for row in rows if "stopped_at" in row][-1]
    assert 8 <= stop < 200
    rates = [row["lr"] for row in rows if row.get("lr") is not None and row["agent_step"] > stop]
    assert rates == pytest.approx([1e-5] * len(rates))
    assert high_utd.main(["--figure", str(root)]) == 0
    (line,) = (root / "report" / "stops.csv").read_text().splitlines()[1:]
    assert line.startswith(f"Catch,early-cycle-plateau,{float(stop)},")
    text = (root / "report" / "report.md").read_text()
    assert "## Largest fall of the return" in text
    assert "## Largest rise of the TD error" in text
