"""Finished runs of a sweep as a CSV file, which stands for their directories on another machine.

Its column `settings` is a JSON mapping of the settings that are not the default.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiment.config import ConfigError, as_plain, load_yaml
from experiment.results import read_result
from experiment.setting import names_of
from experiment.storage.files import write_atomic
from experiment.storage.run_dir import RunDir
from experiment.sweeps.manifest import Entry
from experiment.sweeps.workload import RunKind
from experiment.tables import csv_table

KEYS = ("arm", "task", "seed")
Key = tuple[str, str, str]


class Record(NamedTuple):
    """A line of a file: its place, its cells by column, and the settings that its run shares with its arm."""

    where: str
    cells: dict[str, str]
    settings: dict[str, Any]


def read_records(path: Path) -> dict[Key, Record]:
    """The runs of a file by arm, task and seed. Raises ConfigError, in one line, for what is no such file."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if absent := [name for name in (*KEYS, "settings") if name not in (reader.fieldnames or ())]:
                raise ConfigError(f"{path} is no list of finished runs: it has no column {absent[0]!r}")
            lines = [(f"{path} line {reader.line_num}", row) for row in reader]
    except OSError as error:
        raise ConfigError(f"cannot read {str(path)!r}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} is no CSV file: {error}") from None
    found: dict[Key, Record] = {}
    for where, row in lines:
        record = _record(where, row)
        key = _key(record.cells)
        if key in found:
            raise ConfigError(f"{where}: {found[key].where} has the same run, {', '.join(key)}")
        found[key] = record
    return found


def _record(where: str, row: Mapping[Any, Any]) -> Record:
    if None in row or None in row.values():
        raise ConfigError(f"{where}: it has not as many fields as the first line has columns")
    try:
        settings = json.loads(row["settings"])
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise ConfigError(f"{where}: its settings are no JSON mapping: {row['settings'][:60]!r}")
    return Record(where, dict(row), settings)


def _key(cells: Mapping[str, str]) -> Key:
    return cells["arm"], cells["task"], cells["seed"]


def without_recorded(
    kind: RunKind, entries: Sequence[Entry], wanted: Callable[[Entry], Any], path: Path
) -> tuple[Entry, ...]:
    """The runs that a file does not have. Raises ConfigError if it has one of other settings under the same name."""
    records = read_records(path)
    defaults = as_plain(kind.config_class())
    left = []
    for entry in entries:
        record = records.get((entry.arm, entry.task, str(entry.seed)))
        if record is None:
            left.append(entry)
            continue
        there, here = defaults | record.settings, as_plain(wanted(entry))
        found = kind.difference(there, here)
        if not found and (past := there.get("fork_changed")) != here.get("fork_changed"):
            found = f"before the fork, {past} there and {here['fork_changed']} here"
        if found:
            where = f"{record.where}: run {entry.name} has other settings"
            raise ConfigError(f"{where}, {found}: give the arm another name")
    return tuple(left)


def write_records(kind: RunKind, root: Path, entries: Sequence[Entry], path: Path) -> int:
    """Write the finished runs of a folder to a file, next to those it has; returns how many it has then.

    Raises ConfigError if the file has a run of the folder with another score, or cannot be written.
    """
    there = read_records(path) if path.exists() else {}
    rows = {key: record.cells for key, record in there.items()}
    for entry in entries:
        if (cells := _cells(kind, entry, RunDir(root / entry.name))) is None:
            continue
        key = _key(cells)
        if key in rows and rows[key].get("score") != cells["score"]:
            scores = f"scored {rows[key].get('score')} there, and {cells['score']} in {root}"
            raise ConfigError(f"{there[key].where}: run {entry.name} {scores}")
        rows[key] = cells
    if not rows:
        raise ConfigError(f"--record: no run in {str(root)!r} is finished")
    columns = list(dict.fromkeys(name for cells in rows.values() for name in cells))
    text = csv_table(columns, [[cells.get(name, "") for name in columns] for cells in rows.values()])
    try:
        write_atomic(path, text)
    except OSError as error:
        raise ConfigError(f"cannot write {str(path)!r}: {error.strerror}") from None
    return len(rows)


def _cells(kind: RunKind, entry: Entry, run: RunDir) -> dict[str, str] | None:
    """The cells of a run; None while it has no result, or no score."""
    result = read_result(run)
    if result is None:
        return None
    try:
        score, steps, seconds = kind.outcome(result)
    except (ValueError, LookupError, TypeError, OverflowError):
        raise ConfigError(f"{run.result} is damaged: it has no score, steps or seconds") from None
    if score is None:
        return None
    cells = {
        "arm": entry.arm, "task": entry.task, "seed": str(entry.seed), "score": str(score), "steps": str(steps),
        "updates": str(result["updates"]), "seconds": str(round(seconds)), "parameter_hash": result["parameter_hash"],
    }  # fmt: skip
    return cells | kind.columns(result, run) | {"settings": json.dumps(_own_settings(kind, run), sort_keys=True)}


def _own_settings(kind: RunKind, run: RunDir) -> dict[str, Any]:
    """The settings of a run that are not the default, without those of its machine and identity."""
    config = load_yaml(kind.config_class, run.config)
    left_out = names_of(kind.config_class, "machine", "identity") - {"fork_changed"} | kind.axes
    default = as_plain(kind.config_class())
    return {name: value for name, value in as_plain(config).items() if name not in left_out and value != default[name]}
