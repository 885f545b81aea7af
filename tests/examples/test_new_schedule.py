"""The example of a schedule that listens: it is short, it resumes, and a wrong one is refused in one line."""

import json
from pathlib import Path

import pytest
import torch

import examples.new_schedule
from agents import cli
from agents.build import build_schedule
from agents.config import DQNConfig
from examples.new_schedule import CoolDown
from experiment.config import ConfigError

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
    assert cli.main("dqn", [*words, "--schedule", f"{PATH}:factor=0.7,patience=1"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "td_error" in row]
    best, cuts = float("inf"), 0
    for row in rows:
        cuts += row["td_error"] >= best
        best = min(best, row["td_error"])
        assert row["cuts"] == cuts
    assert cuts > 0
    assert rows[-1]["lr"] == pytest.approx(3e-4 * 0.7 ** rows[-2]["cuts"])


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
