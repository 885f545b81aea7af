"""Reads the files of a run, of agents and studies alike: the rows of metrics.jsonl, and result.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from experiment.storage.run_dir import RunDir
from experiment.values import ConfigError

Row = dict[str, Any]
RESULT: Mapping[str, type] = {
    "settings": dict,
    "seed": int,
    "updates": int,
    "seconds": dict,
    "parameters": int,
    "parameter_hash": str,
    "environment": dict,
}
"""What every result has: the resolved settings; their seed; updates made; seconds by what they were spent on, training
among them; the number of parameters of the network, and their hash after training; the software and the machine.

The result of an agent says also which `agent` played which `game`, that of a study which `study` it is. Results of
earlier versions may lack keys; of these `read_result` fills in the seed and the seconds."""

_WORDS = {dict: "a mapping", int: "a whole number", str: "text"}


def read_result(run: RunDir, needed: Mapping[str, type] | None = None, kind: str = "a run") -> Row | None:
    """The result of a run; None while it has not ended.

    `needed`: keys that the caller needs; `kind`: the expected kind of run, for messages.
    Raises ConfigError, in one line, if the file cannot be read, or has a key that is missing or of another type.
    """
    if not run.finished:
        return None
    try:
        result = json.loads(run.result.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {str(run.result)!r}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{run.result}: not valid JSON: {error}") from None
    if not isinstance(result, dict):
        raise ConfigError(f"{run.result} is not the result of {kind}: it is no mapping")
    for key, type_ in (needed or {}).items():
        if not isinstance(result.get(key), type_):
            raise ConfigError(f"{run.result} is not the result of {kind}: it has no {key!r}")
    for key, type_ in RESULT.items():
        if not isinstance(value := result.get(key), type_ | None):
            raise ConfigError(f"{run.result}: its {key} is {value!r}, not {_WORDS[type_]}")
    if "training_seconds" in result:  # an agent's of an earlier version
        result.setdefault("seconds", {"training": result["training_seconds"]})
    return {"seed": (result.get("settings") or {}).get("seed")} | result


def read_rows(run: RunDir) -> list[Row]:
    """The rows of metrics of a run. Raises ConfigError if it has none, or one that cannot be read."""
    text = run.metrics.read_bytes().decode() if run.metrics.is_file() else ""
    lines = [(i, line) for i, line in enumerate(text.splitlines(), 1) if line.endswith("}")]
    rows = _at_once([line for _, line in lines])
    if rows is None:
        rows = [_row(line, f"{run.metrics} line {i}") for i, line in lines]
    if not rows:
        raise ConfigError(f"run {str(run.path)!r} has measured nothing yet")
    return rows


def _at_once(lines: list[str]) -> list[Row] | None:
    """The rows of lines of JSON, parsed together, which is much faster than one by one. None if one cannot be read."""
    try:
        rows = json.loads(f"[{','.join(lines)}]")
    except ValueError:
        return None
    return rows if len(rows) == len(lines) else None


def _row(line: str, where: str) -> Row:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{where}: not valid JSON: {error}") from None
