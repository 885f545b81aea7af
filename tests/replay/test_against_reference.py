import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_histories import KINDS, History
from replay_reference import ReferenceReplay

from replay import FrameReplay, ring


@st.composite
def replays(draw):
    """Sizes, and a history that may wrap several times: one row of kinds per step."""
    num_envs, stack = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    rows = draw(st.integers(stack + 1, 30))
    time_limit = draw(st.sampled_from([None, 1, 2, 5]))
    steps = draw(st.integers(1, 100))
    kinds = draw(st.binary(min_size=steps * num_envs, max_size=steps * num_envs))
    history = (np.frombuffer(kinds, dtype=np.uint8) % KINDS).reshape(steps, num_envs)
    return num_envs, stack, rows, time_limit, history.tolist()


views = st.fixed_dictionaries(
    {
        "n_step": st.integers(1, 20),
        "gamma": st.sampled_from([0.0, 0.5, 0.99, 1.0]),
        "cut_at_life_loss": st.booleans(),
        "clip_reward": st.sampled_from([None, 1.0, 2.0]),
    }
)


def legal_starts(replay: FrameReplay, reference: ReferenceReplay, n_step: int) -> list[tuple[int, int]]:
    oldest = max(0, reference.head - replay.max_rows)
    first = oldest + replay.stack - 1 if oldest else 0
    rows = [row for row in range(first, reference.head) if row + n_step <= reference.head]
    return [(row, env) for row in rows for env in range(replay.num_envs)]


def assert_same(replay: FrameReplay, reference: ReferenceReplay, view: dict) -> None:
    starts = legal_starts(replay, reference, view["n_step"])
    assert replay.num_legal(view["n_step"]) == len(starts)
    if not starts:
        return
    index = torch.tensor([[row * replay.num_envs + env for row, env in starts]])
    batch = replay.gather(index, **view)[0]
    for i, (row, env) in enumerate(starts):
        wanted = reference.transition(row, env, **view)
        assert np.array_equal(batch["obs"][i].numpy(), wanted.obs), (row, env)
        assert batch["action"][i] == wanted.action
        assert abs(batch["reward"][i] - wanted.reward) < 1e-4
        assert abs(batch["discount"][i] - wanted.discount) < 1e-6
        if wanted.discount:
            assert np.array_equal(batch["next_obs"][i].numpy(), wanted.next_obs), (row, env)


@given(replays(), views, st.booleans(), st.integers(0, 6))
@settings(max_examples=150, deadline=None)
def test_all_legal_starts_equal_the_reference(case, view, staged, every):
    num_envs, stack, rows, time_limit, history = case
    made, reference = History(num_envs, time_limit), ReferenceReplay(num_envs, stack)
    replay = (StagedReplay if staged else FrameReplay)(rows * num_envs, num_envs, (2, 2), stack, time_limit)
    first = made.frames()
    replay.start(first)
    reference.start(first)
    replay.check()
    for t, kinds in enumerate(history):
        step = made.step(kinds)
        replay.add(*step)
        reference.add(*step)
        replay.check()
        if every and t % (5 * every) == 0:
            assert_same(replay, reference, view)
    assert len(replay) == min(len(history), rows) * num_envs
    assert_same(replay, reference, view)
    assert_same(replay, reference, view | {"n_step": 1})


class StagedReplay(FrameReplay):
    """Writes through staged rows, as it does for an accelerator."""

    def _needs_staging(self) -> bool:
        return True


@pytest.mark.parametrize("staged_bytes", [1, 2**27])
def test_staged_rows_are_reused_without_loss(staged_bytes, monkeypatch):
    monkeypatch.setattr(ring, "STAGED_BYTES", staged_bytes)
    replays_ = [cls(700, 2, (2, 2), 4, 3) for cls in (FrameReplay, StagedReplay)]
    for replay in replays_:
        made = History(2, 3)
        replay.start(made.frames())
        for step in made.steps(900):
            replay.add(*step)
    plain, staged = replays_
    assert staged._slots == (2 if staged_bytes == 1 else ring.STAGED_ROWS)
    for name in ("frames", "action", "reward", "flags", "ending", "start_step"):
        assert torch.equal(getattr(plain, name), getattr(staged, name)), name


def saved_and_loaded(replay: FrameReplay, spare: int) -> FrameReplay:
    loaded = type(replay)(
        replay.capacity, replay.num_envs, replay.frame_shape, replay.stack, replay.time_limit, seed=99
    )
    loaded.load_state_dict(copy.deepcopy(replay.state_dict()), spare)
    first, stop = replay.stored_rows
    for row in range(first, stop, 3):
        loaded.write_rows(row, replay.read_rows(row, min(row + 3, stop)))
    loaded.check()
    return loaded


@given(replays(), st.lists(st.integers(1, 7), min_size=1, max_size=6), views, st.booleans())
@settings(deadline=None, max_examples=60)
def test_a_cut_is_a_truncation_of_every_running_episode(case, cuts, view, staged):
    """Episodes that begin again after a load, again and again, are what an environment that truncates would give."""
    num_envs, stack, rows, time_limit, _ = case
    made, reference = History(num_envs, time_limit), ReferenceReplay(num_envs, stack)
    replay = (StagedReplay if staged else FrameReplay)(rows * num_envs, num_envs, (2, 2), stack, time_limit)
    first = made.frames()
    replay.start(first)
    reference.start(first)
    for steps in cuts:
        *before, last = made.steps(steps)
        for step in before:
            replay.add(*step)
            reference.add(*step)
        replay.add(*last)
        replay = saved_and_loaded(replay, spare=1)
        action, reward, terminated, truncated, life_lost, frame, next_frame = last
        ended = terminated | truncated
        frame = np.where(ended[:, None, None], frame, next_frame)
        first = made.frames()
        replay.cut(first)
        made.length[:] = 0
        reference.add(action, reward, terminated, truncated | ~ended, life_lost, frame, first)
        replay.check()
    assert_same(replay, reference, view)


def test_next_obs_never_crosses_an_episode_even_where_discount_is_zero():
    replay, made = FrameReplay(64, 1, (2, 2)), History(1, None)
    replay.start(made.frames())
    for kind in [0, 0, 1, 0, 0]:
        replay.add(*made.step([kind]))
    for n_step in (1, 2):
        batch = replay.gather(torch.tensor([[2]]), n_step=n_step)
        assert batch["discount"].item() == 0
        assert not batch["next_obs"][0, 0, -1].any()
        assert torch.equal(batch["next_obs"][0, 0, :-1], batch["obs"][0, 0, 1:])
