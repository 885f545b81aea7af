"""Changes of game in a replay: `cut` and `clear` against the reference, at any sizes."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_histories import History
from replay_reference import ReferenceReplay

from replay import FrameReplay, PrioritisedReplay


class StagedReplay(FrameReplay):
    """Writes through staged rows, as it does for an accelerator."""

    def _needs_staging(self) -> bool:
        return True


sizes = st.fixed_dictionaries(
    {
        "num_envs": st.integers(1, 3),
        "stack": st.integers(1, 4),
        "spare_rows": st.integers(1, 25),
        "time_limit": st.sampled_from([None, 1, 2, 5]),
        "period": st.integers(1, 12),
        "changes": st.lists(st.booleans(), min_size=1, max_size=9),
        "n_step": st.integers(1, 6),
        "reload": st.booleans(),
        "kind": st.sampled_from([FrameReplay, StagedReplay, PrioritisedReplay]),
    }
)


@given(sizes)
@settings(deadline=None, max_examples=120)
def test_nothing_crosses_a_change_at_any_size(case):
    num_envs, stack, time_limit, period = (case[key] for key in ("num_envs", "stack", "time_limit", "period"))
    sized = ((stack + case["spare_rows"]) * num_envs, num_envs, (2, 2), stack, time_limit, period)
    replay, made, reference = case["kind"](*sized), History(num_envs, time_limit), ReferenceReplay(num_envs, stack)
    first = made.frames()
    replay.start(first)
    reference.start(first)
    for clears in case["changes"]:
        *before, last = made.steps(period)
        for step in before:
            replay.add(*step)
            reference.add(*step)
            assert_same(replay, reference, case["n_step"])
        replay.add(*last)
        if case["reload"]:
            replay = reloaded(replay, case["kind"], sized)
        action, reward, terminated, truncated, life_lost, frame, next_frame = last
        ended, first = terminated | truncated, made.frames()
        (replay.clear if clears else replay.cut)(first)
        made.length[:] = 0
        frame = np.where(ended[:, None, None], frame, next_frame)
        reference.add(action, reward, terminated, truncated | ~ended, life_lost, frame, first)
        if clears:
            reference.cleared = reference.head
            assert len(replay) == 0
        assert_same(replay, reference, case["n_step"])


def reloaded(replay: FrameReplay, kind: type[FrameReplay], sized: tuple) -> FrameReplay:
    loaded = kind(*sized, seed=99)
    loaded.load_state_dict(copy.deepcopy(replay.state_dict()))
    first, stop = replay.stored_rows
    if stop > first:
        loaded.write_rows(first, replay.read_rows(first, stop))
    return loaded


def assert_same(replay: FrameReplay, reference: ReferenceReplay, n_step: int) -> None:
    replay.check()
    oldest, cleared = max(0, reference.head - replay.max_rows), getattr(reference, "cleared", 0)
    first = max(oldest + replay.stack - 1 if oldest else 0, cleared)
    starts = [(row, env) for row in range(first, reference.head - n_step + 1) for env in range(replay.num_envs)]
    assert replay.num_legal(n_step) == len(starts)
    if not starts:
        return
    batch = replay.gather(torch.tensor([[row * replay.num_envs + env for row, env in starts]]), n_step=n_step)[0]
    if isinstance(replay, PrioritisedReplay):
        index = replay.draw(len(starts), 1, n_step)[0]
        assert first * replay.num_envs <= index.min() <= index.max() < (starts[-1][0] + 1) * replay.num_envs
        replay.update(index, torch.linspace(0, 2, len(starts)).unsqueeze(0))
        replay.check()
    for i in {0, len(starts) // 2, len(starts) - 1, max(0, len(starts) - 1 - replay.num_envs)}:
        row, env = starts[i]
        wanted = reference.transition(row, env, n_step=n_step, gamma=0.99, cut_at_life_loss=False, clip_reward=None)
        assert np.array_equal(batch["obs"][i].numpy(), wanted.obs), (row, env)
        assert batch["action"][i] == wanted.action
        assert batch["reward"][i].item() == pytest.approx(wanted.reward, abs=1e-4)
        assert batch["discount"][i].item() == pytest.approx(wanted.discount, abs=1e-6)
        if wanted.discount:
            assert np.array_equal(batch["next_obs"][i].numpy(), wanted.next_obs), (row, env)


def test_no_priority_crosses_a_clearing():
    """New steps get the highest priority of the steps since, not that of another game's losses."""
    replay, made = PrioritisedReplay(20, 1, (2, 2), stack=2, time_limit=5, cut_period=10), History(1, 5)
    replay.start(made.frames())
    for step in made.steps(10):
        replay.add(*step)
    index = replay.draw(4, 1, 1)[0]
    replay.update(index, torch.full(index.shape, 1e4))
    replay.clear(made.frames())
    replay.check()
    for step in made.steps(4):
        replay.add(*step)
    replay.draw(4, 1, 1)
    assert replay.priorities.get(torch.arange(10, 14)).tolist() == [1.0] * 4
    replay.check()
