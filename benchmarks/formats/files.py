"""Reading other people's files: every fault is a ConfigError of one line, and nothing is unpickled."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiment.config import ConfigError

if TYPE_CHECKING:
    import numpy as np

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
PICKLES = {".pkl", ".pickle", ".joblib", ".pt", ".pth", ".ckpt"}


def refuse_pickle(path: Path) -> None:
    """ConfigError for a file whose ending means a pickle."""
    if path.suffix.lower() in PICKLES:
        raise ConfigError(
            f"{path}: it is a pickle, which can run any code when it is read; save numbers as npz or JSON"
        )


def read_text(path: Path) -> str:
    """A text file in UTF-8."""
    refuse_pickle(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"cannot read {str(path)!r}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: it is not text in UTF-8") from None


def read_rows(path: Path, skip: int = 0) -> list[list[str]]:
    """The fields of each line of a CSV file after the first `skip` lines; each line has as many as the header."""
    lines = read_text(path).splitlines()
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines[skip:], strict=True) if row]
    except csv.Error as error:
        raise ConfigError(f"{path}: it is no CSV table: {error}") from None
    if len(rows) < 2:
        raise ConfigError(f"{path}: it holds no scores")
    for number, row in enumerate(rows[1:], skip + 2):
        if len(row) != len(rows[0]):
            raise ConfigError(f"{path} line {number}: it has {len(row)} fields, and the header {len(rows[0])}")
    doubled = [name for name in rows[0] if rows[0].count(name) > 1]
    if doubled:
        raise ConfigError(f"{path}: column {doubled[0]!r} stands twice")
    return rows


def read_columns(path: Path, needed: tuple[str, ...], skip: int = 0) -> list[dict[str, str]]:
    """The lines of a CSV file by column."""
    header, *rows = read_rows(path, skip)
    for name in needed:
        if name not in header:
            raise ConfigError(f"{path}: it has no column {name!r}; its columns are {', '.join(header)}")
    return [dict(zip(header, row, strict=True)) for row in rows]


def read_json(path: Path) -> Any:
    """A JSON file, in which no key stands twice."""
    text = read_text(path)
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{path}: it is not JSON") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ConfigError(f"key {next(name for name in names if names.count(name) > 1)!r} stands twice")
    return found


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file by name, or the one of an npy file under the name ""."""
    import numpy as np

    refuse_pickle(path)
    try:
        loaded = np.load(path, allow_pickle=False)
        with contextlib.nullcontext() if isinstance(loaded, np.ndarray) else loaded:
            arrays = {"": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except OSError as error:
        raise ConfigError(f"cannot read {str(path)!r}: {error.strerror or 'it is no npy or npz file'}") from None
    except Exception:  # numpy, zipfile and zlib each have errors of their own for damaged files
        raise ConfigError(f"{path}: it is no npy or npz file of numbers; pickled objects are not read") from None
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise ConfigError(f"{path}: {f'array {name!r}' if name else 'it'} is of {array.dtype}, not of numbers")
    return arrays


def finite(text: object) -> float | None:
    """A finite number, from text or JSON; None for all else: `1_000`, digits of other scripts."""
    if isinstance(text, bool) or (isinstance(text, str) and (not text.isascii() or "_" in text)):
        return None
    try:
        value = float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def number(text: object, where: str) -> float:
    """A finite number, from text or JSON."""
    value = finite(text)
    if value is None:
        raise ConfigError(f"{where}: {str(text)[:40]!r} is not a finite number")
    return value


def check_name(name: str, what: str) -> None:
    """Raises ValueError for a name that is empty or has control characters."""
    if not name.strip():
        raise ValueError(f"it has no {what}")
    if _CONTROL.search(name):
        raise ValueError(f"{what} {name[:40]!r} has a control character")


def whole(text: object, where: str) -> int:
    """A whole number that is not negative; 100000.0 is one."""
    value = number(text, where)
    if value != int(value) or value < 0:
        raise ConfigError(f"{where}: {str(text)[:40]!r} is not a whole number")
    return int(value)
