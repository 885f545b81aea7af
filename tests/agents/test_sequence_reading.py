"""What is read of runs of games in sequence: scores played again, TD errors of the present game, settings of a file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from agents import cli, evaluate
from agents.run import AgentRun, build_trainer
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
