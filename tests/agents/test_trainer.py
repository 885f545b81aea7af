import copy
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from agents.run import result
from experiment.determinism import parameter_hash
from tests.agents.toys import catch_trainer, run


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("num_envs", [1, 3])
def test_the_agent_learns_from_the_very_stacks_that_it_acted_on(num_envs, overlap):
    trainer = catch_trainer(num_envs=num_envs, steps=120, update_start=90, overlap=overlap)
    seen = []
    act = trainer.policy

    def spy(obs, epsilon):
        actions = act(obs, epsilon)
        seen.append((obs.clone(), actions))
        return actions

    trainer.policy = spy
    run(trainer)
    for row, (obs, actions) in enumerate(seen[:-1]):
        batch = trainer.replay.gather(torch.arange(num_envs).unsqueeze(0) + row * num_envs)
        assert torch.equal(batch["obs"][0], obs)
        assert batch["action"][0].tolist() == list(actions)
        alive = batch["discount"][0] > 0
        assert torch.equal(batch["next_obs"][0][alive], seen[row + 1][0][alive])


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize(("utd", "num_envs"), [("1/4", 1), ("1", 2), ("3/7", 8), ("8", 1), ("8", 8)])
def test_the_number_of_updates_is_exact(utd, num_envs, overlap):
    trainer = catch_trainer(utd=Fraction(utd), num_envs=num_envs, steps=160, update_start=101, overlap=overlap, block=3)
    run(trainer)
    assert trainer.agent_step == 160
    assert trainer.agent.updates == int(Fraction(utd) * 59)


def test_updates_wait_for_enough_transitions_and_are_then_made_up():
    trainer = catch_trainer(steps=100, update_start=0, batch_size=16, n_step=5)
    trainer.open()
    while not trainer.done:
        trainer.step()
        assert trainer.agent.updates == (trainer.agent_step if trainer.agent_step >= 20 else 0)


def test_the_target_network_is_copied_at_multiples_of_its_period(monkeypatch):
    trainer = catch_trainer(steps=100, num_envs=3, target_period=20, update_start=50)
    synced = []
    monkeypatch.setattr(trainer.agent, "sync_target", lambda: synced.append(trainer.agent_step))
    run(trainer)
    assert synced == [21, 42, 60, 81, 102]


def test_the_learning_rate_is_that_of_the_agent_step_and_begins_with_the_updates():
    trainer = catch_trainer(steps=200, num_envs=2, update_start=100, schedule="linear", lr=1e-3, lr_floor=1e-4)
    trainer.open()
    while not trainer.done:
        trainer.step()
        expected = 1e-3 + (1e-4 - 1e-3) * max(trainer.agent_step - 100, 0) / 100
        assert trainer.agent.optimizer.param_groups[0]["lr"].item() == pytest.approx(expected, rel=1e-5)


def test_rows_tell_of_every_episode_and_of_every_interval():
    trainer = catch_trainer(steps=300, num_envs=2, update_start=100, log_interval=100)
    rows = run(trainer)
    episodes = [row for row in rows if "episode_return" in row]
    assert [row["episode"] for row in episodes] == list(range(1, 2 * (150 // 9) + 1))
    assert all(row["episode_steps"] == 9 and abs(row["episode_return"]) == 1 for row in episodes)
    intervals = [row for row in rows if "frames" in row]
    assert [row["agent_step"] for row in intervals] == [100, 200, 300]
    assert "loss" not in intervals[0]
    assert intervals[1]["updates"] == 100
    assert intervals[2]["mean_return"] == pytest.approx(np.mean([row["episode_return"] for row in episodes][-100:]))


@pytest.mark.parametrize("settings", [{"nap": True}, {"precision": "bf16", "overlap": True, "plasticity": ("redo",)}])
def test_watching_does_not_change_what_is_learned(settings):
    ends = []
    for log_interval, probe_interval in ((1_000, 0), (1, 3)):
        trainer = catch_trainer(steps=270, log_interval=log_interval, probe_interval=probe_interval, **settings)
        rows = run(trainer)
        assert ("erank_roy/torso.1" in rows[-1]) == (probe_interval > 0)
        state = trainer.state_dict()
        generators = torch.get_rng_state(), trainer.replay.generator.get_state(), str(state["policy"])
        gradients = [parameter.grad for parameter in trainer.agent.network.parameters()]
        ends.append((parameter_hash(trainer.agent.network), *generators, *gradients, str(state["agent"]["optimizer"])))
    for unwatched, watched in zip(*ends, strict=True):
        assert torch.equal(watched, unwatched) if isinstance(watched, torch.Tensor) else watched == unwatched


class Waits(TorchDispatchMode):
    """Counts the calls that wait for the device to return a number."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "masked_select")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("settings", [{}, {"nap": True, "precision": "bf16"}])
def test_a_whole_step_with_its_updates_never_waits_for_the_device(settings):
    trainer = catch_trainer(steps=400, utd=Fraction(8), log_interval=1_000, **settings)
    trainer.open()
    while trainer.agent.updates < 16:
        trainer.step()
    with Waits() as waits:
        assert trainer.step() == []
    assert waits.count == 0
    assert trainer.agent.updates == 24


def test_a_loaded_trainer_shares_no_memory_with_what_it_was_loaded_from():
    trainer = catch_trainer(steps=120, update_start=40)
    trainer.open()
    while trainer.agent_step < 100:
        trainer.step()
    state = trainer.state_dict()
    loaded = catch_trainer(steps=120, update_start=40)
    loaded.load_state_dict(state)
    assert torch.equal(loaded.obs, trainer.obs)
    before = copy.deepcopy(state)
    for parameter in loaded.agent.network.parameters():
        parameter.grad.fill_(7)
    loaded.stack.frames.fill_(7)
    for total in loaded.monitor.sums.values():
        total.fill_(7)
    assert all(torch.equal(a, b) for a, b in zip(before["gradients"], state["gradients"], strict=True))
    assert torch.equal(before["stack"]["frames"], state["stack"]["frames"])
    assert str(before["monitor"]) == str(state["monitor"])


def test_the_state_of_another_schedule_is_refused():
    trainer = catch_trainer(steps=200, update_start=100, schedule="linear")
    trainer.open()
    for _ in range(110):
        trainer.step()
    state = trainer.state_dict()
    trainer.load_state_dict(state)
    state["agent"]["schedule"]["step"] = 110  # as when schedules began with the run
    with pytest.raises(ValueError, match="follows another schedule"):
        trainer.load_state_dict(state)


@pytest.mark.parametrize(("clips", "learned"), [(True, "-1, its rewards being clipped"), (False, "-199,900")])
def test_score_counters_that_wrap_are_counted_and_told_once(clips, learned, monkeypatch):
    trainer = catch_trainer(num_envs=2, steps=40, update_start=30, batch_size=8, log_interval=10, clip_rewards=clips)
    receive = trainer.env.recv

    def wraps():
        """In agent steps 12 and 24 of 40, first in one environment, then in both."""
        step, at = receive(), trainer.agent_step
        flags = np.array([at in (12, 24), at == 24])
        return step._replace(reward=np.where(flags, np.float32(-199_900), step.reward), score_wrapped=flags)

    monkeypatch.setattr(trainer.env, "recv", wraps)
    with pytest.warns(UserWarning, match="score counter") as caught:
        rows = [row for row in run(trainer) if "score_wraps" in row]
    assert [row["score_wraps"] for row in rows] == [0, 1, 3, 3]
    (line,) = (str(warning.message) for warning in caught)
    assert line.startswith("agent step 12: ")
    assert f"a reward of -199,900. The score stays the raw sum; the agent learned from {learned}." in line
    assert result(trainer.config, trainer, None)["training_score_wraps"] == 3


def test_wraps_are_counted_across_a_resume_and_told_in_the_first_part_alone(monkeypatch, recwarn):
    trainer, fresh = (catch_trainer(steps=40, update_start=30, batch_size=8) for _ in range(2))
    trainer.open()
    trainer.score_wraps = 2
    fresh.open()
    fresh.load_state_dict(copy.deepcopy(trainer.state_dict()))
    receive = fresh.env.recv
    monkeypatch.setattr(fresh.env, "recv", lambda: receive()._replace(score_wrapped=np.array([True])))
    fresh.step()
    assert fresh.score_wraps == 3
    assert not [warning for warning in recwarn if "counter" in str(warning.message)]
