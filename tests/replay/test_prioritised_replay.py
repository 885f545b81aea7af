"""The prioritised replay against a slow copy of its priorities, with the ring's legal steps."""

import copy

import pytest
import torch
from replay_histories import History

from replay import FrameReplay, PrioritisedReplay


def filled(steps=40, num_envs=2, capacity=30, kind=PrioritisedReplay, **options):
    history = History(num_envs, 8)
    replay = kind(capacity, num_envs, (2, 2), stack=3, time_limit=8, seed=0, **options)
    replay.start(history.frames())
    for step in history.steps(steps):
        replay.add(*step)
    return replay, history


def test_draws_weights_and_priorities_are_those_of_a_slow_copy():
    replay, history = filled(alpha=0.7, epsilon=0.01, beta=0.4, beta_final=1.0, beta_steps=200)
    slow: dict[int, float] = {}
    highest = 1.0
    for round in range(5):
        low, high = (row * 2 for row in replay._legal_rows(3))
        slow = {step: slow.get(step, highest) for step in range(low, high)}
        batch = replay.sample(8, 2, n_step=3)
        beta = 0.4 + 0.6 * replay.head * 2 / 200
        assert replay.beta == pytest.approx(beta)
        for steps, weights in zip(batch["index"].tolist(), batch["weight"].tolist(), strict=True):
            share = [slow[step] / sum(slow.values()) for step in steps]  # KeyError: not a legal step
            expected = [(len(slow) * p) ** -beta for p in share]
            assert weights == pytest.approx([w / max(expected) for w in expected], rel=1e-5)
        losses = torch.rand(2, 8, generator=torch.Generator().manual_seed(round))
        replay.update(batch["index"], losses)
        for step, loss in zip(batch["index"].flatten().tolist(), losses.flatten().tolist(), strict=True):
            slow[step] = (loss + 0.01) ** 0.7
            highest = max(highest, slow[step])
        every = torch.tensor(list(slow))
        assert replay.priorities.get(every).tolist() == pytest.approx(list(slow.values()), rel=1e-5)
        replay.check()
        for step in history.steps(3):
            replay.add(*step)


def test_a_large_loss_is_drawn_more_often_and_a_uniform_replay_hears_nothing():
    for kind, often in ((PrioritisedReplay, True), (FrameReplay, False)):
        replay, _ = filled(kind=kind)
        index = replay.sample(4, n_step=1)["index"]
        replay.update(index, torch.full(index.shape, 1e4))
        drawn = replay.sample(16, 16)["index"]
        assert (torch.isin(drawn, index).float().mean() > 0.5) == often
    assert (replay.sample(4)["weight"] == 1).all()


def test_the_exponent_ends_where_it_is_to_end():
    replay, _ = filled(steps=60, beta=0.2, beta_final=0.6, beta_steps=100)
    assert replay.beta == pytest.approx(0.6)


def test_n_may_change_while_it_runs():
    replay, _ = filled()
    for n_step in (1, 5, 2, 8, 1):
        index = replay.sample(4, 2, n_step=n_step)["index"]
        replay.update(index, torch.rand(index.shape))
        assert index.max() < (replay.head - n_step + 1) * 2
        replay.check()


def test_a_loaded_replay_draws_the_same_with_the_same_weights():
    replay, history = filled(beta_steps=1_000)
    replay.update(index := replay.sample(8)["index"], torch.rand(index.shape))
    other = PrioritisedReplay(30, 2, (2, 2), stack=3, time_limit=8, seed=9, beta_steps=1_000)
    other.load_state_dict(copy.deepcopy(replay.state_dict()))
    first, stop = replay.stored_rows
    other.write_rows(first, replay.read_rows(first, stop))
    other.check()
    for one in (replay, other):
        for step in copy.deepcopy(history).steps(4):
            one.add(*step)
    ours, theirs = (one.sample(8, 3, n_step=2) for one in (replay, other))
    for name, values in ours.items():
        assert torch.equal(values, theirs[name]), name


def test_states_of_the_two_kinds_are_not_mixed_and_bad_options_are_answered():
    uniform, _ = filled(kind=FrameReplay)
    prioritised, _ = filled()
    with pytest.raises(ValueError, match="priorities"):
        prioritised.load_state_dict(uniform.state_dict())
    with pytest.raises(ValueError, match="beta_steps"):
        filled(beta_steps=0)
    with pytest.raises(ValueError, match="add more first"):
        filled(steps=2)[0].sample(32)
