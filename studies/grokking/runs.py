"""Finished and unfinished runs, read from their directories."""

from __future__ import annotations

import json
from dataclasses import dataclass

from experiment.config import ConfigError, load_yaml
from experiment.run_dir import RunDir
from studies.grokking.config import GrokkingConfig
from studies.grokking.outcome import Row


@dataclass(frozen=True)
class FinishedRun:
    """A run as a figure needs it: its name, settings, rows of metrics, and its result if it has ended."""

    name: str
    config: GrokkingConfig
    rows: list[Row]
    result: Row | None

    def column(self, metric: str) -> list[float]:
        """A metric at every row; NaN where it is missing."""
        return [float("nan") if row.get(metric) is None else row[metric] for row in self.rows]


def read_rows(directory: RunDir) -> list[Row]:
    """The rows of metrics of a run. Raises ConfigError if it has none."""
    text = directory.metrics.read_text(encoding="utf-8") if directory.metrics.is_file() else ""
    rows = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
    if not rows:
        raise ConfigError(f"run {str(directory.path)!r} has measured nothing yet")
    return rows


def load(directory: RunDir) -> FinishedRun:
    """Reads a run. Raises ConfigError if it has no rows."""
    result = json.loads(directory.result.read_text(encoding="utf-8")) if directory.result.is_file() else None
    return FinishedRun(directory.path.name, load_yaml(GrokkingConfig, directory.config), read_rows(directory), result)
