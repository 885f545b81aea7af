"""Games in sequence in a fleet: what its members have at a change of game is what runs have that train alone."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from agents.fleet.run import FleetRun
from agents.fleet.trainer import FleetTrainer
from agents.run import AgentRun, build_trainer
from experiment.storage.run_dir import RunDir
from tests.agents.test_resume import rows
from tests.agents.test_sequences import compare, config_of


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


def test_rows_at_the_end_of_a_visit_are_those_of_a_run(tmp_path: Path) -> None:
    """The gradients too, where no row is due otherwise."""
    config = config_of(root=str(tmp_path), name="fleet", eval_episodes=0)
    assert FleetRun(config, [0, 1]).train() == 0
    alone = AgentRun(dataclasses.replace(config, name="alone"))
    assert alone.train() == 0
    pairs = list(zip(rows(RunDir(tmp_path / "fleet-s0")), rows(alone), strict=True))
    assert any(row["agent_step"] == 60 and "updates" in row for row, _ in pairs)
    for row, own in pairs:
        gradients = {name: value for name, value in own.items() if name.startswith("gradient/")}
        assert {name: row[name] for name in gradients} == pytest.approx(gradients, rel=1e-3)


def test_the_probe_of_a_member_draws_states_of_the_present_game() -> None:
    config = config_of(task_steps=400, replay_capacity=2_000, visits=1, update_start=20)
    alone, *members = (build_trainer(dataclasses.replace(config, seed=seed)) for seed in (0, 0, 1))
    for trainer in (alone, *members):
        trainer.open()
    fleet = FleetTrainer(members, [True, True])
    while alone.agent_step < 700:
        alone.step()
        fleet.step()
        assert [trainer.probe.actions is None for trainer in members] == [alone.probe.actions is None] * 2
        fleet.rows(0)
        if alone.agent_step in (400, 700):
            assert torch.equal(members[0].probe.probe.batch[0], alone.probe.probe.batch[0])


def test_the_optimiser_begins_again_next_to_a_member_that_stopped() -> None:
    """A stacked step reads the step counts of the first place, whoever stands there."""
    networks = []
    for first_lives in (True, False):
        members = [build_trainer(config_of(seed=seed, task_optimizer="fresh")) for seed in (0, 1)]
        for trainer in members:
            trainer.open()
        fleet = FleetTrainer(members, [True, True])
        while members[1].agent_step < 110:
            fleet.alive[0] = first_lives or members[1].agent_step < 50
            fleet.step()
        networks.append(members[1].agent.network.state_dict())
    assert all(torch.equal(value, networks[1][name]) for name, value in networks[0].items())


def test_a_visit_that_only_some_members_scored_is_scored_for_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C comes after the games of the first member, on one thread."""
    config = config_of(root=str(tmp_path / "whole"), name="fleet")
    assert FleetRun(config, [0, 1]).train() == 0
    stopped = FleetRun(dataclasses.replace(config, root=str(tmp_path / "stopped")), [0, 1])
    score = AgentRun.score_visit

    def pressed(self: AgentRun, interrupt: Any, show: bool = False) -> bool:
        interrupt.requested = self.config.seed == 1
        return score(self, interrupt, show)

    monkeypatch.setattr(AgentRun, "score_visit", pressed)
    assert stopped.train() == 130
    monkeypatch.undo()
    monkeypatch.setattr(os, "fsync", lambda _: None)
    where = tmp_path / "stopped" / "fleet-s0"
    again = dataclasses.replace(config, root=str(where.parent), resume=str(where))
    assert FleetRun(again, [0, 1]).train() == 0
    for seed in range(2):
        whole, own = (RunDir(tmp_path / name / f"fleet-s{seed}") for name in ("whole", "stopped"))
        assert all(visit["score"] for visit in json.loads(own.result.read_text())["visits"])
        compare(own, whole)
