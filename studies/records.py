"""Finished and unfinished runs of a study, read from their directories."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from experiment.config import load_yaml
from experiment.results import Row, read_result, read_rows
from experiment.storage.run_dir import RunDir

Config = TypeVar("Config")


@dataclass(frozen=True)
class FinishedRun(Generic[Config]):
    """A run for a figure: its name, settings, rows of metrics, and its result if it has ended."""

    name: str
    config: Config
    rows: list[Row]
    result: Row | None

    def column(self, metric: str) -> list[float]:
        """A metric at every row; NaN where it is missing."""
        return [float("nan") if row.get(metric) is None else row[metric] for row in self.rows]


def load(config_class: type[Config], directory: RunDir) -> FinishedRun[Config]:
    """Reads a run. Raises ConfigError if it has no rows, or a file that cannot be read."""
    config = load_yaml(config_class, directory.config)
    return FinishedRun(directory.label, config, read_rows(directory), read_result(directory))
