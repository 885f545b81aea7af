"""The comparison of methods by score: its arms, and the real command on Catch."""

import json

import pytest

from benchmarks.method_scores import FOUR_TIMES, NONE, ONCE, ScoresSettings, main, method_arms, scores
from benchmarks.sweep.command import parse
from plasticity.registry import METHODS


def planned(*words, common=("--steps=1200", "--update-start=200", "--utd=2")):
    return scores(*parse([*words, "--", *common], ScoresSettings))


def test_every_method_has_an_arm_next_to_the_agent_without_any():
    sweep = planned()
    assert list(sweep.arms) == [NONE, *METHODS]
    assert not sweep.arms[NONE].config("Catch").methods
    for name in METHODS:
        config = sweep.arms[name].config("Catch")
        found = [method.partition(":")[0] for method in config.methods]
        assert found == ([] if name == "nap" else [name])
        assert config.uses_nap == (name == "nap")


def test_times_are_parts_of_the_2000_updates_of_a_run():
    found = {name: arm.config("Catch").methods for name, arm in planned().arms.items()}
    assert {found[name] for name in FOUR_TIMES} == {(f"{name}:period=400",) for name in FOUR_TIMES}
    assert {found[name] for name in ONCE} == {(f"{name}:at=1000",) for name in ONCE}
    assert found["c-chain"] == ("c-chain:after=100,window=500",)
    assert found["redo"] == ("redo",)


def test_a_run_of_hardly_an_update_still_has_periods():
    assert "reset:--plasticity reset:period=1" in method_arms(list(METHODS), 1)


def test_some_methods_and_arms_of_ones_own():
    sweep = planned("--methods=reset, nap", "--arm=two:--plasticity nap --plasticity redo")
    assert list(sweep.arms) == [NONE, "reset", "nap", "two"]


def test_the_command_trains_and_names_a_wrong_method(tmp_path, capsys):
    words = ["--methods=reset", "--seeds=1", f"--root={tmp_path}"]
    tiny = ["--", "--steps=110", "--update-start=50", "--compile=false", "--batch-size=4", "--eval-episodes=1"]
    assert main([*words, *tiny]) == 0
    results = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("*/result.json")}
    assert set(results) == {"none-Catch-s0", "reset-Catch-s0"}
    assert results["reset-Catch-s0"]["settings"]["plasticity"] == ["reset:period=12"]
    with pytest.raises(SystemExit) as stopped:
        main(["--methods=resett", f"--root={tmp_path / 'new'}", *tiny])
    assert stopped.value.code == 2
    assert "'resett' is no known method; did you mean 'reset'?" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
