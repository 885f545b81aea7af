import copy
import io

import numpy as np
import pytest
import torch
from replay_histories import History

from replay import FrameReplay


def started(
    num_envs: int = 2, time_limit: int | None = 3, steps: int = 0, seed: int = 0
) -> tuple[FrameReplay, History]:
    replay, made = FrameReplay(40, 2, (2, 2), time_limit=time_limit, seed=seed), History(2, 3)
    replay.start(made.frames())
    for step in made.steps(steps):
        replay.add(*step)
    return replay, made


@pytest.mark.parametrize("num_envs", [1, 8])
def test_memory_per_agent_step(num_envs):
    replay = FrameReplay(100_000, num_envs, time_limit=27_000)
    assert 7_056 < replay.nbytes / replay.capacity < 7_300


def test_capacity_rounds_up_to_whole_rows():
    replay = FrameReplay(31, 3, (2, 2))
    assert replay.capacity == 33
    assert len(replay) == 0
    assert replay.num_legal(1) == 0


def saved(replay: FrameReplay) -> tuple[dict, np.ndarray]:
    """The state and the stored rows, as a file would give them back."""
    file = io.BytesIO()
    torch.save(replay.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True), replay.read_rows(*replay.stored_rows)


@pytest.mark.parametrize("steps", [0, 7, 20, 53])
def test_state_and_rows_round_trip_continue_identically(steps):
    replay, made = started(steps=steps, seed=1)
    if replay.ready(1):
        replay.sample(4)
    loaded, _ = started(steps=0, seed=2)
    frames = loaded.frames
    state, rows = saved(replay)
    loaded.load_state_dict(state)
    loaded.write_rows(replay.stored_rows[0], rows)
    loaded.check()
    assert loaded.frames is frames
    assert rows.shape == (len(replay) // 2, replay.row_bytes)
    for step in made.steps(30):
        replay.add(*step)
        loaded.add(*step)
        loaded.check()
        if replay.ready(4):
            one, two = replay.sample(4, 2), loaded.sample(4, 2)
            assert all(torch.equal(one[key], two[key]) for key in one.keys())  # noqa: SIM118  (a tensordict)
    assert np.array_equal(saved(replay)[1], saved(loaded)[1])


def test_a_saved_state_does_not_change_with_the_replay():
    replay, made = started(steps=30)
    state = replay.state_dict()
    before = copy.deepcopy(state)
    for step in made.steps(30):
        replay.add(*step)
    assert all(torch.equal(torch.as_tensor(before[key]), torch.as_tensor(state[key])) for key in before)


def test_a_row_tells_what_it_is():
    replay, _ = started()
    assert replay.row_bytes == 2 * (4 + 1 + 4 + 1 + 4 + 8)
    formats = {FrameReplay(40, n, shape).row_format for n in (1, 2) for shape in ((2, 2), (4, 1))}
    assert len(formats) == 4


def test_state_of_other_sizes_is_refused_and_changes_nothing():
    replay, _ = started(steps=5)
    before = copy.deepcopy(saved(replay))
    for other, said in (
        (FrameReplay(60, 2, (2, 2), time_limit=3), "has capacity 60, this one 40"),
        (FrameReplay(40, 4, (2, 2), time_limit=3), r"has frames of shape \(4, 2, 2\), this one \(2, 2, 2\)"),
    ):
        with pytest.raises(ValueError, match=said):
            replay.load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match="keys"):
        replay.load_state_dict({"head": 3})
    after = saved(replay)
    assert all(torch.equal(torch.as_tensor(before[0][key]), torch.as_tensor(after[0][key])) for key in before[0])
    assert np.array_equal(before[1], after[1])


def test_a_cut_without_room_is_refused_and_one_of_nothing_is_none():
    replay, made = started(time_limit=None)
    replay.add(*History(2, None).step([0, 0]))
    with pytest.raises(ValueError, match="spare=1"):
        replay.cut(made.frames())
    empty, made = started(time_limit=None)
    empty.cut(frames := made.frames())
    empty.check()
    assert np.array_equal(empty.frames[:2].view(2, 2, 2).numpy(), frames)
    with pytest.raises(ValueError, match="frames must be uint8"):
        empty.cut(frames[:1])


def test_tensors_are_accepted_like_arrays():
    one, made = started()
    two, _ = started()
    for step in made.steps(10):
        one.add(*step)
        two.add(*(torch.from_numpy(array) for array in step))
    assert torch.equal(one.frames, two.frames)
    assert torch.equal(one.flags, two.flags)


def test_add_copies_what_it_is_given():
    replay, made = started(steps=1)
    step = made.step([0, 0])
    replay.add(*step)
    kept = replay.frames.clone()
    for array in step:
        array[...] = 0
    assert torch.equal(replay.frames, kept)


def change(position: int, value) -> list:
    step = list(History(2, None).step([0, 0]))
    step[position] = value
    return step


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (change(0, np.array([0, 256])), "0..255"),
        (change(0, np.array([0, -1])), "0..255"),
        (change(0, np.array([0.0, 1.0])), "integers"),
        (change(1, np.zeros(3)), r"shape \(2,\)"),
        (change(2, np.array([0, 1])), "must be bool"),
        (change(4, np.zeros((2, 1), dtype=bool)), r"shape \(2,\)"),
        (change(6, np.zeros((2, 2, 2), dtype=np.float32)), r"next_frame must be uint8 \(2, 2, 2\), got float32"),
        (change(6, np.zeros((2, 3, 2), dtype=np.uint8)), r"got uint8 \(2, 3, 2\)"),
        (change(3, np.array([False, True])), "truncated after 1 agent steps, but replay was built with time_limit=3"),
    ],
)
def test_bad_step_is_refused_in_one_line_and_stores_nothing(step, message):
    replay, _ = started()
    before = copy.deepcopy(replay.state_dict())
    with pytest.raises(ValueError, match=message) as error:
        replay.add(*step)
    assert "\n" not in str(error.value)
    after = replay.state_dict()
    assert all(torch.equal(torch.as_tensor(before[key]), torch.as_tensor(after[key])) for key in before)


def test_an_episode_may_be_truncated_from_the_time_limit_on():
    for length in (1, 2, 3, 4):
        replay, made = started(time_limit=3)
        for _ in range(length - 1):
            replay.add(*made.step([7, 7]))
        step = change(3, np.array([False, True]))
        if length < 3:
            with pytest.raises(ValueError, match=f"truncated after {length} agent steps"):
                replay.add(*step)
        else:
            replay.add(*step)
            assert np.array_equal(replay.frames[replay.ending[(length - 1) * 2 + 1]].view(2, 2).numpy(), step[5][1])
        replay.check()


def test_truncation_without_time_limit_is_refused():
    replay, _ = started(time_limit=None)
    with pytest.raises(ValueError, match="never"):
        replay.add(*change(3, np.array([False, True])))


def test_start_opens_only_an_empty_replay():
    replay, made = started()
    replay.start(made.frames())
    replay.add(*made.step([0, 0]))
    replay.check()
    with pytest.raises(ValueError, match="empty"):
        replay.start(made.frames())
    with pytest.raises(ValueError, match="call start"):
        FrameReplay(40, 2, (2, 2)).add(*made.step([0, 0]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"capacity": 9, "num_envs": 2}, "capacity must hold"),
        ({"capacity": 9, "num_envs": 0}, "num_envs"),
        ({"capacity": 9, "num_envs": 1, "stack": 0}, "stack"),
        ({"capacity": 9, "num_envs": 1, "time_limit": 0}, "time_limit"),
    ],
)
def test_bad_sizes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        FrameReplay(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 4, "num_batches": 0}, "num_batches"),
        ({"batch_size": 4, "n_step": 0}, "n_step"),
        ({"batch_size": 4, "gamma": 1.5}, "gamma"),
        ({"batch_size": 4, "clip_reward": 0.0}, "clip_reward"),
    ],
)
def test_bad_views_are_refused(arguments, message):
    replay, _ = started(steps=10)
    with pytest.raises(ValueError, match=message):
        replay.sample(**arguments)


def corrupt_zero_frame(replay):
    replay.frames[replay._zero_frame] = 1


def corrupt_flags(replay):
    replay.flags[: replay.num_envs * 20] = 8


def lose_an_end(replay):
    replay.flags[replay.flags != 0] = 0


def corrupt_start(replay):
    replay.start_step[:] = 10**9


def corrupt_open_start(replay):
    replay._open_start += replay.num_envs


def corrupt_ending(replay):
    replay.ending[replay.ending == 0] = 1


def corrupt_termination(replay):
    replay.ending[replay.ending == replay._zero_frame] = 0


def share_last_frames(replay):
    replay.ending[replay.ending > replay._zero_frame] = replay._zero_frame + 1


def lose_owner(replay):
    replay._last_frames.owner[:] = -1


def move_head(replay):
    replay.head += 1


@pytest.mark.parametrize(
    ("corrupt", "message"),
    [
        (corrupt_zero_frame, "zero frame"),
        (corrupt_flags, "flags"),
        (lose_an_end, "start"),
        (corrupt_start, "start"),
        (corrupt_open_start, "start"),
        (corrupt_ending, "ending"),
        (corrupt_termination, "ending"),
        (share_last_frames, "last frames"),
        (lose_owner, "last frames"),
        (move_head, "start"),
    ],
)
def test_check_names_the_broken_invariant(corrupt, message):
    replay, _ = started(steps=50)
    replay.check()
    corrupt(replay)
    with pytest.raises(AssertionError, match=message):
        replay.check()
