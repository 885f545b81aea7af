"""Where runs lie, and what each scored: for the report and for learning curves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeGuard

from agents.checks import check_kind
from experiment.config import ConfigError
from experiment.storage.run_dir import RunDir
from experiment.sweeps import manifest
from experiment.sweeps.manifest import Entry, Manifest


def items_of(folder: Path) -> list[Path]:
    """What is in a folder, by name, but for what is hidden: that is being made."""
    return [item for item in sorted(folder.iterdir()) if not item.name.startswith(".")]


def find_runs(folder: Path) -> list[tuple[RunDir, Entry | None]]:
    """The runs of a folder: itself, those of a sweep, begun or not, or those of all folders in it.

    Each comes with its entry in the manifest of its sweep, if it has one. Raises ConfigError for a run of a study.
    """
    inside = [folder] if _holds_runs(folder) else [item for item in items_of(folder) if _holds_runs(item)]
    entries = cache(_entries)
    found: list[tuple[RunDir, Entry | None]] = []
    for item in inside:
        if (item / manifest.NAME).is_file():
            found += [(RunDir(item / name), entry) for name, entry in entries(item).items()]
        else:
            real = item.resolve()
            found.append((RunDir(item), entries(real.parent).get(real.name)))
    for run, _ in found:
        check_kind(run)
    return found


def _holds_runs(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (manifest.NAME, "config.yaml", "result.json"))


def _entries(folder: Path) -> dict[str, Entry]:
    """The runs of a sweep by name; none without a manifest."""
    known = (folder / manifest.NAME).is_file()
    return {entry.name: entry for entry in Manifest.load(folder).runs} if known else {}


def mean_score(result: Mapping[str, Any], where: object) -> tuple[float, int | None] | None:
    """The mean return of a result's evaluation and its number of games, if that is stated; None without an evaluation.

    Raises ConfigError for what is no score.
    """
    score = result.get("score")
    if score is None:
        return None
    mean, games = (score.get("mean"), score.get("episodes")) if isinstance(score, dict) else (None, None)
    if not _is_finite(mean):
        raise ConfigError(f"{where}: its mean score is {mean!r}, not a number")
    if not isinstance(games, int | None):
        raise ConfigError(f"{where}: its score is of {games!r} episodes, not a whole number")
    return float(mean), games


def _is_finite(value: Any) -> TypeGuard[float]:
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False
