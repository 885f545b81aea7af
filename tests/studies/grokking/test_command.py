"""The command end to end: results, resume, determinism, figures, bad input."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import pytest

from experiment.config import ConfigError, dump_yaml
from experiment.results import read_rows
from experiment.storage.run_dir import RunDir
from studies.grokking import figures, suite
from studies.grokking.__main__ import main, settings
from studies.grokking.comparisons import _median_time, orders
from studies.grokking.config import _NO_EFFECT, GrokkingConfig
from studies.grokking.outcome import outcome, sentence
from studies.grokking.run import Run
from studies.grokking.suite import DEFAULTS, GrokkingSweep
from studies.grokking.suites import SUITES
from studies.records import FinishedRun

LENGTHS = ["--delay", "10", "--warmup", "5", "--anneal", "15", "--log-interval", "5"]
TINY = ["--modulus", "11", "--fraction", "0.5", "--batch-size", "32", "--precision", "fp32", *LENGTHS]
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
        run.advance(None)
    run.save()
    run.due = lambda _: True
    run.advance(None)  # is lost
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
        (["--projection", "off", "--norm-end", "2"], "--norm-end has no effect with --projection off"),
        (["--operation", "s5", "--modulus", "50"], "--modulus has no effect with --operation s5"),
        (["--device", "cuda:99"], "--device cuda:99 cannot be used"),
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


OTHER = {"norm_positions": ("query",), "delay": 7, "project_head": False, "coupled_decay": True, "scale_lr": 1e-3}
OTHER |= {"hold_norm_of": "inner"}


@pytest.mark.parametrize(
    ("setting", "value", "field"), [(*key, field) for key, fields in _NO_EFFECT.items() for field in fields]
)
def test_a_setting_without_effect_is_refused(setting, value, field):
    config = replace(GrokkingConfig(), **{setting: value})
    option, other = field.replace("_", "-"), setting.replace("_", "-")
    other = f"--no-{other}" if value is False else f"--{other} {value}"
    with pytest.raises(ConfigError, match=f"--{option} has no effect with {other}"):
        replace(config, **{field: OTHER[field] if field in OTHER else 0.5 * getattr(config, field)}).resolved()


@pytest.mark.parametrize("words", [["--norm-positions", "none"], ["--operation", "s5"], ["--schedule", "constant"]])
def test_resolved_settings_stay_as_they_are(words):
    config = settings(words)
    assert config.resolved() == config
    assert config.norm_positions == (() if "none" in words else GrokkingConfig().norm_positions)


def test_a_hand_edited_setting_is_one_line_that_names_the_file(tmp_path, capsys):
    train(tmp_path, "edited")
    path = tmp_path / "edited" / "config.yaml"
    path.write_text(path.read_text().replace("batch_size: 32", "batch_size: -3"))
    with pytest.raises(SystemExit) as stopped:
        main(["--resume", str(tmp_path / "edited")])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"error: {path}: batch-size is -3: it has to be at least 0\n"


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_root_that_is_a_file_is_refused(tmp_path, capsys, below):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as stopped:
        suite.main(["controls", "--root", str(tmp_path / "file" / below)])
    assert stopped.value.code == 2
    assert "is a file, where a folder is wanted" in capsys.readouterr().err


def test_every_arm_of_every_suite_is_a_valid_run():
    for name in SUITES:
        planned = GrokkingSweep(replace(DEFAULTS, suite=name)).jobs  # reads the settings of each
        assert len({job.name for job in planned}) == len(planned)


def test_a_short_run_has_rows_enough_for_a_curve():
    assert GrokkingConfig().resolved().log_interval == 100
    assert GrokkingConfig(updates=1_000).resolved().log_interval == 20
    assert GrokkingConfig(updates=1_000, log_interval=300).resolved().log_interval == 300


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
    early = replace(config, delay=900)
    assert "0.95 before it" in sentence(outcome(rows, early), early)
    cut = replace(config, updates=rows[-1]["update"], delay=2 * rows[-1]["update"])  # it ends before the re-warm
    assert outcome(rows, cut)["steady"] == rows[-1]["test_accuracy"]


def test_figures_without_runs_are_refused(capsys):
    with pytest.raises(SystemExit):
        figures.main([])
    assert "name at least one run" in capsys.readouterr().err


def test_a_suite_of_runs_becomes_one_figure(tmp_path):
    for folder in ("rewarm", "figure2", "baselines", "norm-or-elr", "mlp"):
        for i, arm in enumerate(SUITES[folder]()[:4]):
            fake(arm, tmp_path / folder, 0.2 * i)
        assert figures.main([str(tmp_path / folder), "--out", str(tmp_path / "figures")]) == 0
        assert (tmp_path / "figures" / f"{folder}.png").read_bytes().startswith(b"\x89PNG")


def fake(arm, folder, late, further=None):
    """A run as its directory would be."""
    config = settings(arm.options())
    run = RunDir.create(folder, arm.name, config)
    rows = [
        {
            "update": 100 * i,
            "seconds": float(i),
            "train_accuracy": 1.0,
            "test_accuracy": min(1.0, max(0.2, i / 50 - late)),
        }
        | (further or {})
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


def test_cells_have_the_lower_median_and_never_is_last():
    def run(norm):
        return FinishedRun("", replace(GrokkingConfig(), norm_end=norm).resolved(), [], None)

    runs = [run(norm) for norm in (1.0, 4.0, 1.0, 1.0, 4.0, 0.25)]
    times = [900, 500, None, 300, None, None]
    cells = {norm: _median_time(runs, times, norm, 1.0) for norm in (0.25, 1.0, 4.0)}
    assert cells == {0.25: math.inf, 1.0: 900.0, 4.0: 500.0}
    assert math.isnan(_median_time(runs, times, 2.0, 1.0))


def test_a_suite_refuses_a_run_of_other_settings(tmp_path, capsys):
    folder = tmp_path / "controls"
    arm = SUITES["controls"]()[0].options()
    config = settings([*arm, "--precision", "fp32", "--beta1", "0.5", "--root", str(folder)])
    (folder / "peak0.001-s0").mkdir(parents=True)
    (folder / "peak0.001-s0" / "config.yaml").write_text(dump_yaml(config))
    with pytest.raises(SystemExit) as stopped:
        suite.main(["controls", "--root", str(tmp_path), "--dry-run"])
    assert stopped.value.code == 2
    assert "arm 'peak0.001' has other settings" in (line := capsys.readouterr().err)
    assert "--beta1 is 0.5 there and 0.9 here: give" in line


@pytest.mark.parametrize(
    "words",
    [["--precision", "fp8"], ["--processes", "0"], ["--log-interval", "0"], ["--seeds", "0"], ["--seeds", "9"]],
)
def test_a_suite_refuses_bad_settings_at_once(words, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        suite.main(["controls", "--root", str(tmp_path), "--dry-run", *words])
    assert stopped.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_suites_keep_the_settings_that_their_published_runs_had():
    """The default anneal of the command is shorter than when the documented tables were made."""
    assert all("anneal" in arm.settings for suite in SUITES.values() for arm in suite())
    budgets = {arm.name: settings(arm.options()).budget for arm in SUITES["rewarm"]()}
    assert [budgets[f"delay{delay}-s0"] for delay in (0, 2_000, 20_000)] == [7_000, 9_000, 27_000]
    assert GrokkingConfig().budget == 7_000
