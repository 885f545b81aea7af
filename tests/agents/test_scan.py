"""`python -m agents.scan`: the scan of runs, on states of their replay or of fresh play, and what it refuses."""

import json
import shutil

import pytest
import torch

import nap
from agents import cli, scan
from agents.config import DQNConfig
from agents.run import bare_agent
from experiment.determinism import seeds
from experiment.storage.checkpoint import load_latest
from experiment.storage.run_dir import RunDir, load_settings
from tests.agents.toys import spoil_checkpoints

WORDS = [
    "--env=Catch", "--network=small", "--threads=1", "--compile=false", "--eval-episodes=0", "--batch-size=8",
]  # fmt: skip
ARMS = {
    "dqn": "--steps=420 --update-start=300 --probe-interval=50 --log-interval=50",
    "der": "--steps=70 --update-start=50 --probe-interval=0 --schedule=constant --noisy --nap --precision=bf16",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for agent, words in ARMS.items():
        assert cli.main(agent, [*WORDS, *words.split(), "--root", str(root), "--name", agent]) == 0
    return root


def scanned(run, tmp_path, *words):
    assert scan.main([str(run), "--out", str(tmp_path / "out.json"), *words]) == 0
    return json.loads((tmp_path / "out.json").read_text())


@pytest.mark.parametrize("agent", ARMS)
def test_a_run_is_scanned_as_its_checkpoint_has_it(agent, runs, tmp_path):
    report = scanned(runs / agent, tmp_path)
    directory = RunDir.open(runs / agent)
    saved = load_latest(directory.checkpoints, only=("trainer",)).state["trainer"]
    config = load_settings(DQNConfig, directory).resolved()
    learner = bare_agent(config, seeds(config.seed, "network")["network"])
    first = {name: float(norm) for name, norm in nap.weight_norms(learner.network).items()}
    learner.network.load_state_dict(saved["agent"]["network"])
    state = saved["agent"]["network"]
    lr = float(saved["agent"]["optimizer"]["param_groups"][0]["lr"])
    assert [weight["name"] for weight in report["weights"]] == list(first)
    for weight in report["weights"]:
        name = weight["name"]
        parts = [state[name], *(state[key] for key in [f"{name.removesuffix('weight')}weight_sigma"] if key in state)]
        norm = float(torch.cat([part.flatten() for part in parts]).double().norm())
        assert weight["norm"] == pytest.approx(norm, rel=1e-5)
        assert weight["growth"] == pytest.approx(norm / first[name], rel=1e-5)
        assert weight["elr"] == pytest.approx(lr / norm, rel=1e-5)
    roles = {weight["role"] for weight in report["weights"]}
    assert roles == ({"scale-invariant", "output"} if "--nap" in ARMS[agent] else {"scale matters", "output"})
    assert [layer["name"] for layer in report["untrained"]] == [layer["name"] for layer in report["layers"]]


def test_the_units_of_a_run_with_a_probe_are_those_of_its_metrics(runs, tmp_path):
    report = scanned(runs / "dqn", tmp_path)
    assert "Units and features: 256 states from the run's replay." in report["notes"]
    rows = [json.loads(line) for line in (runs / "dqn" / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows if "dormant_sokar_0.025" in row][-1]
    assert last["agent_step"] == 420
    for layer in report["layers"]:
        assert layer["dormant"] == pytest.approx(last[f"dormant_sokar_0.025/{layer['name']}"])
        assert layer["erank"] == pytest.approx(last[f"erank_roy/{layer['name']}"], rel=1e-4)
        assert layer["srank"] == last[f"srank_kumar_0.01/{layer['name']}"]


def test_a_run_without_a_probe_is_scanned_on_fresh_play_the_same_each_time(runs, tmp_path, capsys):
    report, again = scanned(runs / "der", tmp_path), scanned(runs / "der", tmp_path)
    assert report == again
    assert "played for this scan" in capsys.readouterr().out
    assert all(layer["full_rank"] == 256 for layer in report["layers"])
    assert all(0 <= layer["dormant_by_gradient"] < 1 for layer in report["layers"])


def refused(capsys, *words):
    with pytest.raises(SystemExit) as stopped:
        scan.main([*map(str, words)])
    printed = capsys.readouterr()
    assert (stopped.value.code, printed.out, printed.err.count("\n")) == (2, "", 1)
    return printed.err


def test_what_cannot_be_scanned_ends_in_one_line_and_writes_nothing(runs, tmp_path, capsys):
    out = ("--out", tmp_path / "new")
    assert "name a run directory" in refused(capsys)
    assert "did you mean 'dqn'?" in refused(capsys, runs / "dqm", *out)
    assert "is not a run" in refused(capsys, tmp_path, *out)
    assert "no checkpoint of step 7 in" in refused(capsys, runs / "dqn", "--step", 7, *out)
    assert "there is no folder" in refused(capsys, runs / "dqn", "--out", tmp_path / "no" / "where")
    shutil.copytree(runs / "dqn", tmp_path / "begun", ignore=shutil.ignore_patterns("checkpoints", "result.json"))
    (tmp_path / "begun" / "checkpoints").mkdir()
    assert "no checkpoint in" in refused(capsys, tmp_path / "begun", *out)
    assert not (tmp_path / "new").exists()


def test_a_network_that_is_not_finite_is_refused(runs, monkeypatch, capsys):
    spoil_checkpoints(monkeypatch)
    assert "head.weight holds NaN or infinity: training diverged" in refused(capsys, runs / "dqn")
