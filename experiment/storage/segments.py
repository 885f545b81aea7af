"""Rows of a growing ring on the disk, each written once.

A checkpoint holds the stored rows of a ring as segments: files of consecutive rows, which never change. Segments of the
previous checkpoint are hard-linked into the new one. So a save writes only the new rows, every checkpoint directory is
complete, and a segment is deleted with the last checkpoint that needs it. Old rows are on the disk only once: if the
disk damages them, every checkpoint is damaged.
"""

import contextlib
import os
import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from experiment.storage.files import HashingFile
from experiment.values import ConfigError

CHUNK_BYTES = 1 << 23
"""Most bytes copied at once."""
SEGMENT_BYTES = 1 << 27
"""Most bytes in one segment, and so the most that the disk holds beyond the stored rows."""


class Rows(Protocol):
    """A ring of rows of one size, numbered from the first ever written."""

    @property
    def stored_rows(self) -> tuple[int, int]:
        """The rows that it holds, first <= row < stop."""

    @property
    def row_format(self) -> str:
        """The contents of a row, in one line."""

    @property
    def row_bytes(self) -> int: ...

    def read_rows(self, first: int, stop: int) -> np.ndarray:
        """Rows as uint8 [stop - first, row_bytes]."""

    def write_rows(self, first: int, rows: np.ndarray) -> None:
        """Puts back what `read_rows` gave."""


class Segment(NamedTuple):
    """A file of the rows first <= row < stop, with its size in bytes and sha256."""

    first: int
    stop: int
    size: int
    sha256: str

    @property
    def name(self) -> str:
        return f"rows-{self.first:012d}.bin"


class Segments:
    """A ring and the segments that hold its rows in the newest checkpoint, which this object saw saved or loaded."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self._directory = Path()
        self._saved: list[Segment] = []

    def write(self, directory: Path) -> list[Segment]:
        """Fills an empty directory with segments of all stored rows: links, and the rows since. Raises OSError."""
        first, stop = self.rows.stored_rows
        segments = self._link([segment for segment in self._saved if segment.stop > first], directory)
        row = segments[-1].stop if segments else first
        step = max(1, SEGMENT_BYTES // self.rows.row_bytes)
        while row < stop:
            segments.append(self._write(directory, row, min(row + step, stop)))
            row = segments[-1].stop
        return segments

    def adopt(self, directory: Path, segments: list[Segment]) -> None:
        """Notes that `segments` are safe in `directory`, for later saves to link."""
        self._directory, self._saved = directory, segments

    def load(self, directory: Path, entry: dict[str, Any]) -> None:
        """Fills the ring from the segments of a loaded checkpoint, whose sums are right; `entry` is from `describe`.

        Raises ConfigError for rows of another ring.
        """
        if entry["format"] != self.rows.row_format:
            raise ConfigError(f"the saved rows are {entry['format']}, these are {self.rows.row_format}")
        segments = [Segment(**segment) for segment in entry["segments"]]
        first, stop = self.rows.stored_rows
        held = [(segment.first, segment.stop) for segment in segments]
        whole = all(a[1] == b[0] for a, b in pairwise(held))
        if first < stop and not (held and whole and held[0][0] <= first and held[-1][1] == stop):
            raise ConfigError(f"the saved rows {held} are not the rows {first} to {stop} that are to be loaded")
        for segment in segments:
            self._read(directory, segment, first)
        self.adopt(directory, segments)

    def forget(self, row: int) -> None:
        """Notes that stored rows from `row` on have changed since they were saved: later saves write them again."""
        self._saved = [segment for segment in self._saved if segment.stop <= row]

    def describe(self, segments: list[Segment]) -> dict[str, Any]:
        """What a manifest says of them."""
        return {"format": self.rows.row_format, "segments": [segment._asdict() for segment in segments]}

    def _link(self, segments: list[Segment], directory: Path) -> list[Segment]:
        """The segments, linked; none if one cannot be."""
        try:
            for segment in segments:
                source = self._directory / segment.name
                if source.stat().st_size != segment.size:
                    raise FileNotFoundError(f"{source} has changed")
                os.link(source, directory / segment.name)
        except OSError as error:
            for segment in segments:
                with contextlib.suppress(FileNotFoundError):
                    (directory / segment.name).unlink()
            warnings.warn(f"rows that were saved before are written again: {error}", stacklevel=2)
            return []
        return list(segments)

    def _write(self, directory: Path, first: int, stop: int) -> Segment:
        file = HashingFile(directory / f"rows-{first:012d}.bin")
        try:
            for low, high in self._chunks(first, stop):
                file.write(self.rows.read_rows(low, high))
        finally:
            written = file.finish()
        return Segment(first, stop, **written)

    def _read(self, directory: Path, segment: Segment, oldest: int) -> None:
        with open(directory / segment.name, "rb") as file:
            for low, high in self._chunks(max(segment.first, oldest), segment.stop):
                file.seek((low - segment.first) * self.rows.row_bytes)
                chunk = np.empty((high - low, self.rows.row_bytes), np.uint8)
                if file.readinto(chunk) != chunk.nbytes:  # type: ignore[arg-type]
                    raise ConfigError(f"{directory / segment.name} has changed while it was read")
                self.rows.write_rows(low, chunk)

    def _chunks(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        step = max(1, CHUNK_BYTES // self.rows.row_bytes)
        for low in range(first, stop, step):
            yield low, min(low + step, stop)
