"""Rows of a ring on the disk: written once, whole after any crash, gone when nothing needs them."""

import os
import resource
import shutil
import signal
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiment.storage import segments as module
from experiment.storage.checkpoint import CheckpointError, load_latest, save, save_or_warn
from experiment.storage.segments import Segments
from experiment.values import ConfigError


class Ring:
    """The last `size` rows, each filled with its number."""

    row_format = "one number"
    row_bytes = 8

    def __init__(self, size: int) -> None:
        self.size, self.head = size, 0
        self.rows: dict[int, bytes] = {}

    def grow(self, count: int) -> None:
        for row in range(self.head, self.head + count):
            self.rows[row] = np.int64(row).tobytes()
        self.head += count
        self.rows = {row: value for row, value in self.rows.items() if row >= self.head - self.size}

    @property
    def stored_rows(self) -> tuple[int, int]:
        return max(0, self.head - self.size), self.head

    def read_rows(self, first: int, stop: int) -> np.ndarray:
        return np.frombuffer(b"".join(self.rows[row] for row in range(first, stop)), np.uint8).reshape(-1, 8)

    def write_rows(self, first: int, rows: np.ndarray) -> None:
        self.rows |= {first + i: row.tobytes() for i, row in enumerate(rows)}


def store(directory: Path, ring: Ring, rows: Segments) -> Path:
    return save(directory, ring.head, {"ring": {"head": ring.head}}, rows=rows)


def loaded(directory: Path, size: int) -> tuple[Ring, Segments]:
    ring = Ring(size)
    rows = Segments(ring)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = load_latest(directory)
    ring.head = found.state["ring"]["head"]
    found.load_rows(rows)
    return ring, rows


def inodes(directory: Path) -> dict[int, int]:
    """Inode and size of every segment there is."""
    return {path.stat().st_ino: path.stat().st_size for path in directory.glob("*/rows-*")}


@given(
    size=st.integers(1, 40),
    steps=st.lists(st.tuples(st.integers(0, 50), st.booleans()), min_size=1, max_size=5),
    chunk=st.integers(1, 60),
    segment=st.integers(1, 200),
)
@settings(deadline=None, max_examples=25)
def test_rows_come_back_and_none_is_written_twice(size, steps, chunk, segment):
    """Through any growth, with a resume between where the flag says so."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK_BYTES", chunk)
        patch.setattr(module, "SEGMENT_BYTES", segment)
        directory, ring = Path(name), Ring(size)
        rows = Segments(ring)
        for growth, resumes in steps:
            before, known = ring.head, inodes(directory)
            ring.grow(growth)
            store(directory, ring, rows)
            new = {inode: bytes_ for inode, bytes_ in inodes(directory).items() if inode not in known}
            assert sum(new.values()) <= 8 * min(growth, size)
            other, other_rows = loaded(directory, size)
            assert other.rows == ring.rows
            if resumes:
                ring, rows = other, other_rows
            assert len(inodes(directory)) <= len(known) + 8 * growth // min(segment, 8) + 1
            assert before <= ring.head


def test_only_what_the_kept_checkpoints_need_is_on_the_disk(tmp_path):
    ring = Ring(10)
    rows = Segments(ring)
    for _ in range(12):
        ring.grow(3)
        store(tmp_path, ring, rows)
    names = [sorted(path.name for path in place.glob("rows-*")) for place in sorted(tmp_path.iterdir())]
    assert names == [[f"rows-{row:012d}.bin" for row in range(first, first + 12, 3)] for first in (21, 24)]
    assert sum(inodes(tmp_path).values()) == 8 * 15


def test_the_same_step_again_and_no_new_rows(tmp_path):
    ring = Ring(10)
    rows = Segments(ring)
    ring.grow(4)
    for _ in range(3):
        store(tmp_path, ring, rows)
        assert loaded(tmp_path, 10)[0].rows == ring.rows
    assert len(inodes(tmp_path)) == 1


@pytest.mark.parametrize("loss", ["no links", "gone", "cut"])
def test_where_segments_cannot_be_linked_all_rows_are_written_again(loss, tmp_path, monkeypatch):
    ring = Ring(10)
    rows = Segments(ring)
    for _ in range(3):
        ring.grow(3)
        newest = store(tmp_path, ring, rows)
    victim = newest / f"rows-{3:012d}.bin"
    if loss == "no links":
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(95, "Operation not supported")))
    elif loss == "gone":
        shutil.rmtree(newest)
    else:
        victim.write_bytes(b"")
    ring.grow(3)
    with pytest.warns(UserWarning, match="written again"):
        newest = store(tmp_path, ring, rows)
    assert loaded(tmp_path, 10)[0].rows == ring.rows
    assert [path.name for path in newest.glob("rows-*")] == [f"rows-{2:012d}.bin"]
    assert loss != "cut" or victim.read_bytes() == b""


def test_a_disk_that_fills_amid_a_segment(tmp_path):
    """The real thing: RLIMIT_FSIZE makes the kernel refuse, as a full disk does."""
    ring = Ring(5_000)
    rows = Segments(ring)
    ring.grow(1_000)
    store(tmp_path, ring, rows)
    kept = inodes(tmp_path)
    ring.grow(4_000)
    if (child := os.fork()) == 0:  # the limit must not touch the test process
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        warnings.simplefilter("ignore")
        saved = save_or_warn(tmp_path, ring.head, {"ring": {"head": ring.head}}, rows=rows)
        os._exit(2 * saved + (sorted(path.name for path in tmp_path.iterdir()) != [f"{1_000:012d}"]))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert inodes(tmp_path) == kept
    store(tmp_path, ring, rows)
    assert loaded(tmp_path, 5_000)[0].rows == ring.rows


def test_where_old_rows_rot_no_checkpoint_is_left_but_the_rest_can_be_read(tmp_path):
    ring = Ring(10)
    rows = Segments(ring)
    for _ in range(2):
        ring.grow(3)
        newest = store(tmp_path, ring, rows)
    (newest / f"rows-{0:012d}.bin").write_bytes(b"?" * 24)  # one file for both
    with (
        pytest.warns(UserWarning, match=r"damaged \(rows-000000000000.bin has changed"),
        pytest.raises(ConfigError, match=r"every checkpoint in .* is damaged in its rows alone: "),
    ):
        load_latest(tmp_path)
    assert load_latest(tmp_path, only=("ring",)).step == 6


def test_a_failed_save_loses_no_rows(tmp_path, monkeypatch):
    ring = Ring(10)
    rows = Segments(ring)
    ring.grow(4)
    store(tmp_path, ring, rows)
    kept = inodes(tmp_path)
    ring.grow(4)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(CheckpointError, match="No space left"):
            store(tmp_path, ring, rows)
        with pytest.warns(UserWarning, match="training goes on"):
            assert not save_or_warn(tmp_path, ring.head, {"ring": {"head": ring.head}}, rows=rows)
    assert inodes(tmp_path) == kept
    assert loaded(tmp_path, 10)[0].head == 4
    ring.grow(4)
    store(tmp_path, ring, rows)
    assert loaded(tmp_path, 10)[0].rows == ring.rows


def test_a_loaded_checkpoint_goes_on_from_its_own_segments_not_from_those_of_a_later_one(tmp_path):
    """A run that was not the same after the resume must not take over rows of what came after the save."""
    ring = Ring(10)
    rows = Segments(ring)
    for _ in range(2):
        ring.grow(3)
        store(tmp_path, ring, rows)
    (tmp_path / f"{6:012d}" / "ring.pt").write_bytes(b"damaged")
    again = Ring(10)
    rows = Segments(again)
    with pytest.warns(UserWarning, match="damaged"):
        found = load_latest(tmp_path)
    again.head = found.state["ring"]["head"]
    found.load_rows(rows)
    again.grow(3)
    again.rows[5] = b"anything"
    store(tmp_path, again, rows)
    assert loaded(tmp_path, 10)[0].rows == again.rows


def test_rows_of_another_ring_are_refused(tmp_path):
    ring = Ring(10)
    ring.grow(7)
    store(tmp_path, ring, Segments(ring))
    found = load_latest(tmp_path)
    other = Ring(10)
    other.head = 9
    with pytest.raises(ConfigError, match="not the rows 0 to 9"):
        found.load_rows(Segments(other))
    other.row_format = "two numbers"
    with pytest.raises(ConfigError, match="the saved rows are one number, these are two numbers"):
        found.load_rows(Segments(other))
    save(tmp_path, 8, {"ring": {"head": 8}})
    with pytest.raises(ConfigError, match="holds no rows"):
        load_latest(tmp_path).load_rows(Segments(other))


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "swap"])
def test_a_damaged_segment_is_named_and_the_checkpoint_before_is_used(damage, tmp_path):
    ring = Ring(4)
    rows = Segments(ring)
    for _ in range(3):
        ring.grow(3)
        newest = store(tmp_path, ring, rows)
    victim = newest / f"rows-{6:012d}.bin"
    content = victim.read_bytes()
    victim.unlink()
    if damage != "gone":
        other = (newest / f"rows-{3:012d}.bin").read_bytes()
        victim.write_bytes({"flip": b"\1" + content[1:], "cut": content[:-1], "swap": other}[damage])
    with pytest.warns(UserWarning, match=r"damaged \(rows-000000000006.bin"):
        assert load_latest(tmp_path).step == 6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_latest(tmp_path, only=("ring",)).step == 9


def test_rows_that_changed_after_they_were_saved_are_written_anew(tmp_path):
    ring = Ring(100)
    rows = Segments(ring)
    for _ in range(3):
        ring.grow(5)
        store(tmp_path, ring, rows)
    ring.rows[9] = ring.rows[14] = np.int64(-1).tobytes()
    rows.forget(9)
    ring.grow(1)
    newest = store(tmp_path, ring, rows)
    found, _ = loaded(tmp_path, 100)
    assert found.rows == ring.rows
    assert os.stat(newest / "rows-000000000000.bin").st_nlink > 1  # what did not change is linked
