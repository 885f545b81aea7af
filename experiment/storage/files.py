"""Writing files so that a crash leaves the old content or the new, hashing, and JSON that any reader accepts."""

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SURROGATE = re.compile("[\ud800-\udfff]")


def sync_directory(path: Path) -> None:
    """Makes the names in a directory (new, renamed, removed files) survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Writes a file next to `path` and renames it; on an OSError `path` is as it was."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def check_room(folder: Path, size: int) -> None:
    """Raises OSError if the disk, a quota or a limit has no room for a file of `size` bytes; leaves none."""
    if not size or not hasattr(os, "posix_fallocate"):
        return
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):  # others: a file system that cannot say
                reason = f"{error.strerror}, and a checkpoint takes {size / 1e6:,.1f} MB or more"
                raise OSError(error.errno, reason) from None


class HashingFile:
    """A new file that hashes what is written and keeps the first OSError for `finish`; fit for `torch.save`.

    An exception inside torch's writer becomes a RuntimeError about positions; so none is raised there.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "xb")  # noqa: SIM115 (closed by finish)
        self._hash = hashlib.sha256()
        self._size = 0
        self._error: OSError | None = None

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        if self._error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self._error = error
        self._hash.update(data)
        self._size += size
        return size

    def flush(self) -> None:
        """Nothing to do: `finish` flushes."""

    def finish(self) -> dict[str, Any]:
        """Flushes the file to the disk; returns its size in bytes and sha256. Raises the OSError of any write."""
        try:
            if self._error is not None:
                raise self._error
            self._file.flush()
            os.fsync(self._file.fileno())
        finally:
            with contextlib.suppress(OSError):  # closing flushes, and fails again on a full disk
                self._file.close()
        return {"size": self._size, "sha256": self._hash.hexdigest()}


def to_json(value: Any, indent: int | None = None) -> str:
    """Writes standard JSON: NaN and infinity are null, one-element tensors and arrays are numbers, others are text.

    A byte of a path that is no UTF-8 is written as Python's escape of it, "\\udcff", which Python reads back.
    """
    text = json.dumps(_plain(value), indent=indent, allow_nan=False, ensure_ascii=False)
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return str(value)
