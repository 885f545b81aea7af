"""The example of a schedule that listens: it is short, it resumes, and a wrong one is refused in one line."""

import importlib
import json
import shutil
from pathlib import Path

import pytest
import torch

import examples.new_schedule
import nap
from agents import cli
from agents.build import build_schedule
from agents.config import DQNConfig
from examples.new_schedule import CoolDown
from experiment.config import ConfigError
from studies.grokking import __main__ as grokking
from studies.warm_start import __main__ as warm_start
from tests.agents.toys import catch_trainer

PATH = "examples.new_schedule:CoolDown"


def optimizer():
    return torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=torch.tensor(0.1))


def test_it_is_short():
    assert len(Path(examples.new_schedule.__file__).read_text().splitlines()) <= 40


def test_it_cools_down_where_the_signal_falls_no_more_and_goes_on_from_its_state():
    schedule = CoolDown(optimizer(), 100, factor=0.5, patience=2)
    for step, (signal, rate) in enumerate([(3, 0.1), (2, 0.1), (2, 0.1), (5, 0.05), (1, 0.05), (1, 0.05), (1, 0.025)]):
        schedule.observe(signal)
        schedule.move_to(step)
        assert float(schedule.optimizer.param_groups[0]["lr"]) == pytest.approx(rate)
    resumed = CoolDown(optimizer(), 100, factor=0.5, patience=2)
    resumed.load_state_dict(schedule.state_dict())
    assert resumed.state_dict() == schedule.state_dict()
    assert float(resumed.optimizer.param_groups[0]["lr"]) == pytest.approx(0.025)


def test_it_gets_the_td_error_of_each_row_of_a_run(tmp_path):
    words = ["--env=Catch", "--steps=300", "--update-start=50", "--threads=1", "--compile=false", "--batch-size=8"]
    words += ["--n-step=3", "--eval-episodes=1", "--log-interval=10", "--root", str(tmp_path), "--name=a"]
    assert cli.main("dqn", [*words, "--schedule", f"{PATH}:factor=0.7,patience=1,signal=td_error"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "td_error" in row]
    best, cuts = float("inf"), 0
    for row in rows:
        cuts += row["td_error"] >= best
        best = min(best, row["td_error"])
        assert row["cuts"] == cuts
    assert cuts > 0
    assert rows[-1]["lr"] == pytest.approx(3e-4 * 0.7 ** rows[-2]["cuts"])


def test_the_floor_of_the_named_schedules_does_not_bind_its_peak():
    low = DQNConfig(schedule=PATH, lr=1e-6).resolved()
    assert low.lr < low.lr_floor
    assert build_schedule(low, optimizer()).floors == [0.0]


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        (
            f"{PATH}:factr=0.5",
            "--schedule: examples.new_schedule:CoolDown has no option 'factr'; did you mean 'factor'",
        ),
        ("examples.new_schedule:Cooldown", "did you mean 'CoolDown'"),
    ],
)
def test_a_wrong_one_is_one_line(schedule, said):
    config = DQNConfig(schedule=schedule).resolved()
    with pytest.raises(ConfigError, match=said):
        build_schedule(config, optimizer())


def test_an_unknown_name_is_refused_before_anything_is_built():
    with pytest.raises(ConfigError, match="'cosin' is no known schedule; did you mean 'cosine'"):
        DQNConfig(schedule="cosin").resolved()


LEARN = [f"--schedule={PATH}:factor=0.7,patience=2", "--threads=1"]
STUDIES = {
    "grokking": (grokking, ["--modulus=11", "--batch-size=32", "--updates=120", "--lr=0.1"]),
    "warm_start": (warm_start, ["--dataset=digits", "--batch-size=32", "--phase-updates=60", "--lr=0.1"]),
}
INTERVALS = ["--log-interval=20", "--checkpoint-interval=50"]


def rows_of(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if "seconds" not in key} for row in rows]


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_feeds_it_the_loss_resumes_it_and_draws_two_arms(study, tmp_path):
    command, words = STUDIES[study]
    for name, schedule in (("cool-s0", LEARN), ("constant-s0", ["--schedule=constant", "--threads=1"])):
        assert command.main([*words, *INTERVALS, *schedule, f"--root={tmp_path}", f"--name={name}"]) == 0
    whole = tmp_path / "cool-s0"
    rows, result = rows_of(whole), json.loads((whole / "result.json").read_text())
    cuts = [row["cuts"] for row in rows]
    assert cuts[0] == 0 < cuts[-1]
    assert rows[-1]["lr"] <= 0.1 * 0.7 ** cuts[-2] * (1 + 1e-6)

    (whole / "result.json").unlink()
    shutil.rmtree(max((whole / "checkpoints").iterdir()))  # that of the end
    assert command.main([f"--resume={whole}"]) == 0
    assert json.loads((whole / "result.json").read_text())["parameter_hash"] == result["parameter_hash"]
    assert rows_of(whole) == rows

    figures = importlib.import_module(f"studies.{study}.figures")
    assert figures.main([str(tmp_path), f"--out={tmp_path / 'figures'}"]) == 0
    assert list((tmp_path / "figures").glob("*.png"))


@pytest.mark.parametrize("study", STUDIES)
@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        (f"{PATH}:signal=td_error", "--schedule listens to the signal 'td_error', and a study has loss"),
        (f"{PATH}:factr=0.5", "has no option 'factr'; did you mean 'factor'"),
        (f"{PATH}:total_steps=5", "has no option 'total_steps'"),
        ("examples.new_schedule:Cooldown", "did you mean 'CoolDown'"),
        ("examples.nothing:CoolDown", "cannot be imported"),
        ("cosin", "'cosin' is no known schedule; did you mean 'cosine'"),
        ("cosine:floor=1", "only an import path takes options here"),
        (f"{__name__}:Broken", "ZeroDivisionError: "),
    ],
)
def test_a_study_refuses_a_wrong_one_in_one_line(study, schedule, said, tmp_path, capsys):
    command, words = STUDIES[study]
    with pytest.raises(SystemExit) as stopped:
        command.main([*words, f"--schedule={schedule}", f"--root={tmp_path}", "--threads=1"])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


class Broken(nap.Schedule):
    def shape(self, step):
        return 1 / step


def test_a_setting_of_other_schedules_is_refused_next_to_an_own_one():
    with pytest.raises(ConfigError, match="--cycles has no effect"):
        grokking.settings([*LEARN, "--cycles=3"])
    with pytest.raises(ConfigError, match="--lr-floor does nothing without a schedule that has a floor"):
        warm_start.settings([*LEARN, "--lr-floor=1e-4"])


@pytest.mark.parametrize("study", STUDIES)
def test_a_run_is_named_after_its_class(study):
    command, words = STUDIES[study]
    run = importlib.import_module(f"studies.{study}.run").Run
    assert "-CoolDown-" in run.default_name(command.settings([*words, *LEARN]))


def test_an_agent_names_the_signals_that_it_has():
    with pytest.raises(ConfigError, match="'los', and an agent has loss, td_error, fresh_td_error, return"):
        catch_trainer(schedule=f"{PATH}:signal=los")
