"""Runs of both studies are forked: to the bit if nothing is changed, else under their own settings."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
from pathlib import Path

import pytest

import nap
from experiment.config import ConfigError
from experiment.fork_settings import Planned
from experiment.results import read_rows
from experiment.storage import checkpoint
from experiment.storage.run_dir import RunDir
from studies.grokking.__main__ import settings as grokking_settings
from studies.grokking.learner import Learner as GrokkingLearner
from studies.grokking.run import Run as GrokkingRun
from studies.warm_start import comparisons
from studies.warm_start.__main__ import settings as warm_start_settings
from studies.warm_start.learner import Learner as WarmStartLearner
from tests.agents.test_resume import differences
from tests.studies.test_resume import STUDIES, mortal, outcome, train

pytest.importorskip("sklearn")
CHANGES = {
    "grokking": "--lr 1e-3 --weight-decay 0.1 --updates 18 --plasticity upgd fire:at=now",
    "warm-start": "--lr 1e-3 --no-nap --plasticity l2-init --phase-updates 9 --schedule linear --lr-warmup none",
}


def trunk(study: str, root: Path) -> RunDir:
    assert train(study, root, "trunk", "--keep-checkpoints", "every") == 0
    return RunDir(root / "trunk")


def fork(study: str, root: Path, name: str, *words: str, step: int = 8) -> int:
    code = STUDIES[study][0](["--fork", f"{root}/trunk@{step}", "--name", name, *words])
    RunDir(root / name).unlock()
    return code


@pytest.mark.parametrize("study", STUDIES)
@pytest.mark.parametrize("step", [4, 12])
def test_with_nothing_changed_it_has_the_bits_of_the_run_that_went_on(study, step, tmp_path):
    whole = trunk(study, tmp_path)
    assert fork(study, tmp_path, "fork", step=step) == 0
    (state, rows), (wanted, all_rows) = outcome(RunDir(tmp_path / "fork")), outcome(whole)
    assert differences(state, wanted) == []
    assert rows == [row for row in all_rows if row["update"] > step]


def test_another_optimiser_starts_fresh(tmp_path):
    trunk("warm-start", tmp_path)
    assert fork("warm-start", tmp_path, "muon", "--optimizer", "muon", "--lr", "1e-3") == 0
    assert fork("warm-start", tmp_path, "adam", "--lr", "1e-3") == 0
    muon, adam = (json.loads(RunDir(tmp_path / name).result.read_text()) for name in ("muon", "adam"))
    assert muon["fork"]["changed"]["optimizer"] == ["adam", "muon"]
    assert muon["fork"]["schedule"]["fork"]["step"] == adam["fork"]["schedule"]["fork"]["step"]
    assert muon["fork"]["parameter_hash"] == adam["fork"]["parameter_hash"]
    assert muon["parameter_hash"] != adam["parameter_hash"]


@pytest.mark.parametrize("study", STUDIES)
@pytest.mark.parametrize(("call", "calls"), [("update", 1), ("update", 4), ("save", 2)])
def test_killed_and_resumed_it_ends_the_same(study, call, calls, tmp_path):
    trunk(study, tmp_path)
    words = CHANGES[study].split()
    assert fork(study, tmp_path, "whole", *words) == 0
    if (child := os.fork()) == 0:
        gc.freeze()
        owner = STUDIES[study][1] if call == "update" else checkpoint
        setattr(owner, call, mortal(getattr(owner, call), calls))
        os._exit(fork(study, tmp_path, "broken", *words))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    shutil.rmtree(tmp_path / "trunk")
    main = STUDIES[study][0]
    assert main(["--resume", str(tmp_path / "broken")]) == 0
    whole, broken = RunDir(tmp_path / "whole"), RunDir(tmp_path / "broken")
    assert differences(outcome(broken)[0], outcome(whole)[0]) == []
    assert outcome(broken)[1] == outcome(whole)[1]
    facts = [json.loads(run.result.read_text())["fork"] for run in (broken, whole)]
    assert facts[0] == facts[1]
    assert facts[0]["schedule"]["fork"]["step"] == facts[0]["schedule"]["source"]["step"]


def test_a_warm_start_goes_on_as_its_own_settings_say(tmp_path):
    trunk("warm-start", tmp_path)
    assert fork("warm-start", tmp_path, "fork", *CHANGES["warm-start"].split()) == 0
    result = json.loads((tmp_path / "fork" / "result.json").read_text())
    assert result["updates"] == 7 + 9
    assert result["fork"]["methods"] == {"kept": [], "fresh": ["l2-init"], "dropped": ["redo", "nap"]}
    assert fork("warm-start", tmp_path, "longer", "--phase-updates", "10", step=14) == 0
    assert read_rows(RunDir(tmp_path / "longer"))[-1]["update"] == 7 + 10
    later = json.loads((tmp_path / "longer" / "result.json").read_text())
    assert (later["phase_accuracy"], later["switches"]) == ([None, later["final_test_accuracy"]], [])
    with pytest.raises(SystemExit) as end:
        fork("warm-start", tmp_path, "shorter", "--phase-updates", "5", step=4 + 8)
    assert end.value.code == 2


@pytest.mark.parametrize(
    ("step", "alarms", "shown"),
    [(4, [5, 9, 12], "false one at 5, 2, 5"), (7, [9, 12], "2, 5"), (8, [9, 12], "2, 5")],
)
def test_the_alarms_of_a_warm_start_are_those_since_the_fork_after_the_switch_of_its_past(
    step, alarms, shown, tmp_path, monkeypatch
):
    update = WarmStartLearner.update

    def alarming(learner):
        update(learner)
        if learner.updates in (3, 5, 9, 12):
            learner.schedule.alarms.append(learner.updates)

    monkeypatch.setattr(WarmStartLearner, "update", alarming)
    words = ["--schedule", "cusum", "--cycles", "2", "--checkpoint-at", "7", "--keep-checkpoints", "every"]
    assert train("warm-start", tmp_path, "trunk", *words) == 0
    RunDir(tmp_path / "trunk").unlock()
    assert fork("warm-start", tmp_path, "fork", step=step) == 0
    whole, forked = (json.loads(RunDir(tmp_path / name).result.read_text()) for name in ("trunk", "fork"))
    assert (whole["alarms"], forked["alarms"]) == ([3, 5, 9, 12], alarms)
    assert comparisons._alarms(whole) == "false one at 3, false one at 5, 2, 5"
    assert comparisons._alarms(forked) == shown


@pytest.mark.parametrize(
    ("study", "words", "message"),
    [
        ("grokking", "--modulus 11", "--modulus 11: the run to fork has 7"),
        ("grokking", "--projection off", "--projection off: the run to fork has frobenius"),
        ("grokking", "--updates 8", "the fork begins at 8, and 8 is its budget in all"),
        ("grokking", "--plasticity crelu", "--plasticity: a fork cannot change the network (with crelu)"),
        ("grokking", "--plasticity fire:at=8", "fire: at=8: the fork begins with 8 updates made"),
        ("warm-start", "--plasticity fire:at=8", "fire: at=8: the fork begins with 8 updates made"),
        ("warm-start", "--network resnet18", "--network resnet18: the run to fork has cnn"),
        ("warm-start", "--plasticity crelu", "--plasticity: a fork cannot change the network (with crelu)"),
    ],
)
def test_bad_input_is_one_line(study, words, message, tmp_path, capsys):
    trunk(study, tmp_path)
    with pytest.raises(SystemExit) as end:
        fork(study, tmp_path, "fork", *words.split())
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "fork").exists()


def test_methods_that_join_act_before_hyperball(tmp_path):
    assert train("grokking", tmp_path, "trunk", "--keep-checkpoints", "every", "--projection", "hyperball") == 0
    RunDir(tmp_path / "trunk").unlock()
    words = ["--fork", f"{tmp_path}/trunk@8", "--name", "fork", "--plasticity", "upgd"]
    run = GrokkingRun(grokking_settings(words))
    hooks = [hook.__self__ for hook in run.learner.optimizer._optimizer_step_post_hooks.values()]
    assert [type(each).__name__ for each in hooks] == ["UPGD", "FixedUpdate"]
    assert run.train() == 0
    kept, result = run.learner.projection.initial_norms, json.loads((tmp_path / "fork" / "result.json").read_text())
    norms = nap.weight_norms(run.learner.model)
    assert all(norms[name].item() == pytest.approx(float(norm), rel=1e-5) for name, norm in kept.items())
    assert result["fork"]["methods"] == {"kept": [], "fresh": ["upgd"], "dropped": []}


def test_a_run_from_before_methods_is_forked(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        state = GrokkingLearner.state_dict
        patch.setattr(
            GrokkingLearner,
            "state_dict",
            lambda learner: {name: part for name, part in state(learner).items() if name != "methods"},
        )
        whole = trunk("grokking", tmp_path)
    assert fork("grokking", tmp_path, "fork") == 0
    assert outcome(RunDir(tmp_path / "fork"))[0]["learner"].pop("methods") == []
    assert outcome(RunDir(tmp_path / "fork"))[1] == [row for row in outcome(whole)[1] if row["update"] > 8]


def test_a_fork_of_a_planned_run_needs_no_run(tmp_path):
    for study, (_, _, words) in STUDIES.items():
        settings = {"grokking": grokking_settings, "warm-start": warm_start_settings}[study]
        planned = Planned(settings([*words.split(), "--root", str(tmp_path)]), 8)
        found = settings(["--fork", f"{tmp_path}/trunk@8", "--plasticity", "redo", "--plasticity", "l2-init"], planned)
        assert (found.fork_step, found.plasticity) == (8, ("redo", "l2-init"))


@pytest.mark.parametrize("study", STUDIES)
def test_help_on_methods_is_that_of_the_agents(study, capsys):
    main = STUDIES[study][0]
    assert main(["--list-methods"]) == 0
    assert main(["--plasticity", "fire:help"]) == 0
    printed = capsys.readouterr().out
    assert "\nparseval\n" in printed
    assert "options: period=40000, at=none, layers=all, iterations=10, target=copy" in printed


def test_another_study_is_refused(tmp_path):
    from studies.warm_start.__main__ import settings

    trunk("grokking", tmp_path)
    with pytest.raises(ConfigError, match=r"is no run of python -m studies.warm_start that it can go on with"):
        settings(["--fork", f"{tmp_path}/trunk"])
