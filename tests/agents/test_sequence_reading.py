"""What is read of runs of games in sequence: scores played again, TD errors, settings of a file, plans of forks."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest

from agents import cli, evaluate
from agents.run import AgentRun, build_trainer
from agents.start import check_start
from experiment.config import ConfigError
from tests.agents.test_sequences import TWO, config_of


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


def test_the_scores_of_the_last_visit_can_be_played_again(tmp_path: Path) -> None:
    run = AgentRun(config_of(root=str(tmp_path), name="run", eval_all=True, eval_episodes=3, visits=1))
    assert run.train() == 0
    last, found = json.loads(run.directory.result.read_text())["visits"][-1], {}
    for game in TWO.split(","):
        out = tmp_path / "score.json"
        assert evaluate.main([str(run.directory.path), "--game", game, "--episodes", "3", "--out", str(out)]) == 0
        found[game] = json.loads(out.read_text())["score"]
    assert found[last["game"]] == last["score"]
    assert {game: score["mean"] for game, score in found.items()} == last["scores"]


def test_a_fresh_td_error_is_of_the_present_game_alone() -> None:
    """Rows are 7 steps apart, n is 3: of a visit's first 9 steps 7 are whole transitions."""
    trainer = build_trainer(config_of(visits=1))
    trainer.open()
    found = {}
    while not trainer.done:
        for row in trainer.step():
            if "updates" in row:
                found[row["agent_step"] - trainer.visits.now.start] = "td_error_fresh" in row
        if trainer.agent_step == 60:
            assert found.pop(60)
            found.clear()
    assert found.pop(63 - 60) is False
    assert all(found.values())


def test_a_game_is_not_given_next_to_a_files_sequence(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("sequence: minatar3\ntask_steps: 20000\n")
    assert len(cli.settings("dqn", ["--config", str(file)]).games) == 3
    assert cli.settings("dqn", ["--config", str(file), "--sequence", "minatar5"]).games[-1] == "MinAtar/SpaceInvaders"
    with pytest.raises(ConfigError, match=r"--env and --sequence both name what is played: give one \(a preset's"):
        cli.settings("dqn", ["--config", str(file), "--env", TWO])
    other = cli.settings("dqn", ["--config", str(file), "--sequence", "none", "--env", TWO])
    assert other.env == TWO


def test_a_fork_in_the_last_visit_is_given_no_method_that_waits_for_a_change(tmp_path: Path) -> None:
    config = config_of(root=str(tmp_path), name="run", visits=1, eval_episodes=0, checkpoint_at=("60", "70"))
    assert AgentRun(config).train() == 0

    def fork(step: int) -> AgentRun:
        words = ["--fork", f"{tmp_path / 'run'}@{step}", "--plasticity", "reset:at=task", "--name", f"fork{step}"]
        return AgentRun(cli.settings("dqn", words))

    assert fork(60).step == 60  # the change comes with the next step
    with pytest.raises(ConfigError, match="reset: at=task: the fork begins in the last task of all"):
        fork(70)


def test_a_plan_of_a_fork_knows_how_many_updates_a_cleared_replay_leaves() -> None:
    """After 130 steps in visits of 60 there are 2 x 20 updates, not 55."""
    source = config_of(task_replay="clear")
    for at in (41, 40):
        fork = dataclasses.replace(source, fork_step=130, plasticity=(f"reset:at={at}",))
        if at > 40:
            check_start(fork, source, here=False)
        else:
            with pytest.raises(ConfigError, match="at=40: the fork begins with 40 updates made"):
                check_start(fork, source, here=False)


def test_steps_beyond_the_budget_belong_to_the_last_visit() -> None:
    """Measurements of speed make as many as they like."""
    for options in ({}, {"env": "MinAtar/Breakout", "task_steps": None, "visits": 1, "steps": 60}):
        trainer = build_trainer(config_of(**options))
        trainer.open()
        while trainer.agent_step < trainer.config.budget + 5:
            trainer.step()
        assert trainer.visits.now.stop == trainer.config.budget
