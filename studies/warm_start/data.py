"""Images as uint8 tensors in memory, and batches of them on their device."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from experiment.config import ConfigError
from studies.warm_start.files import check_name, data_folder, read, remedy

PADDING = 4
_CLASSES = 10
_DIGITS_TEST = 500


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and their classes; `name` is what tables show, with the provenance of a copy.

    Images are uint8 [N, channels, height, width], labels int64 [N].
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: int

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of all images and labels: two copies of the data may have one name."""
        digest = hashlib.sha256()
        for tensor in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def to(self, device: torch.device | str) -> Dataset:
        """The same on a device."""
        train = self.train_images.to(device), self.train_labels.to(device)
        return Dataset(self.name, *train, self.test_images.to(device), self.test_labels.to(device), self.classes)


def load(name: str, data_dir: str | None) -> Dataset:
    """Reads `cifar10`, `fashion-mnist` or `digits`, from `files.data_folder(data_dir)`; nothing is downloaded.

    CIFAR-10 is in its binary layout, in the folder, in its cifar-10-batches-bin or in the archive there. Fashion-MNIST
    is in four idx files, with or without .gz. The digits come with scikit-learn: 8×8, of which 500 are for testing.

    Raises:
        ConfigError: a file is missing or damaged, or scikit-learn is missing; the line says what to do.
    """
    check_name(name)
    if name == "digits":
        return _digits()
    title, contents = read(name, data_dir)
    try:
        train, test = (_cifar10 if name == "cifar10" else _fashion_mnist)(contents)
    except ValueError as error:
        raise ConfigError(f"{data_folder(data_dir)}: {error}; {remedy(name, data_dir)}") from None
    return Dataset(title, *train, *test, _CLASSES)


Split = tuple[Tensor, Tensor]


def _cifar10(contents: dict[str, bytes]) -> tuple[Split, Split]:
    files = {file: _records(file, content) for file, content in contents.items()}
    test = files.pop("test_batch.bin")
    return _split(np.concatenate([files[file] for file in sorted(files)])), _split(test)


def _records(file: str, content: bytes) -> np.ndarray:
    """Rows of one label byte and 3×32×32 pixel bytes."""
    rows = np.frombuffer(content, np.uint8).reshape(-1, 3073)
    _check_labels(file, rows[:, 0])
    return rows


def _split(rows: np.ndarray) -> Split:
    images = np.ascontiguousarray(rows[:, 1:]).reshape(-1, 3, 32, 32)
    return torch.from_numpy(images), torch.from_numpy(rows[:, 0].astype(np.int64))


def _fashion_mnist(contents: dict[str, bytes]) -> tuple[Split, Split]:
    train, test = (_idx_pair(contents, part) for part in ("train", "t10k"))
    return train, test


def _idx_pair(contents: dict[str, bytes], part: str) -> Split:
    images, labels = f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"
    pixels, classes = _idx(images, contents[images], 3), _idx(labels, contents[labels], 1)
    _check_labels(labels, classes)
    return torch.from_numpy(pixels[:, None].copy()), torch.from_numpy(classes.astype(np.int64))


def _idx(file: str, content: bytes, axes: int) -> np.ndarray:
    """An idx file of bytes: two zeros, the type 8, the number of axes, their sizes as big-endian int32, the values."""
    header = np.frombuffer(content, ">i4", count=1 + axes)
    shape = tuple(int(size) for size in header[1:])
    official = header[0] == 0x0800 + axes and shape[1:] == (28, 28)[: axes - 1]
    if not official or len(content) != header.nbytes + math.prod(shape):
        raise ValueError(f"{file} is damaged: its header is that of no idx file of 28×28 images or of their labels")
    return np.frombuffer(content, np.uint8, offset=header.nbytes).reshape(shape)


def _check_labels(file: str, labels: np.ndarray) -> None:
    wrong = np.flatnonzero(labels >= _CLASSES)
    if len(wrong):
        label = labels[wrong[0]]
        raise ValueError(
            f"{file} is damaged: record {wrong[0]} has label {label}, and the last class is {_CLASSES - 1}"
        )


def _digits() -> Dataset:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ConfigError("the digits come with scikit-learn, which is missing: pip install 'rewarm[digits]'") from None
    bunch = load_digits()
    images = torch.from_numpy((bunch.images * (255 / 16)).round().astype(np.uint8))[:, None]
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    # the stream of RandomState never changes
    order = torch.from_numpy(np.random.RandomState(0).permutation(len(labels)))
    train, test = order[_DIGITS_TEST:], order[:_DIGITS_TEST]
    return Dataset("digits", images[train], labels[train], images[test], labels[test], _CLASSES)


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and standard deviation of each channel, float32 [C], for pixels from 0 to 1.

    Exact up to the last rounding, from counts of the 256 values. A channel of one value has deviation 1/255.
    """
    counts = torch.stack([torch.bincount(channel.reshape(-1), minlength=256) for channel in images.unbind(1)]).double()
    values = torch.arange(256, device=images.device, dtype=torch.float64) / 255
    share = counts / counts.sum(1, keepdim=True)
    mean = share @ values
    variance = (share * (values - mean[:, None]) ** 2).sum(1)
    return mean.float(), variance.sqrt().clamp_min(1 / 255).float()


def prepare(images: Tensor, mean: Tensor, std: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """(images / 255 − mean) / std per channel; uint8 [B, C, H, W] to `dtype`, computed in float32."""
    scale, shift = 1 / (255 * std), -mean / std
    # in place: on a CPU five times as fast as one addcmul
    pixels = images.to(torch.float32, copy=True)
    return pixels.mul_(scale[:, None, None]).add_(shift[:, None, None]).to(dtype)


def augment(images: Tensor, generator: torch.Generator, flip: bool = True) -> Tensor:
    """Each image [B, C, H, W] cropped at random from itself with 4 zeros on each side, and mirrored half of the time.

    For pixels, before `prepare`. The generator is on the device of the images; the host waits for nothing.
    """
    count, channels, height, width = images.shape
    device = images.device
    top, left = torch.randint(2 * PADDING + 1, (2, count, 1), generator=generator, device=device)
    mirrored = torch.randint(1 + flip, (count, 1), generator=generator, device=device, dtype=torch.bool)
    padded = F.pad(images, (PADDING,) * 4)
    # whole rows first: copying them is far cheaper on a CPU than indexing both axes at once
    planes = torch.arange(count * channels, device=device).view(count, channels, 1) * padded.shape[2]
    rows = planes + (top + torch.arange(height, device=device))[:, None]
    padded = padded.reshape(-1, padded.shape[3]).index_select(0, rows.view(-1)).view(count, channels, height, -1)
    columns = torch.arange(width, device=device)
    columns = left + torch.where(mirrored, width - 1 - columns, columns)
    return padded.gather(3, columns[:, None, None].expand(images.shape))


class Sampler:
    """Endless full batches of the chosen examples, in shuffled epochs: each comes once before any comes again.

    An epoch's remainder opens the next one's first batch, so a batch may hold an example twice there.
    Iterating yields indices into `images`, int64 [batch_size]; `batch()` fetches. All on the device of the images.

    Args:
        images: uint8 [N, C, H, W].
        labels: int64 [N].
        indices: which examples take part, int64.
        batch_size: examples in a batch.
        generator: on the device of the images; its state is part of this object's.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, indices: Tensor, batch_size: int, generator: torch.Generator
    ) -> None:
        if batch_size < 1 or not len(indices):
            raise ValueError(f"batches need at least one example, got {len(indices)} for batches of {batch_size}")
        self.images, self.labels, self.batch_size, self.generator = images, labels, batch_size, generator
        self.indices = indices.to(images.device)
        self._left = self.indices[:0]

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        while len(self._left) < self.batch_size:
            order = torch.randperm(len(self.indices), generator=self.generator, device=self.indices.device)
            self._left = torch.cat([self._left, self.indices[order]])
        chosen, self._left = self._left.split([self.batch_size, len(self._left) - self.batch_size])
        return chosen

    def batch(self) -> tuple[Tensor, Tensor]:
        """The images and labels of the next batch."""
        chosen = next(self)
        return self.images.index_select(0, chosen), self.labels.index_select(0, chosen)

    def others(self) -> Tensor:
        """The images of another batch, drawn independently; the shuffled epochs go on as they would."""
        shape = (self.batch_size,)
        drawn = torch.randint(len(self.indices), shape, generator=self.generator, device=self.indices.device)
        return self.images.index_select(0, self.indices[drawn])

    def state_dict(self) -> dict[str, Any]:
        """The state that decides the next batches."""
        state = {"indices": self.indices, "left": self._left, "generator": self.generator.get_state()}
        return {key: value.clone() for key, value in state.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Loads a sampler's state; the images and labels have to be the same."""
        self.indices, self._left = (state[key].to(self.images.device).clone() for key in ("indices", "left"))
        self.generator.set_state(state["generator"].cpu())
