"""Whatever a run would refuse at its start, a sweep refuses before its first run, in the same words."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.cli import main as train
from benchmarks.atari import main
from experiment import compiler

TINY = "--steps 130 --update-start 60 --eval-episodes 0 --batch-size 8 --compile false"
REFUSED = {
    "--checkpoint-at x": "--checkpoint-at has 'x'",
    "--track wandb": "--track wandb",
    "--precision bf16": "--precision bf16",
    "--compile true": "--compile true: no compiler here",
    "--num-envs 8 --replay-capacity 99 --batch-size 80": "a replay of 96 agent steps is too small",
    "--frames 10000000000000 --replay-capacity 1000000000000 --steps none": "--replay-capacity",
    "--plasticity redo:tau=-1": "--plasticity: redo: tau=-1",
    "--plasticity redo:taw=1": "did you mean 'tau'?",
    "--plasticity reset:layers=haed": "did you mean 'head'?",
    "--plasticity crelu redo": "do not go together",
    "--plasticity adam-rel:period=0": "adam-rel: period=0",
    "--plasticity my.methods:Mine": "'my.methods:Mine' cannot be imported",
}


def error_of(command, capsys) -> str:
    with pytest.raises(SystemExit) as end:
        command()
    assert end.value.code == 2
    error: str = capsys.readouterr().err
    assert error.count("\n") == 1
    return error.removeprefix("error: ")


@pytest.fixture
def _poor_machine(monkeypatch):
    """One without trackers, a compiler, and instructions for bf16."""
    monkeypatch.setattr(compiler, "_fault", lambda device: "no compiler here")
    monkeypatch.setattr("experiment.processor.instruction_sets", lambda: frozenset({"avx2"}))
    monkeypatch.delenv("REWARM_SLOW_BF16", raising=False)
    monkeypatch.setattr("experiment.storage.tracking.MODULES", {"wandb": "there_is_no_such_module"})


@pytest.mark.usefixtures("_poor_machine")
@pytest.mark.parametrize("flags", REFUSED)
@pytest.mark.parametrize("plan", [["--dry-run"], []])
def test_it_is_refused_in_the_words_of_the_run(flags, plan, tmp_path, capsys):
    where = ["--root", str(tmp_path / "root")]
    of_run = error_of(lambda: train("dqn", ["--env", "Catch", *TINY.split(), *flags.split(), *where]), capsys)
    arms = ["--arm", "good:", "--arm", f"bad:{flags}"]
    words = ["--suite", "Catch", "--seeds", "1", *where, *arms, *plan, "--", *TINY.split()]
    assert error_of(lambda: main(words), capsys) == f"arm 'bad': {of_run}"
    assert REFUSED[flags] in of_run
    assert list(tmp_path.iterdir()) == []


def planned(root: Path, arm: str) -> int:
    arms = ["--arm", "trunk:--plasticity redo", "--arm", f"fork:--fork trunk@90 {arm}"]
    return main(["--suite", "Catch", "--seeds", "1", "--root", str(root), *arms, "--dry-run", "--", *TINY.split()])


def test_a_fork_that_would_change_the_network_is_refused_before_its_trunk_is_trained(tmp_path, capsys):
    error = error_of(lambda: planned(tmp_path, "--plasticity crelu"), capsys)
    assert error.startswith("arm 'fork': --plasticity: a fork cannot change the network (with crelu)")
    assert planned(tmp_path, "--plasticity redo fire:at=now") == 0


def test_a_fork_that_begins_after_the_only_update_of_its_method_is_refused_too(tmp_path, capsys):
    error = error_of(lambda: planned(tmp_path, "--plasticity fire:at=30"), capsys)
    assert error.startswith("arm 'fork': --plasticity: fire: at=30: the fork begins with 30 updates made")
    assert planned(tmp_path, "--plasticity fire:at=31") == 0


@pytest.mark.usefixtures("_poor_machine")
@pytest.mark.parametrize(("study", "suite"), [("grokking", "rewarm"), ("warm_start", "headline")])
@pytest.mark.parametrize(("flags", "says"), [("--precision bf16", "--precision bf16"), ("--compile", "no compiler")])
def test_a_suite_of_a_study_is_refused_too(study, suite, flags, says, tmp_path, capsys, monkeypatch):
    from studies.grokking import suite as grokking
    from studies.warm_start import suite as warm_start

    command = {"grokking": grokking, "warm_start": warm_start}[study].main
    error = error_of(lambda: command([suite, *flags.split(), "--root", str(tmp_path), "--dry-run"]), capsys)
    assert error.startswith("arm '")
    assert says in error
