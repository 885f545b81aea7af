"""The command end to end, on scikit-learn's digits: results, resume, determinism, bad input."""

import json
import os
import signal
from dataclasses import replace

import pytest

from experiment.interrupt import INTERRUPTED
from experiment.results import read_rows
from experiment.storage.run_dir import RunDir
from studies.warm_start.__main__ import main
from studies.warm_start.data import load
from studies.warm_start.learner import Learner

pytest.importorskip("sklearn")
TASK = ["--dataset", "digits", "--batch-size", "32", "--threads", "1"]
SMALL = [*TASK, "--width", "4", "--hidden", "8", "--strides", "2,2,1"]
TINY = [*SMALL, "--phase-updates", "10", "--log-interval", "5", "--lr", "0.01"]
COMPILED = ["--compile", "--precision", "bf16"]
TIMES = ("seconds", "measuring_seconds")


def outcome(path):
    run = RunDir(path)
    rows = [{key: value for key, value in row.items() if key not in TIMES} for row in read_rows(run)]
    return json.loads(run.result.read_text()), rows


def train(tmp_path, name, *options):
    assert main([*TINY, "--root", str(tmp_path), "--name", name, "--no-figure", *options]) == 0
    return outcome(tmp_path / name)


def test_the_command_trains_and_says_what_came_of_it(tmp_path, capsys):
    result, rows = train(tmp_path, "whole", "--nap")
    assert "130 -> 1,297 images" in capsys.readouterr().out
    assert [row["update"] for row in rows] == [0, 5, 10, 15, 20]
    assert [row["phase"] for row in rows] == [0, 0, 0, 1, 1]
    assert result["final_test_accuracy"] == rows[-1]["test_accuracy"]
    assert result["phase_accuracy"] == [rows[2]["test_accuracy"], rows[4]["test_accuracy"]]
    assert (result["switches"], result["updates"], result["data"]) == ([10], 20, "digits")
    assert rows[0]["train_accuracy"] is None
    assert 0 <= rows[-1]["train_accuracy"] <= 1
    assert rows[-1]["norm/hidden.weight"] == pytest.approx(rows[0]["norm/hidden.weight"], rel=1e-5)
    assert {"elr/conv1.weight", "global_norm", "pattern_change/relu2", "dead_units", "erank_roy/relu4"} <= {*rows[-1]}
    assert {"dormant_grama_0.01", "dormant_grama_0.01/relu4"} <= {*rows[-1]}


def test_equal_settings_give_equal_bits_and_another_seed_others(tmp_path):
    a, b, c = (train(tmp_path, name, "--seed", seed) for name, seed in (("a", "1"), ("b", "1"), ("c", "2")))
    assert a[0]["parameter_hash"] == b[0]["parameter_hash"] != c[0]["parameter_hash"]
    assert a[1] == b[1]


def test_measuring_changes_nothing(tmp_path):
    options = ["--plasticity", "redo:period=3", "--augment"]
    often, rarely = (train(tmp_path, interval, *options, "--log-interval", interval) for interval in ("1", "50"))
    assert often[0]["parameter_hash"] == rarely[0]["parameter_hash"]
    assert [row["update"] for row in rarely[1]] == [0, 10, 20]  # the end of each phase in any case


@pytest.mark.parametrize(
    ("at", "options"),
    [
        (7, ["--nap", "--augment"]),
        (10, ["--at-switch", "cold", "--schedule", "cusum", "--rates", "even-ratio"]),
        (13, ["--plasticity", "hyperball:affine=free,scale=3"]),
        (13, ["--plasticity", "redo:period=4", "spectral", "--later-peak", "3"]),
        (13, ["--plasticity", "c-chain:after=3,window=5", "infer", "regrama:period=4,tau=0.3", "--augment"]),
        (12, ["--protocol", "ash50", "--schedule", "constant", "--batch-size", "512"]),
        (7, ["--protocol", "lee10noisy", "--norm-over", "none"]),
        pytest.param(15, ["--plasticity", "c-chain:after=3,window=5", "infer", *COMPILED], marks=pytest.mark.slow),
        pytest.param(15, ["--nap", *COMPILED], marks=pytest.mark.slow),
    ],
)
def test_a_run_that_is_interrupted_and_resumed_is_the_run_in_one_go(tmp_path, monkeypatch, at, options):
    whole = train(tmp_path, "whole", *options)
    update = Learner.update

    def interrupted(learner):
        update(learner)
        if learner.updates == at:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(Learner, "update", interrupted)
        words = [*TINY, "--root", str(tmp_path), "--name", "parts", "--no-figure", *options]
        assert main(words) == INTERRUPTED
    assert not (tmp_path / "parts" / "result.json").exists()
    assert main(["--resume", str(tmp_path / "parts")]) == 0
    parts = outcome(tmp_path / "parts")
    assert parts[0]["parameter_hash"] == whole[0]["parameter_hash"]
    assert parts[1] == whole[1]


def test_ash50_ends_a_phase_when_it_has_learned_enough(tmp_path):
    words = [*TASK, "--width", "8", "--hidden", "32", "--root", str(tmp_path), "--name", "run", "--no-figure"]
    words += ["--protocol", "ash50", "--schedule", "constant", "--phase-updates", "1000", "--log-interval", "200"]
    assert main(words) == 0
    result, rows = outcome(tmp_path / "run")
    [switch] = result["switches"]
    images, batch = 648, 32  # half of 1,297
    passes = -(-images // batch)
    assert switch % passes == 0
    assert passes < switch < 1000
    assert result["updates"] < switch + 1000
    assert rows[-1]["test_accuracy"] > 0.9


def test_the_folder_of_the_data_may_be_another_after_a_resume(tmp_path, monkeypatch, capsys):
    words = [*TINY, "--root", str(tmp_path), "--name", "run", "--no-figure", "--data-dir", "here"]
    with monkeypatch.context() as patched:
        patched.setattr(Learner, "update", lambda learner: os.kill(os.getpid(), signal.SIGINT))
        assert main(words) == INTERRUPTED
    asked = []
    digits = load("digits", None)
    monkeypatch.setattr("studies.warm_start.run.load", lambda name, folder: asked.append(folder) or digits)
    with pytest.raises(SystemExit):
        main(["--resume", str(tmp_path / "run"), "--data-dir", "there", "--lr", "0.02"])
    assert "give no others (except --data-dir, --checkpoint-at and --track)" in capsys.readouterr().err
    assert main(["--resume", str(tmp_path / "run"), "--data-dir", "there"]) == 0
    assert asked == ["there"]


def test_a_run_does_not_go_on_with_other_data_of_the_same_name(tmp_path, monkeypatch, capsys):
    words = [*TINY, "--root", str(tmp_path), "--name", "run", "--no-figure"]
    with monkeypatch.context() as patched:
        patched.setattr(Learner, "update", lambda learner: os.kill(os.getpid(), signal.SIGINT))
        assert main(words) == INTERRUPTED
    digits = load("digits", None)
    monkeypatch.setattr(
        "studies.warm_start.run.load", lambda *_: replace(digits, train_labels=digits.train_labels.flip(0))
    )
    with pytest.raises(SystemExit) as stopped:
        main(["--resume", str(tmp_path / "run")])
    assert stopped.value.code == 2
    assert (
        capsys.readouterr().err
        == "error: digits is not what the run has learned from: give it the images that it had\n"
    )


RESNET = ["--network", "resnet18", "--width", "2", "--hidden", "256"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--protocol", "ash50"], "give --schedule constant"),
        (["--plasticity", "hyperball", "--norm-over", "none"], "leave --norm-over none out"),
        (["--plasticity", "redo:peroid=3"], "redo has no option 'peroid'; did you mean 'period'?"),
        (["--plasticity", "redo:tau=-1"], "redo: tau"),
        (["--plasticity", "reset:layers=haed"], "did you mean 'head'?"),
        (["--plasticity", "crelu", *RESNET], "crelu: stem.2 of ResNet18 cannot be replaced: it feeds add"),
        (["--plasticity", "injection", *RESNET], "name its head="),
        (["--plasticity", "crelu", "redo"], "do not go together"),
        (
            ["--plasticity", "adam-rel", "--optimizer", "muon"],
            "error: --plasticity: adam-rel: Muon corrects its moments by no step count, as Adam does: train with Adam",
        ),
        (
            ["--plasticity", "optimizer-reset", "--optimizer", "muon"],
            "there is no target network here; give a number of updates, optimizer-reset:period=N",
        ),
        (["--device", "tpu"], "--device tpu"),
        (["--resume", "nowhere"], "there is no such directory"),
    ],
)
def test_bad_input_is_one_line_and_code_2_and_leaves_nothing(tmp_path, words, says, capsys):
    check_refused(tmp_path, words if words[0] == "--resume" else [*TINY, *words], says, capsys)


def test_missing_data_is_one_line(tmp_path, capsys):
    folder = tmp_path / "empty"
    check_refused(tmp_path / "run", ["--data-dir", str(folder)], "CIFAR-10 is not there", capsys)


def check_refused(root, words, says, capsys):
    root.mkdir(exist_ok=True)
    with pytest.raises(SystemExit) as stopped:
        main([*words, *([] if words[0] == "--resume" else ["--root", str(root)])])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not list(root.iterdir())
