"""The command end to end: results, resume, determinism, figures, bad input."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from experiment.config import dump_yaml
from experiment.run_dir import RunDir
from studies.grokking import figures, speed
from studies.grokking.__main__ import main, settings
from studies.grokking.comparisons import orders
from studies.grokking.config import GrokkingConfig
from studies.grokking.outcome import outcome, sentence
from studies.grokking.run import Run
from studies.grokking.suite import STUDY
from studies.grokking.suites import SUITES
from studies.records import FinishedRun, read_rows
from studies.suite import SuiteConfig

LENGTHS = ["--delay", "10", "--warmup", "5", "--anneal", "15", "--log-interval", "5"]
TINY = ["--modulus", "11", "--fraction", "0.5", "--batch-size", "32", *LENGTHS]
TIMES = ("seconds", "measuring_seconds")


def train(tmp_path, name, *options):
    assert main([*TINY, "--root", str(tmp_path), "--name", name, "--no-figure", *options]) == 0
    run = RunDir(tmp_path / name)
    rows = [{key: value for key, value in row.items() if key not in TIMES} for row in read_rows(run)]
    return json.loads(run.result.read_text()), rows


def test_the_command_trains_and_draws(tmp_path):
    command = [sys.executable, "-m", "studies.grokking", *TINY, "--root", str(tmp_path), "--name", "whole"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"figure: {tmp_path}/whole/figure.png" in done.stdout
    assert (tmp_path / "whole" / "figure.png").read_bytes().startswith(b"\x89PNG")
    result = json.loads((tmp_path / "whole" / "result.json").read_text())
    rows = read_rows(RunDir(tmp_path / "whole"))
    assert [row["update"] for row in rows] == list(range(0, 31, 5))
    assert result["final_test_accuracy"] == rows[-1]["test_accuracy"]
    assert result["updates"] == 30
    assert {"elr/up.weight", "norm/head.weight", "pattern_change/activation", "erank_roy/output"} <= rows[-1].keys()


def test_equal_settings_give_equal_bits_and_another_seed_others(tmp_path):
    a, b, c = (train(tmp_path, name, "--seed", seed) for name, seed in (("a", "1"), ("b", "1"), ("c", "2")))
    assert a[0]["parameter_hash"] == b[0]["parameter_hash"] != c[0]["parameter_hash"]
    assert a[1] == b[1]


@pytest.mark.parametrize("variant", ["adamw", "grokfast-ema", "omnigrok"])
def test_a_run_that_is_stopped_and_resumed_is_the_run_in_one_go(tmp_path, variant):
    options = ["--optimizer", variant, *(["--projection", "off"] if variant == "omnigrok" else [])]
    whole = train(tmp_path, "whole", *options)
    words = [*TINY, "--root", str(tmp_path), "--name", "parts", "--no-figure", *options]
    run = Run(settings(words))
    run._measure()
    for _ in range(13):
        run.learner.update()
        run._report(run.due(run.learner.updates))
    run._save()
    run.learner.update()  # is lost
    run._report(due=True)
    run.tracker.close()
    run.directory.unlock()
    assert main(["--resume", str(tmp_path / "parts")]) == 0
    result = json.loads((tmp_path / "parts" / "result.json").read_text())
    assert result["parameter_hash"] == whole[0]["parameter_hash"]
    rows = [{k: v for k, v in row.items() if k not in TIMES} for row in read_rows(RunDir(tmp_path / "parts"))]
    assert rows == whole[1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--operation", "div"], "needs a prime --modulus, and 117 is not one"),
        (["--fraction", "1.5"], "from 0 to 1"),
        (["--norm-positions", "atention"], "did you mean 'attention'?"),
        (["--weigth-decay", "1"], "did you mean '--weight-decay'?"),
        (["--lr", "1e-6"], "at most the peak"),
        (["--projection", "off", "--norm-end", "2"], "needs --projection frobenius"),
        (["--resume", "nowhere"], "there is no such directory"),
    ],
)
def test_bad_input_is_one_line_and_code_2(words, says, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_resume_takes_no_other_settings(tmp_path, capsys):
    train(tmp_path, "done")
    for words, says in ((["--lr", "0.02"], "keeps the settings"), ([], "is finished")):
        with pytest.raises(SystemExit):
            main(["--resume", str(tmp_path / "done"), *words])
        assert says in capsys.readouterr().err


def test_every_arm_of_every_suite_is_a_valid_run():
    for name in SUITES:
        planned = STUDY.jobs(SuiteConfig(suite=name))
        assert len({job.name for job in planned}) == len(planned)
        assert all(isinstance(settings(job.command[3:]), GrokkingConfig) for job in planned)


def test_an_outcome_is_read_off_the_rows():
    config = replace(GrokkingConfig(delay=200, warmup=100, anneal=700), log_interval=100).resolved()
    accuracies = [0.0, 0.19, 0.21, 0.5, 0.96, 0.6, 0.99, 1.0, 0.98, 0.97, 1.0]
    rows = [
        {"update": 100 * i, "seconds": float(i), "train_accuracy": min(1.0, i), "test_accuracy": value}
        for i, value in enumerate(accuracies)
    ]
    found = outcome(rows, config)
    assert (found["updates_to_test_95"], found["updates_from_rewarm_to_test_95"]) == (400, 200)
    assert (found["updates_to_train_99"], found["seconds_to_test_99"]) == (100, 6.0)
    assert (found["before_rewarm"], found["plateau"], found["steady"]) == (0.21, [0.19, 0.21], 1.0)
    assert outcome(rows, replace(config, delay=0))["steady"] == 0.97  # the last tenth is of what follows the re-warm
    assert outcome(rows, replace(config, delay=900))["updates_from_rewarm_to_test_95"] is None
    assert "0.99 within 400 updates of it" in sentence(found, config)
    assert outcome(rows[:3], config)["updates_to_test_95"] is None


def test_figures_without_runs_are_refused(capsys):
    with pytest.raises(SystemExit):
        figures.main([])
    assert "name at least one run" in capsys.readouterr().err


def test_a_suite_of_runs_becomes_one_figure(tmp_path):
    for folder in ("rewarm", "figure2", "baselines", "norm-or-elr", "mlp"):
        for i, job in enumerate(STUDY.jobs(SuiteConfig(suite=folder, root=str(tmp_path)))[:4]):
            fake(job, 0.2 * i)
        assert figures.main([str(tmp_path / folder), "--out", str(tmp_path / "figures")]) == 0
        assert (tmp_path / "figures" / f"{folder}.png").read_bytes().startswith(b"\x89PNG")


def fake(job, late):
    """A run as its directory would be."""
    config = replace(settings(job.command[3:]), name=None)
    run = RunDir.create(job.directory.parent, job.name, config)
    rows = [
        {
            "update": 100 * i,
            "seconds": float(i),
            "train_accuracy": 1.0,
            "test_accuracy": min(1.0, max(0.2, i / 50 - late)),
        }
        for i in range(config.budget // 100 + 1)
    ]
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run.write_result({"symmetric_floor": 0.2})
    run.unlock()


def test_orders_are_told_apart():
    cells = [(norm, elr) for norm in (0.25, 1.0, 4.0) for elr in (0.25, 1.0, 4.0)]
    runs = [
        FinishedRun(f"{norm}-{elr}", replace(GrokkingConfig(), norm_end=norm, elr_end=elr).resolved(), [], None)
        for norm, elr in cells
    ]
    times = [None if elr < 1 else int(1000 / elr) for _, elr in cells]  # the ELR alone decides
    found = orders(runs, times)
    assert found["elr_end"].value == 1.0
    assert found["norm_end"].value == pytest.approx(0.5)


def test_a_suite_refuses_a_run_of_other_settings(tmp_path, capsys):
    folder = tmp_path / "controls"
    config = settings(["--lr", "1e-3", "--seed", "0", "--log-interval", "7", "--root", str(folder)])
    (folder / "peak0.001-s0").mkdir(parents=True)
    (folder / "peak0.001-s0" / "config.yaml").write_text(dump_yaml(config))
    with pytest.raises(SystemExit) as stopped:
        STUDY.main(["controls", "--root", str(tmp_path), "--plan"])
    assert stopped.value.code == 2
    assert "has --log-interval 7, this suite 200" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--precision", "fp8"], ["--processes", "0"], ["--log-interval", "0"]])
def test_a_suite_refuses_bad_settings_at_once(words, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        STUDY.main(["controls", "--root", str(tmp_path), "--plan", *words])
    assert stopped.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize("words", [["--rounds", "0"], ["--updates", "0"], ["--threads", "0"], ["--batch-size", "-1"]])
def test_speed_refuses_bad_settings(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        speed.main(words)
    assert stopped.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
