"""DrQ's augmentation against padding and cropping each image by itself."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from agents.networks.augmentation import drq, random_intensity, random_shift


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def crops(image: torch.Tensor, pad: int) -> torch.Tensor:
    """Every crop of one stack [S, H, W] padded by replication: [(2·pad + 1)², S, H, W]."""
    height, width = image.shape[1:]
    padded = F.pad(image.double().unsqueeze(0), (pad,) * 4, mode="replicate")[0].to(image.dtype)
    places = [(i, j) for i in range(2 * pad + 1) for j in range(2 * pad + 1)]
    return torch.stack([padded[:, i : i + height, j : j + width] for i, j in places])


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 999), st.integers(1, 4), st.integers(1, 3), st.sampled_from([torch.uint8, torch.float32]))
def test_every_stack_is_one_of_its_crops(seed, pad, stack, dtype):
    frames = torch.randint(0, 256, (5, stack, 7, 9), generator=generator(seed)).to(dtype)
    kept = frames.clone()
    shifted = random_shift(frames, generator(seed), pad)
    assert shifted.dtype == dtype
    assert torch.equal(frames, kept)
    for image, moved in zip(frames, shifted, strict=True):
        assert (crops(image, pad) == moved).flatten(1).all(1).any()


def test_every_crop_comes_equally_often_and_samples_differ():
    image = torch.arange(100, dtype=torch.uint8).view(1, 1, 10, 10)
    shifted = random_shift(image.expand(8_100, 1, 10, 10), generator(0), pad=4)
    counts = (shifted.unsqueeze(1) == crops(image[0], 4)).flatten(2).all(2).sum(0)
    assert counts.sum() == 8_100
    assert ((counts - 100) ** 2 / 100).sum() < 124.8  # χ² with 80 degrees of freedom, p = 0.001


@pytest.mark.parametrize("augment", [random_shift, random_intensity])
def test_channels_of_frames_are_augmented_as_frames_of_the_stack(augment):
    frames = torch.randint(0, 256, (5, 2, 3, 21, 24), dtype=torch.uint8)
    as_stack = augment(frames.flatten(1, 2), generator(1)).view(frames.shape)
    assert torch.equal(augment(frames, generator(1)), as_stack)


@pytest.mark.parametrize("augment", [random_shift, random_intensity])
def test_the_generator_alone_decides(augment):
    frames = torch.randint(0, 256, (4, 4, 84, 84), dtype=torch.uint8)
    torch.manual_seed(0)
    first = augment(frames, generator(1))
    torch.manual_seed(1)
    assert torch.equal(first, augment(frames, generator(1)))
    assert not torch.equal(first, augment(frames, generator(2)))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
def test_intensity_is_one_clipped_normal_factor_a_sample(dtype):
    frames = torch.randint(1, 256, (4_000, 2, 2, 3), generator=generator(0)).to(dtype)
    bright = random_intensity(frames, generator(0), scale=0.05)
    assert bright.dtype == (torch.float32 if dtype == torch.uint8 else dtype)
    factors = bright.double() / frames.double()
    if dtype != torch.bfloat16:  # which rounds each pixel by up to 0.4 %
        torch.testing.assert_close(factors, factors[:, :1, :1, :1].expand_as(factors))
    factors = factors.flatten(1).mean(1)
    assert factors.min() == pytest.approx(0.9, abs=4e-3)
    assert factors.max() == pytest.approx(1.1, abs=4e-3)
    assert factors.mean() == pytest.approx(1, abs=4e-3)
    assert (factors - 1).abs().lt(0.05).double().mean() == pytest.approx(0.683, abs=0.03)


def test_both_observations_of_a_block_are_augmented_each_by_itself():
    frames = torch.randint(1, 256, (2, 3, 4, 12, 12), dtype=torch.uint8, generator=generator(0))
    block = TensorDict({"obs": frames.clone(), "next_obs": frames.clone()}, batch_size=(2, 3))
    drq(block, generator(1))
    for name in ("obs", "next_obs"):
        assert block[name].shape == frames.shape
        places = []
        for image, moved in zip(frames.flatten(0, 1), block[name].flatten(0, 1), strict=True):
            # one factor for a whole stack: in one crop, and no other, all quotients are the same
            spread = (moved / crops(image, 4).float()).flatten(1).std(1)
            places.append(int(spread.argmin()))
            assert spread.min() < 1e-5
        assert len(set(places)) > 1
    assert not torch.equal(block["obs"], block["next_obs"])
