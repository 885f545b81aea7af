"""Finished and unfinished runs of a study, read from their directories."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from experiment.config import ConfigError, load_yaml
from experiment.storage.run_dir import RunDir

Row = dict[str, Any]
Config = TypeVar("Config")


@dataclass(frozen=True)
class FinishedRun(Generic[Config]):
    """A run as a figure needs it: its name, settings, rows of metrics, and its result if it has ended."""

    name: str
    config: Config
    rows: list[Row]
    result: Row | None

    def column(self, metric: str) -> list[float]:
        """A metric at every row; NaN where it is missing."""
        return [float("nan") if row.get(metric) is None else row[metric] for row in self.rows]


def read_rows(directory: RunDir) -> list[Row]:
    """The rows of metrics of a run. Raises ConfigError if it has none, or one that cannot be read."""
    text = directory.metrics.read_bytes().decode() if directory.metrics.is_file() else ""
    lines = [(i, line) for i, line in enumerate(text.splitlines(), 1) if line.endswith("}")]
    rows = _at_once([line for _, line in lines])
    if rows is None:
        rows = [_json(line, f"{directory.metrics} line {i}") for i, line in lines]
    if not rows:
        raise ConfigError(f"run {str(directory.path)!r} has measured nothing yet")
    return rows


def _at_once(lines: list[str]) -> list[Row] | None:
    """The rows of lines of JSON, in a fraction of the time that each by itself takes; None if one cannot be read."""
    try:
        rows = json.loads(f"[{','.join(lines)}]")
    except ValueError:
        return None
    return rows if len(rows) == len(lines) else None


def read_result(directory: RunDir) -> Row | None:
    """What a run came to; None while it has not ended. Raises ConfigError if it cannot be read."""
    path = directory.result
    return _json(path.read_text(encoding="utf-8"), str(path)) if directory.finished else None


def _json(text: str, where: str) -> Row:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{where}: not valid JSON: {error}") from None


def load(config_class: type[Config], directory: RunDir) -> FinishedRun[Config]:
    """Reads a run. Raises ConfigError if it has no rows, or a file that cannot be read."""
    config = load_yaml(config_class, directory.config)
    return FinishedRun(directory.label, config, read_rows(directory), read_result(directory))
