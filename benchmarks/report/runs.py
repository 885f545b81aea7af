"""Runs that may have curves, ended or not: of run directories, folders of them, sweeps, and tables of curves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from agents.config import DQNConfig
from benchmarks.report.agreement import comparable, name_arms
from benchmarks.report.curve_tables import read_traces
from benchmarks.report.learning_curves import Trace
from experiment.config import ConfigError, as_plain, load_yaml
from experiment.results import read_result
from experiment.storage.run_dir import RunDir
from experiment.sweeps import manifest
from experiment.sweeps.manifest import Manifest


@dataclass(frozen=True)
class Run:
    """A run by arm, game and seed.

    Attributes:
        name: what tells it from all others: its path, or its place in a table.
        directory, trace: where its curve is; a run of a table has a trace.
        settings: those that the runs of an arm share, the budget and the rules among them.
        score, games: the mean of the final evaluation and its number of games; None where there is none.
    """

    name: str
    arm: str
    game: str
    seed: int | str
    budget: int
    settings: Mapping[str, Any]
    directory: RunDir | None = None
    trace: Trace | None = None
    score: float | None = None
    games: int | None = None


def read_runs(paths: Sequence[str]) -> list[Run]:
    """The runs of all paths, each once, with the arm that a sweep gives them, or one named after their settings.

    Raises ConfigError, in one line, for what is no run or cannot be read.
    """
    found: dict[Path | str, Run] = {}
    arms_of = cache(_arms)
    for path in map(Path, paths):
        if path.is_file():
            found |= {run.name: run for run in _of_table(path)}
            continue
        for directory in _inside(path):
            place = directory.path.resolve()
            if place not in found:
                found[place] = _read(directory, arms_of(place.parent).get(place.name, ""))
    runs = list(found.values())
    names = iter(name_arms([run.settings for run in runs if not run.arm]))
    return [run if run.arm else replace(run, arm=next(names)) for run in runs]


def check_arms(runs: Sequence[Run]) -> None:
    """Raises ConfigError if runs of an arm differ in more than game and seed, or if two play one game with one seed."""
    first: dict[tuple[str, str], Run] = {}
    seeds: dict[tuple[str, str, int | str], Run] = {}
    for run in runs:
        other = first.setdefault((run.arm, run.game), run)
        for key in run.settings:
            if run.settings[key] != other.settings.get(key):
                raise ConfigError(
                    f"arm {run.arm!r} mixes runs: {other.name} has {key} {other.settings.get(key)!r}, "
                    f"{run.name} {run.settings[key]!r}; leave one out, or draw single runs with --each"
                )
        twin = seeds.setdefault((run.arm, run.game, run.seed), run)
        if twin is not run:
            raise ConfigError(
                f"{twin.name} and {run.name} are one arm, game and seed, and no two samples: "
                "leave one out, or draw single runs with --each"
            )


def _inside(path: Path) -> Iterator[RunDir]:
    """The run directories of a path: itself, those of a sweep that have begun, or those of all in a folder."""
    if (path / manifest.NAME).is_file():
        listed = [RunDir(path / entry.name) for entry in Manifest.load(path).runs]
        yield from (run for run in listed if run.config.is_file())
        return
    if (path / "config.yaml").is_file() or not path.is_dir():
        yield RunDir.open(path)
        return
    shown = [item for item in sorted(path.iterdir()) if not item.name.startswith(".")]  # hidden: that is being made
    inside = [item for item in shown if any((item / name).is_file() for name in (manifest.NAME, "config.yaml"))]
    if not inside:
        raise ConfigError(f"no run in folder {str(path)!r}: neither it nor a folder in it has config.yaml")
    for item in inside:
        yield from _inside(item)


def _of_table(path: Path) -> Iterator[Run]:
    if path.suffix.lower() not in (".csv", ".tsv"):
        raise ConfigError(
            f"{str(path)!r} is a file: curves are of run directories, folders of them, sweeps, and CSV tables of curves"
        )
    for run, trace in read_traces(path):
        name = f"{path.stem} {trace.arm} {trace.game} {run}"
        yield Run(name, trace.arm, trace.game, run, int(trace.ended[-1]), {}, trace=trace)


def _arms(folder: Path) -> dict[str, str]:
    """The arms of a sweep by run; none without a manifest."""
    known = (folder / manifest.NAME).is_file()
    return {entry.name: entry.arm for entry in Manifest.load(folder).runs} if known else {}


def _read(directory: RunDir, arm: str) -> Run:
    config = load_yaml(DQNConfig, directory.config)
    score, games = _score(directory)
    shared = _shared(config)
    return Run(str(directory.path), arm, config.env, config.seed, config.budget, shared, directory, None, score, games)


def _score(directory: RunDir) -> tuple[float | None, int | None]:
    result = read_result(directory)
    score = result.get("score") if result else None
    if score is None:
        return None, None
    mean, games = (score.get("mean"), score.get("episodes")) if isinstance(score, dict) else (score, None)
    if not isinstance(mean, int | float) or not math.isfinite(mean):
        raise ConfigError(f"{directory.result}: its mean score is {mean!r}, not a number")
    return mean, games


def _shared(config: DQNConfig) -> dict[str, Any]:
    return comparable(as_plain(config)) | {"rules": config.rules.name, "budget": config.budget}
