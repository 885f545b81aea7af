"""`python -m agents.fit_probe` and `--fit-probe-interval`: what they measure, and that the run does not notice."""

import json
import shutil
from functools import partial

import pytest
import torch

import agents.build
from agents import cli, fit_probe, metrics
from agents.build import build_env, build_fit_probe
from agents.config import DQNConfig
from agents.training.fitting import FitProbe
from benchmarks.report.metric_series import series
from experiment.determinism import seeds
from experiment.fits import FitSummary
from experiment.storage.run_dir import RunDir, load_settings
from nap.metrics import FitCurves
from tests.agents.toys import spoil_checkpoints

WORDS = [
    "--env=Catch", "--network=small", "--threads=1", "--compile=false", "--eval-episodes=0", "--batch-size=8",
    "--steps=420", "--update-start=300", "--log-interval=50", "--checkpoint-interval=350",
]  # fmt: skip
FIT = ("--draws", "2", "--updates", "3")
ARMS = {"plain": "", "probed": "--fit-probe-interval=60", "nap": "--nap --prioritised --plasticity=crelu"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agents.build, "FitProbe", partial(FitProbe, draws=2, updates=3))
        for arm, words in ARMS.items():
            assert cli.main("dqn", [*WORDS, *words.split(), "--root", str(root), "--name", arm]) == 0
    return root


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def fitted(capsys, out, *words):
    """What the command prints, and the rows of its file."""
    assert fit_probe.main([*map(str, words), *FIT, "--json", str(out)]) == 0
    return capsys.readouterr().out, json.loads(out.read_text())["rows"]


def test_a_run_does_not_notice_that_it_is_measured(runs):
    results = [json.loads((runs / arm / "result.json").read_text()) for arm in ("plain", "probed")]
    assert results[0]["parameter_hash"] == results[1]["parameter_hash"]
    plain, probed = (
        [{key: row[key] for key in row if key != "seconds" and not key.startswith("fit_")} for row in rows(runs / arm)]
        for arm in ("plain", "probed")
    )
    assert [row for row in probed if len(row) > 1] == plain


def test_its_metrics_are_logged_at_the_interval_and_explained(runs):
    found = [row for row in rows(runs / "probed") if "fit_ratio" in row]
    assert [row["agent_step"] for row in found] == [300, 360, 420]  # before 256 states are held there are none
    known = {metric.key for metric in metrics.METRICS}
    for row in found:
        own = {key: row[key] for key in row if key.startswith("fit_")}
        assert len(own) == 8
        assert own.keys() <= known
        assert own["fit_ratio"] == pytest.approx(own["fit_error"] / own["fit_error_fresh"])
        assert own["fit_ratio_low"] < own["fit_ratio"] < own["fit_ratio_high"]
    assert not any("fit_ratio" in row for row in rows(runs / "plain"))
    assert series(rows(runs / "probed"))["fit"][1].tolist() == [row["fit_ratio"] for row in found]


def test_the_command_finds_what_was_logged_and_changes_nothing(runs, tmp_path, capsys):
    before = {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()}
    printed, found = fitted(capsys, tmp_path / "fits.json", runs / "probed")
    assert before == {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()}
    logged = [row for row in rows(runs / "probed") if "fit_ratio" in row][-1]
    assert found[0]["step"] == logged["agent_step"] == 420
    assert found[0]["updates"] == 120
    assert found[0]["ratio"] == {
        "value": pytest.approx(logged["fit_ratio"]),
        "low": pytest.approx(logged["fit_ratio_low"]),
        "high": pytest.approx(logged["fit_ratio_high"]),
    }
    assert found[0]["slowdown"]["value"] == pytest.approx(logged["fit_slowdown"])
    assert f"{logged['fit_ratio']:.2f} [{logged['fit_ratio_low']:.2f}, " in printed
    assert "3 updates of Adam at rate 0.001, minibatches of 32 of 256 states, 2 draws" in printed
    assert all(len(line) <= 120 + len(str(runs)) for line in printed.splitlines())
    assert fitted(capsys, tmp_path / "again.json", runs / "probed")[1] == found
    assert fitted(capsys, tmp_path / "other.json", runs / "probed", "--seed", 5)[1] != found


def test_several_runs_and_checkpoints_are_rows(runs, tmp_path, capsys):
    words = [f"{runs / 'plain'}@all", f"{runs / 'probed'}@350", runs / "nap"]
    printed, found = fitted(capsys, tmp_path / "fits.json", *words)
    places = [(row["run"].rpartition("/")[2], row["step"], row["updates"]) for row in found]
    assert places == [("plain", 350, 50), ("plain", 420, 120), ("probed", 350, 50), ("nap", 420, 120)]
    assert found[0]["errors"] == found[2]["errors"]  # the same run
    assert found[0]["errors"] != found[1]["errors"]
    for row in found:
        assert row["errors"]["updates"] == [1, 2, 3]
        assert 0 < row["aged"] < 3
        assert [len(row["errors"][which]) for which in ("aged", "fresh")] == [2, 2]
    assert printed.count("nap") == 1


def test_a_fresh_network_has_the_structure_of_the_runs_and_another_draw_each_time(runs):
    config = load_settings(DQNConfig, RunDir.open(runs / "nap")).resolved()
    env = build_env(config, 1, seed=0)
    probe = build_fit_probe(config, env)
    env.close()
    one, other = probe.fresh(), probe.fresh()
    state = torch.load(runs / "nap" / "checkpoints" / f"{420:012d}" / "trainer.pt", weights_only=True)["agent"][
        "network"
    ]
    assert {name: value.shape for name, value in one.state_dict().items()} == {k: v.shape for k, v in state.items()}
    assert any("norm" in name for name in state)
    assert not torch.equal(next(one.parameters()), next(other.parameters()))
    assert probe.seed == seeds(config.seed, "fit probe")["fit probe"]


def test_a_summary_is_of_geometric_means():
    curves = FitCurves(torch.tensor([1.0]), torch.tensor([[0.4], [0.1]]), torch.tensor([[0.1], [0.1]]))
    found = FitSummary.of(curves)
    assert (found.aged, found.fresh, found.ratio.value) == (pytest.approx(0.2), pytest.approx(0.1), pytest.approx(2))
    assert found.ratio.low * found.ratio.high == pytest.approx(4)
    spoiled = FitSummary.of(FitCurves(torch.tensor([1.0]), torch.tensor([[torch.nan]]), torch.tensor([[0.1]])))
    assert "fit_ratio" not in spoiled.metrics()


def test_a_run_whose_networks_cannot_be_fitted_goes_on(tmp_path, monkeypatch, capsys):
    def broken(*args, **options):
        raise ValueError("the same output for every input")

    monkeypatch.setattr("agents.training.fitting.fit_random_targets", broken)
    assert cli.main("dqn", [*WORDS, "--fit-probe-interval=300", "--root", str(tmp_path), "--name=a"]) == 0
    assert "agent step 300, no fits of random targets: the same output for every input" in capsys.readouterr().err
    assert not any("fit_ratio" in row for row in rows(tmp_path / "a"))


def refused(capsys, *words):
    with pytest.raises(SystemExit) as stopped:
        fit_probe.main([*map(str, words)])
    printed = capsys.readouterr()
    assert (stopped.value.code, printed.out) == (2, "")
    return printed.err


def test_what_cannot_be_fitted_ends_in_one_line(runs, tmp_path, capsys):
    begun = tmp_path / "begun"
    shutil.copytree(runs / "plain", begun, ignore=shutil.ignore_patterns("checkpoints", "result.json"))
    (begun / "checkpoints").mkdir()
    foreign = tmp_path / "foreign.pt"
    torch.save({}, foreign)
    study = tmp_path / "study"
    study.mkdir()
    (study / "config.yaml").write_text("operation: add\n")
    cases = {
        "name a run directory": (),
        "did you mean 'plain'?": (runs / "plian",),
        "no checkpoint in": (begun,),
        "foreign.pt' is not a run: it is no directory": (foreign,),
        "is a run of a study": (study,),
        "no checkpoint of step 7 in": (f"{runs / 'plain'}@7",),
        "its replay has 420 states, fewer than --states 1000": (runs / "plain", "--states", 1000),
        "--draws is 1: it has to be from 2": (runs / "plain", "--draws", 1),
        "name a file that ends in .json": (runs / "plain", "--json", tmp_path / "a.csv"),
        "there is no folder": (runs / "plain", "--json", tmp_path / "no" / "a.json"),
    }
    for said, words in cases.items():
        error = refused(capsys, *words)
        assert said in error, error
        assert error.count("\n") == 1, error


def test_a_checkpoint_without_a_replay_is_refused(runs, monkeypatch, capsys):
    import experiment.storage.checkpoint as storage

    load = storage.load_latest
    monkeypatch.setattr(storage, "load_latest", lambda *args, **options: load(*args, **options)._replace(rows=None))
    assert "holds no replay, whose states the networks are fitted on" in refused(capsys, runs / "plain", *FIT)


def test_a_network_that_diverged_is_refused(runs, monkeypatch, capsys):
    spoil_checkpoints(monkeypatch)
    assert "an output of the aged network is NaN or infinite" in refused(capsys, runs / "plain", *FIT)
