import numpy as np
import pytest
import torch
from replay_histories import History
from torch.utils._python_dispatch import TorchDispatchMode

from replay import FrameReplay


def filled(rows: int = 20, num_envs: int = 2, steps: int = 50, seed: int = 0) -> FrameReplay:
    replay = FrameReplay(rows * num_envs, num_envs, (2, 2), time_limit=3, seed=seed)
    made = History(num_envs, 3)
    replay.start(made.frames())
    for step in made.steps(steps):
        replay.add(*step)
    return replay


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("steps", [15, 20, 50])
def test_sampling_is_uniform_over_exactly_the_legal_starts(n_step, steps):
    replay = filled(steps=steps)
    index = replay.sample_index(replay.num_legal(n_step), 400, n_step=n_step).flatten().numpy()
    oldest = max(0, steps - 20)
    first = (oldest + 3 if oldest else 0) * 2
    legal = np.arange(first, (steps - n_step + 1) * 2)
    found, counts = np.unique(index, return_counts=True)
    assert np.array_equal(found, legal)
    chi_square = ((counts - 400) ** 2 / 400).sum()
    freedom = len(legal) - 1
    assert chi_square < freedom + 4 * np.sqrt(2 * freedom)


def test_sample_is_the_gather_of_the_sampled_index():
    replay = filled()
    view = {"n_step": 3, "gamma": 0.9, "cut_at_life_loss": True, "clip_reward": 1.0}
    batch = replay.sample(8, 4, **view)
    assert batch.batch_size == (4, 8)
    shapes = {"obs": (4, 8, 4, 2, 2), "next_obs": (4, 8, 4, 2, 2)}
    dtypes = {"obs": torch.uint8, "next_obs": torch.uint8, "reward": torch.float32, "discount": torch.float32}
    kept = batch.clone()
    again = replay.gather(kept["index"], **view)
    for key in ("obs", "next_obs", "action", "reward", "discount", "index"):
        assert kept[key].shape == shapes.get(key, (4, 8))
        assert kept[key].dtype == dtypes.get(key, torch.int64)
        assert torch.equal(kept[key], again[key])


def test_buffer_is_reused_by_the_same_sizes_only():
    replay = filled()
    first, other, again = (replay.sample(*sizes) for sizes in ((8, 4), (8, 2), (8, 4)))
    assert first["obs"].data_ptr() == again["obs"].data_ptr() != other["obs"].data_ptr()


def test_same_seed_same_samples_other_seed_other_samples():
    one, two, other = filled(seed=1), filled(seed=1), filled(seed=2)
    for _ in range(3):
        drawn = one.sample_index(16)
        assert torch.equal(drawn, two.sample_index(16))
        assert not torch.equal(drawn, other.sample_index(16))


class Calls(TorchDispatchMode):
    """Records the name of every operation."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("n_step", [1, 5])
def test_sampling_reads_nothing_back_and_gathers_pixels_once(n_step):
    replay = filled()
    with Calls() as calls:
        replay.sample(8, 2, n_step=n_step, clip_reward=1.0, cut_at_life_loss=True)
    forbidden = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero")
    assert not [name for name in calls.names if any(word in name for word in forbidden)]
    assert sum("index_select" in name for name in calls.names) == 1


def test_ready_agrees_with_sample():
    replay, made = FrameReplay(40, 2, (2, 2)), History(2, None)
    replay.start(made.frames())
    for step in made.steps(30):
        replay.add(*step)
        for n_step in (1, 4):
            if replay.ready(8, n_step):
                replay.sample(8, n_step=n_step)
            else:
                with pytest.raises(ValueError, match=f"n_step={n_step} leaves {replay.num_legal(n_step)} of the"):
                    replay.sample(8, n_step=n_step)
