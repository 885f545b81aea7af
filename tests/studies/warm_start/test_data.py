"""The data sets as they are read, their provenance and faults, and the batches made of them."""

import gzip
import hashlib
import io
import sys
import tarfile
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experiment.config import ConfigError
from studies.warm_start import data, files
from studies.warm_start.data import Sampler, augment, channel_statistics, load, prepare

CIFAR = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
RECORDS = 3


def digest(content):
    return hashlib.md5(content).hexdigest()


def idx(array):
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def official(monkeypatch, name, contents, **changes):
    """Makes these contents the official ones."""
    table = {file: (len(content), digest(content)) for file, content in contents.items()}
    monkeypatch.setitem(files.SOURCES, name, replace(files.SOURCES[name], files=table, **changes))


@pytest.fixture
def cifar(monkeypatch):
    """Contents by file: a few records, which are taken as the official ones."""
    rows = np.random.RandomState(0).randint(0, 256, (6, RECORDS, 3073)).astype(np.uint8)
    rows[:, :, 0] = np.arange(6 * RECORDS).reshape(6, RECORDS) % 10
    contents = {file: rows[i].tobytes() for i, file in enumerate(CIFAR)}
    official(monkeypatch, "cifar10", contents)
    return contents


@pytest.fixture
def fashion(monkeypatch):
    random = np.random.RandomState(1)
    contents = {}
    for part, count in (("train", 4), ("t10k", 2)):
        contents[f"{part}-images-idx3-ubyte"] = idx(random.randint(0, 256, (count, 28, 28)).astype(np.uint8))
        contents[f"{part}-labels-idx1-ubyte"] = idx(random.randint(0, 10, count).astype(np.uint8))
    official(monkeypatch, "fashion-mnist", contents)
    return contents


def lay(folder, contents, packed=False):
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in contents.items():
        path = folder / f"{file}.gz" if packed else folder / file
        path.write_bytes(gzip.compress(content) if packed else content)


def archive(path, contents, monkeypatch=None):
    with tarfile.open(path, "w:gz") as tar:
        for file, content in {"batches.meta.txt": b"cat\n", **contents}.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{file}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    if monkeypatch:
        source = files.SOURCES["cifar10"]
        remote = replace(source.remotes[0], md5=digest(path.read_bytes()))
        monkeypatch.setitem(files.SOURCES, "cifar10", replace(source, remotes=(remote,)))


def check_cifar(dataset, contents):
    """Against the description of the format, one byte at a time."""
    assert dataset.classes == 10
    for i, file in enumerate(CIFAR):
        images, labels = dataset.train_images[i * RECORDS :], dataset.train_labels[i * RECORDS :]
        if file == "test_batch.bin":
            images, labels = dataset.test_images, dataset.test_labels
        for n in range(RECORDS):
            record = contents[file][n * 3073 : (n + 1) * 3073]
            assert labels[n] == record[0]
            for channel, y, x in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (2, 31, 30)):
                assert images[n, channel, y, x] == record[1 + channel * 1024 + y * 32 + x]
    assert dataset.train_images.shape == (5 * RECORDS, 3, 32, 32)
    assert dataset.test_images.shape == (RECORDS, 3, 32, 32)
    check_types(dataset)


def check_types(dataset):
    for images, labels in (
        (dataset.train_images, dataset.train_labels),
        (dataset.test_images, dataset.test_labels),
    ):
        assert images.dtype == torch.uint8
        assert labels.dtype == torch.int64
        assert images.is_contiguous()
        assert len(images) == len(labels)


def complaint(name, folder):
    with pytest.raises(ConfigError) as caught:
        load(name, str(folder))
    line = str(caught.value)
    assert "\n" not in line
    assert "--data-dir" in line
    assert f"warm_start.download {name} --data-dir {folder}" in line
    return line


# --- reading


def test_cifar10_is_read_from_its_folder_its_parent_and_its_archive(tmp_path, cifar, monkeypatch):
    lay(tmp_path / "cifar-10-batches-bin", cifar)
    for folder in (tmp_path, tmp_path / "cifar-10-batches-bin"):
        dataset = load("cifar10", str(folder))
        assert dataset.name == "CIFAR-10"
        check_cifar(dataset, cifar)
    (tmp_path / "packed").mkdir()
    archive(tmp_path / "packed" / "cifar-10-binary.tar.gz", cifar, monkeypatch)
    dataset = load("cifar10", str(tmp_path / "packed"))
    assert dataset.name == "CIFAR-10"
    check_cifar(dataset, cifar)
    assert [path.name for path in (tmp_path / "packed").iterdir()] == ["cifar-10-binary.tar.gz"]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("place", [".", "fashion-mnist", "FashionMNIST/raw"])
def test_fashion_mnist_is_read_with_and_without_gz(tmp_path, fashion, packed, place):
    lay(tmp_path / place, fashion, packed)
    dataset = load("fashion-mnist", str(tmp_path))
    assert dataset.name == "Fashion-MNIST"
    assert dataset.train_images.shape == (4, 1, 28, 28)
    assert dataset.test_images.shape == (2, 1, 28, 28)
    assert dataset.train_images.numpy().tobytes() == fashion["train-images-idx3-ubyte"][16:]
    assert bytes(dataset.test_labels.tolist()) == fashion["t10k-labels-idx1-ubyte"][8:]
    check_types(dataset)


def test_digits_come_from_scikit_learn(monkeypatch):
    images = np.random.RandomState(0).randint(0, 17, (1797, 8, 8)).astype(float)
    images[:, 0, 0], images[:, 0, 1] = 0, 16
    target = np.arange(1797) % 10
    bunch = types.SimpleNamespace(images=images, target=target)
    monkeypatch.setitem(sys.modules, "sklearn", types.ModuleType("sklearn"))
    monkeypatch.setitem(sys.modules, "sklearn.datasets", types.SimpleNamespace(load_digits=lambda: bunch))
    dataset = load("digits", None)
    assert dataset.train_images.shape == (1297, 1, 8, 8)
    assert dataset.test_images.shape == (500, 1, 8, 8)
    check_types(dataset)
    images_after = torch.cat([dataset.train_images, dataset.test_images]).flatten(1).tolist()
    labels_after = torch.cat([dataset.train_labels, dataset.test_labels]).tolist()
    scaled = (images * 255 / 16).round().astype(int).reshape(1797, 64).tolist()
    assert sorted(zip(labels_after, images_after, strict=True)) == sorted(zip(target.tolist(), scaled, strict=True))
    assert torch.equal(load("digits", None).test_images, dataset.test_images)
    assert torch.equal(dataset.to("cpu").test_labels, dataset.test_labels)


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ConfigError, match=r"pip install 'rewarm\[digits\]'"):
        load("digits", None)


def test_the_default_folder(tmp_path, cifar, monkeypatch):
    monkeypatch.setenv("REWARM_DATA", str(tmp_path))
    lay(tmp_path, cifar)
    check_cifar(load("cifar10", None), cifar)
    monkeypatch.delenv("REWARM_DATA")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(ConfigError, match=r"home/.cache/rewarm: CIFAR-10 is not there; `python .*download cifar10`"):
        load("cifar10", None)


# --- provenance


def test_a_copy_is_not_called_by_the_plain_name(tmp_path, cifar):
    copy = {file: content[:1] + bytes([content[1] ^ 1]) + content[2:] for file, content in cifar.items()}
    lay(tmp_path, copy)
    assert load("cifar10", str(tmp_path)).name == "CIFAR-10 (unverified copy)"
    (tmp_path / "SOURCE.txt").write_text("\n  JPEG  q75 copy\nmore\n")
    assert load("cifar10", str(tmp_path)).name == "CIFAR-10 (JPEG q75 copy)"
    lay(tmp_path, cifar)
    assert load("cifar10", str(tmp_path)).name == "CIFAR-10"


def test_one_file_that_differs_from_the_official_ones_is_damage(tmp_path, cifar):
    lay(tmp_path, cifar)
    content = cifar["data_batch_3.bin"]
    (tmp_path / "data_batch_3.bin").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "data_batch_3.bin is damaged: its md5" in complaint("cifar10", tmp_path)
    (tmp_path / "SOURCE.txt").write_text("one pixel changed\n")
    assert load("cifar10", str(tmp_path)).name == "CIFAR-10 (one pixel changed)"


# --- faults


def test_missing_and_cut_files(tmp_path, cifar):
    assert f"{tmp_path}: CIFAR-10 is not there" in complaint("cifar10", tmp_path)
    lay(tmp_path, cifar)
    (tmp_path / "data_batch_2.bin").write_bytes(cifar["data_batch_2.bin"][:-1])
    assert f"data_batch_2.bin is damaged: it has {RECORDS * 3073 - 1:,} bytes" in complaint("cifar10", tmp_path)
    (tmp_path / "data_batch_2.bin").unlink()
    assert "data_batch_2.bin is missing" in complaint("cifar10", tmp_path)
    (tmp_path / "data_batch_2.bin").mkdir()
    assert "data_batch_2.bin cannot be read (Is a directory)" in complaint("cifar10", tmp_path)


def test_a_label_that_is_none(tmp_path, cifar, fashion):
    content = bytearray(cifar["test_batch.bin"])
    content[3073] = 10
    lay(tmp_path, {**cifar, "test_batch.bin": bytes(content)})
    (tmp_path / "SOURCE.txt").write_text("mine")
    assert "test_batch.bin is damaged: record 1 has label 10" in complaint("cifar10", tmp_path)
    labels = bytearray(fashion["train-labels-idx1-ubyte"])
    labels[-1] = 255
    lay(tmp_path, {**fashion, "train-labels-idx1-ubyte": bytes(labels)})
    assert "train-labels-idx1-ubyte is damaged: record 3 has label 255" in complaint("fashion-mnist", tmp_path)


@pytest.mark.parametrize("harm", ["cut", "changed"])
def test_a_damaged_archive(tmp_path, cifar, monkeypatch, harm):
    path = tmp_path / "cifar-10-binary.tar.gz"
    archive(path, cifar, monkeypatch)
    content = path.read_bytes()
    path.write_bytes(content[:500] if harm == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
    assert "cifar-10-binary.tar.gz is damaged: its md5 is" in complaint("cifar10", tmp_path)


def test_a_damaged_idx_file(tmp_path, fashion):
    lay(tmp_path, fashion, packed=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:100])
    assert "train-images-idx3-ubyte.gz is damaged" in complaint("fashion-mnist", tmp_path)
    path.write_bytes(b"<html>")
    assert "train-images-idx3-ubyte.gz is damaged" in complaint("fashion-mnist", tmp_path)
    images = bytearray(fashion["train-images-idx3-ubyte"])
    images[11] = 14
    images[15] = 56
    path.write_bytes(gzip.compress(bytes(images)))
    (tmp_path / "SOURCE.txt").write_text("mine")
    assert "train-images-idx3-ubyte is damaged: its header" in complaint("fashion-mnist", tmp_path)


def test_a_name_that_is_none():
    with pytest.raises(ConfigError, match="did you mean 'cifar10'"):
        load("cifar-10", None)


# --- pixels


def images_of(count, channels, size, seed):
    return torch.from_numpy(np.random.RandomState(seed).randint(0, 256, (count, channels, size, size)).astype(np.uint8))


def test_channels_are_normalised_by_the_statistics():
    images = images_of(20, 3, 8, 0) // torch.tensor([1, 2, 5], dtype=torch.uint8)[:, None, None]
    mean, std = channel_statistics(images)
    pixels = images.double() / 255
    torch.testing.assert_close(mean.double(), pixels.mean((0, 2, 3)), atol=1e-7, rtol=0)
    torch.testing.assert_close(std.double(), pixels.std((0, 2, 3), correction=0), atol=1e-7, rtol=0)
    before = images.clone()
    ready = prepare(images, mean, std)
    torch.testing.assert_close(ready.double(), (pixels - mean[:, None, None]) / std[:, None, None], atol=1e-5, rtol=0)
    assert prepare(images, mean, std, torch.bfloat16).dtype == torch.bfloat16
    assert torch.equal(images, before)
    even = torch.full((2, 1, 4, 4), 7, dtype=torch.uint8)
    assert prepare(even, *channel_statistics(even)).abs().max() < 1e-5


def slow_augment(images, generator, flip):
    """One image after another, pixel by pixel."""
    count, _, height, width = images.shape
    tops, lefts = torch.randint(9, (2, count, 1), generator=generator)
    mirrored = torch.randint(1 + flip, (count, 1), generator=generator, dtype=torch.bool)
    out = torch.zeros_like(images)
    for n in range(count):
        for y in range(height):
            for x in range(width):
                row = y + int(tops[n]) - 4
                column = (width - 1 - x if mirrored[n] else x) + int(lefts[n]) - 4
                if 0 <= row < height and 0 <= column < width:
                    out[n, :, y, x] = images[n, :, row, column]
    return out


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 6), st.sampled_from([1, 3]), st.integers(1, 9), st.integers(0, 99), st.booleans(), st.booleans())
def test_augment_is_the_slow_one(count, channels, size, seed, flip, channels_last):
    images = images_of(count, channels, size, seed)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    before = images.clone()
    fast, slow = (torch.Generator().manual_seed(seed) for _ in range(2))
    assert torch.equal(augment(images, fast, flip), slow_augment(images, slow, flip))
    assert torch.equal(images, before)


def test_crops_and_flips_are_even_and_of_each_image_alone():
    image = torch.arange(1, 65, dtype=torch.uint8).view(1, 1, 8, 8)
    results = augment(image.expand(8_000, 1, 8, 8), torch.Generator().manual_seed(0))
    kinds, counts = results.flatten(1).unique(dim=0, return_counts=True)
    assert len(kinds) == 9 * 9 * 2
    assert counts.float().std() < 2 * (8_000 / 162) ** 0.5  # Poisson's would be 7
    unmirrored = augment(image.expand(500, 1, 8, 8), torch.Generator().manual_seed(0), flip=False)
    rows = [row[row > 0] for row in unmirrored.flatten(0, 2)]
    assert all((row.diff() == 1).all() for row in rows)


# --- batches


def sampler(size, batch_size, seed, total=50):
    images = torch.arange(total, dtype=torch.uint8).view(total, 1, 1, 1)
    indices = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:size]
    return Sampler(images, torch.arange(total), indices, batch_size, torch.Generator().manual_seed(seed))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.integers(1, 30), st.integers(0, 99), st.integers(0, 12), st.integers(1, 12))
def test_batches_are_full_epochs_whole_and_a_state_goes_on(size, batch_size, seed, before, after):
    whole = sampler(size, batch_size, seed)
    first = [next(whole) for _ in range(before)]
    state = whole.state_dict()
    rest = [next(whole) for _ in range(after)]
    assert {len(batch) for batch in first + rest} == {batch_size}
    stream = torch.cat(first + rest)
    for epoch in stream.split(size):
        assert epoch.unique().numel() == len(epoch)
        assert set(epoch.tolist()) <= set(whole.indices.tolist())
    other = sampler(size, batch_size, seed + 1)
    next(other)
    other.load_state_dict(state)
    assert torch.equal(torch.cat([next(other) for _ in range(after)]), torch.cat(rest))


def test_epochs_are_shuffled_anew_and_batches_fetch_both():
    batches = sampler(20, 20, 3)
    epochs = [next(batches) for _ in range(3)]
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[1], epochs[2])
    images, labels = batches.batch()
    assert images.shape == (20, 1, 1, 1)
    assert torch.equal(images.flatten().long(), labels)


def test_a_sampler_of_nothing():
    for size, batch_size in ((0, 4), (4, 0)):
        with pytest.raises(ValueError, match=f"got {size} for batches of {batch_size}"):
            sampler(size, batch_size, 0)


def test_the_published_sums_are_of_files_of_the_right_size():
    assert {size for size, _ in files.SOURCES["cifar10"].files.values()} == {10_000 * 3073}
    sizes = [size for size, _ in files.SOURCES["fashion-mnist"].files.values()]
    assert sizes == [16 + 60_000 * 784, 8 + 60_000, 16 + 10_000 * 784, 8 + 10_000]
    assert data.PADDING == 4
