"""`--plasticity hyperball` in agents: Catch and MinAtar end to end, low precision, compiled passes, skipped updates."""

import math

import pytest
import torch

import nap
from agents.build import build_learner
from agents.config import DQNConfig
from agents.run import describe_methods
from tests.agents.test_divergence import SHORT, spoil
from tests.agents.test_resume import check_cell
from tests.agents.toys import catch_trainer, little_network, run


def test_a_run_of_minatar_resumes_exactly(tmp_path):
    pytest.importorskip("minatar", reason="MinAtar is an extra and is not installed")
    check_cell(tmp_path, env="MinAtar/Seaquest", utd="1/4", num_envs=2, plasticity=("hyperball",))


@pytest.mark.parametrize("settings", [{}, {"precision": "bf16"}, {"on_nonfinite": "skip", "max_grad_norm": 0.5}])
def test_every_update_of_catch_turns_each_matrix_by_scale_times_lr(settings):
    trainer = catch_trainer(**SHORT, plasticity=("hyperball:scale=4",), **settings)
    agent, update, turned = trainer.agent, trainer.agent.update, []
    projection = agent.methods[-1].projection

    def watched(batch):
        before, lr = nap.snapshot(agent.network), float(agent.optimizer.param_groups[0]["lr"])
        metrics = update(batch)
        after = nap.rotation(before, nap.snapshot(agent.network))
        turned.extend(float(after[name]) / lr for name in projection.names)
        return metrics

    agent.update = watched
    rows = [row for row in run(trainer) if "loss" in row]
    assert len(turned) == 60 * len(projection.names)
    assert all(turn == pytest.approx(4, rel=0.1) for turn in turned)
    for name, norm in projection.norms().items():
        assert float(norm) == pytest.approx(float(projection.initial_norms[name]), rel=1e-6)
    for name, value in agent.online.state_dict().items():  # the copy that passes run on follows
        assert torch.equal(value, agent.network.state_dict()[name].to(value.dtype))
    assert rows[-1]["elr/torso.0.weight"] == pytest.approx(4 * rows[-1]["lr"], rel=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_update_that_is_left_out_changes_no_weight(precision):
    trainer = catch_trainer(**SHORT, plasticity=("hyperball",), on_nonfinite="skip", precision=precision)
    spoil(trainer, "reward", at=30)
    agent, update, same = trainer.agent, trainer.agent.update, []

    def watched(batch):
        before = nap.snapshot(agent.network)
        metrics = update(batch)
        same.append(all(torch.equal(before[name], value) for name, value in nap.snapshot(agent.network).items()))
        return metrics

    agent.update = watched
    rows = [row for row in run(trainer) if "loss" in row]
    assert [update for update, still in enumerate(same) if still] == [30]
    assert [row["skipped_updates"] for row in rows] == [0, 1, 0]
    assert all(math.isfinite(row["loss"]) for row in rows)


def test_it_is_rewarmed_as_nap_is_and_named_with_its_own_options():
    config = DQNConfig(env="Catch", plasticity=("hyperball:scale=3", "redo"), threads=1).resolved()
    assert config.schedule == "early-cycle"
    methods = build_learner(config, little_network((10, 10), 3)).methods
    described = describe_methods(config, methods)
    assert described.startswith("redo (")
    assert "hyperball (norm=layer, axes=channels, every=1, affine=joint, scale=3)" in described
