"""Writing files so that a crash leaves the old content or the new, and JSON that any reader accepts."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def sync_directory(path: Path) -> None:
    """Makes the names in a directory (new, renamed, removed files) survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, text: str) -> None:
    """Writes a text file beside `path` and renames it; on an OSError `path` is as it was."""
    beside = path.with_name(f".{path.name}.tmp")
    try:
        with open(beside, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def to_json(value: Any, indent: int | None = None) -> str:
    """Writes standard JSON: NaN and infinity are null, one-element tensors and arrays are numbers, others are text."""
    return json.dumps(_plain(value), indent=indent, allow_nan=False, ensure_ascii=False)


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
