"""CSV files of scores as others write them, read line by line: run ids, scores, budgets in steps or frames."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.formats.files import check_name, finite
from benchmarks.report.columns import REQUIRED, Columns, find_columns
from benchmarks.report.late_progress import LateProgress
from envs.protocol import PROTOCOLS
from envs.registry import usual_skip
from experiment.config import ConfigError

KINDS = ("training", "evaluation")
"""Which games a score is the mean of: those that the agent learned in, or those played to score it."""
_NUMBER = re.compile(r"([0-9]{1,40}(\.[0-9]{0,40})?|\.[0-9]{1,40})([eE]\+?[0-9]{1,2})?")
_PLAIN_NUMBER = re.compile(r"[+-]?([0-9]{1,40}(\.[0-9]{0,40})?|\.[0-9]{1,40})")
_MOST = 10**15
TOLERANCE = 0.1
"""How far frames may be off the agent steps times the frame skip, as a share."""


class Row(NamedTuple):
    """A line of a file. The fields that may be None are so where it does not state them."""

    agent: str
    game: str
    run: str
    score: float
    where: str
    steps: int | None
    frame_skip: int | None
    rules: dict[str, Any] | None
    games: int | None
    kind: str | None
    settings: dict[str, Any] | None


class _Terms(NamedTuple):
    """The budget and rules of a line, and how its frames were turned into steps."""

    steps: int | None
    frame_skip: int | None
    rules: dict[str, Any] | None
    said: str = ""


def read_rows(path: Path, resolve: Callable[[str], str], notes: list[tuple[str, str]]) -> Iterator[Row]:
    """The rows of a CSV file; blank lines are skipped.

    Args:
        resolve: turns any spelling of a game into the project's name; raises ValueError.
        notes: a list. Pairs of the file's name and a note for the report's readers are added to it.

    Raises ConfigError, in one line, for a file that is no table of scores.
    """
    said: set[str] = set()
    try:
        with path.open("rb") as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file:
            columns = find_columns(next((line for line in file if line.strip()), ""), path)
            notes += [(path.name, note) for note in columns.notes()]
            file.seek(0)
            reader = csv.reader(file, delimiter=columns.separator, skipinitialspace=True)
            next(row for row in reader if any(map(str.strip, row)))  # the header
            with LateProgress(path.stat().st_size, f"bytes of {path.name}") as progress:
                for number, row in enumerate(reader):
                    if number % 20_000 == 0:
                        progress.update(raw.tell())
                    if any(row):
                        yield _row(row, columns, f"{path} line {reader.line_num}", resolve, said)
    except OSError as error:
        raise ConfigError(f"cannot read {str(path)!r}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: it is no CSV table in UTF-8") from None
    except csv.Error as error:
        raise ConfigError(f"{path}: it is no CSV table: {error}") from None
    notes += [(path.name, each) for each in sorted(said)]


def _row(row: Sequence[str], columns: Columns, where: str, resolve: Callable[[str], str], said: set[str]) -> Row:
    if len(row) > columns.width and any(row[columns.width :]):
        raise ConfigError(f"{where}: it has more fields than the first line has columns; quote those with commas")
    cells = {role: " ".join(row[place].split()) for role, place in columns.positions.items() if place < len(row)}
    for role in REQUIRED:
        if not cells.get(role):
            raise ConfigError(f"{where}: it has no {role}")
    try:
        for role in ("agent", "game", "run"):
            check_name(cells[role], role)
        game = resolve(cells["game"])
        stated = (cells.get(role, "") for role in ("steps", "frames", "frame_skip", "protocol"))
        terms = _terms(*stated, usual_skip(game))
        games, score = _whole("games", cells.get("games", "")), _score(cells["score"])
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None
    kind = cells.get("kind", "").lower()
    if terms.said:
        said.add(terms.said)
    if kind and kind not in KINDS:
        said.add(f"kind {kind!r} is not read: it is neither {' nor '.join(KINDS)}")
    if cells.get("deviation"):
        said.add("lines with a deviation are means over several runs; here each counts as one run")
    settings = _settings(cells.get("settings", ""))
    if settings is None and cells.get("settings"):
        said.add("settings are not read: they are no JSON mapping, as a sweep's --record writes")
    return Row(
        cells["agent"], game, run_id(cells["run"]), score, where, *terms[:3], games,
        kind if kind in KINDS else None, settings,
    )  # fmt: skip


def _settings(cell: str) -> dict[str, Any] | None:
    try:
        found = json.loads(cell) if cell else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


@lru_cache(1 << 16)
def run_id(cell: str) -> str:
    """A run's name; `1`, `01` and `1.0` are the same number, so the same run."""
    if not _PLAIN_NUMBER.fullmatch(cell):
        return cell
    number = Decimal(cell)
    return str(int(number)) if number == int(number) else format(number, "f").rstrip("0")


def _score(cell: str) -> float:
    value = finite(cell)
    if value is None:
        hint = "; write a point before decimals, and nothing between thousands" if "," in cell else ""
        raise ValueError(f"score {cell!r} is not a number{hint}")
    return value


def _whole(role: str, cell: str) -> int | None:
    """A count such as `100000`, `100000.0` or `1e5`; None for an empty field."""
    if not cell:
        return None
    number = Decimal(cell) if _NUMBER.fullmatch(cell) else None
    if number is None or number != int(number) or number > _MOST:
        raise ValueError(f"{role} {cell!r} is not a whole number; write digits alone, as 100000")
    return int(number)


# --- budgets


@lru_cache(1 << 16)
def _terms(steps: str, frames: str, skip: str, protocol: str, usual: int) -> _Terms:
    """What a line states of its budget and rules. ValueError for numbers that contradict each other."""
    counted, seen, stated = _whole("steps", steps), _whole("frames", frames), _whole("frame_skip", skip)
    rules = _rules(protocol)
    known = rules.get("frame_skip") if rules else None
    if stated == 0:
        raise ValueError("frame_skip 0 is not possible: a step has at least one frame")
    if stated and known and stated != known:
        raise ValueError(f"frame_skip {stated} contradicts protocol {protocol!r}, which has {known}")
    every = stated or known
    said = ""
    if counted is not None and seen is not None:
        every = _ratio(counted, seen, every)
        said = "" if stated or known or not every else f"a frame skip of {every} follows from its steps and frames"
    elif seen is not None:
        source = "stated" if stated else f"that of protocol {protocol}" if known else "assumed: the file states none"
        said = f"agent steps are its frames over a frame skip of {every or usual} ({source})"
        counted = round(seen / (every or usual))
    return _Terms(counted, every, rules, said)


def _ratio(steps: int, frames: int, skip: int | None) -> int | None:
    """Frames a step. No-ops at a game's start, and an end inside a skip, leave it a little off a whole number."""
    if steps == frames == 0:
        return skip
    found = skip or (round(frames / steps) if steps else 0)
    if not found or abs(frames - found * steps) > found * steps * TOLERANCE:
        what = f"frame_skip {skip}" if skip else "every frame_skip"
        raise ValueError(f"steps {steps:,} and frames {frames:,} contradict {what}")
    return found


@lru_cache
def _rules(protocol: str) -> dict[str, Any] | None:
    """What the name of a protocol stands for; None for no name."""
    by_key = {_key(name): known for name, known in PROTOCOLS.items()}
    known = by_key.get(_key(protocol))
    return dataclasses.asdict(known) if known else {"name": protocol} if protocol else None


def _key(protocol: str) -> str:
    return "".join(filter(str.isalnum, protocol.lower()))
