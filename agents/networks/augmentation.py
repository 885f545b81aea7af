"""DrQ's augmentation of frame stacks: random shifts and intensity (arXiv 2004.13649), on the frames' device.

Frames are [B, stack, ..., H, W], uint8 or floating point. Every sample has its own shift and intensity, the same for
all frames and channels of its stack. The numbers come from the given generator, which is on the frames' device;
nothing waits for it.
"""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from torch import Generator, Tensor


def random_shift(frames: Tensor, generator: Generator, pad: int = 4) -> Tensor:
    """Frames moved by up to `pad` pixels up or down and left or right, each edge repeated where it moves in.

    The same as a random crop, at the image's size, of the image padded by replication.
    """
    shifts = torch.randint(-pad, pad + 1, (2, len(frames), 1), generator=generator, device=frames.device)
    return _shift(frames, shifts[0], shifts[1])


def _shift(frames: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Frames whose pixel (i, j) was at (i + down, j + right), or at the edge: int64 [B, 1] each."""
    height, width = frames.shape[-2:]
    rows = (torch.arange(height, device=frames.device) + down).clamp(0, height - 1)
    columns = (torch.arange(width, device=frames.device) + right).clamp(0, width - 1)
    sources = (rows.unsqueeze(2) * width + columns.unsqueeze(1)).flatten(1).unsqueeze(1)  # one gather is the quickest
    images = frames.flatten(1, -3).flatten(2)
    return images.gather(2, sources.expand(-1, images.shape[1], -1)).view(frames.shape)


def random_intensity(frames: Tensor, generator: Generator, scale: float = 0.05) -> Tensor:
    """Frames times 1 + scale · ε, with ε normal and clipped to ±2: float32 for uint8 frames, else of their dtype.

    The values are neither rounded nor cut at the brightest.
    """
    noise = torch.randn(len(frames), *[1] * (frames.ndim - 1), generator=generator, device=frames.device).clamp(-2, 2)
    dtype = frames.dtype if frames.is_floating_point() else torch.float32
    return frames.to(dtype) * (1 + scale * noise).to(dtype)


def drq(block: TensorDictBase, generator: Generator) -> None:
    """Shifts, then changes the intensity of, `obs` and `next_obs` of K minibatches [K, B, stack, ..., H, W], each once.

    One augmentation of each observation (M = K = 1), as in Dopamine's DrQ. Dopamine's shifts end at +3 pixels; these
    end at +4, as in the paper.
    """
    for name in ("obs", "next_obs"):
        frames = random_shift(block[name].flatten(0, 1), generator)
        block[name] = random_intensity(frames, generator).unflatten(0, block.batch_size)
