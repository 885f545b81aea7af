"""Runs that may have curves, ended or not: of run directories, folders of them, sweeps, and tables of curves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agents.config import DQNConfig
from benchmarks.report.agreement import comparable, name_arms
from benchmarks.report.curve_tables import read_traces
from benchmarks.report.folders import find_runs, mean_score
from benchmarks.report.learning_curves import Trace, read_trace
from experiment.config import ConfigError, as_plain, load_yaml
from experiment.results import read_result
from experiment.storage.run_dir import RunDir


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
    for path in map(Path, paths):
        if path.is_file():
            found |= {run.name: run for run in _of_table(path)}
            continue
        for directory, arm in _inside(path):
            if (place := directory.path.resolve()) not in found:
                found[place] = _read(directory, arm)
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


def trace_of(run: Run) -> Trace | None:
    """The curve of a run under the name of its arm; None where no whole game was played."""
    if run.directory is None:
        return None if run.trace is None else replace(run.trace, arm=run.arm)
    return read_trace(run.arm, run.game, run.directory)


def _inside(path: Path) -> list[tuple[RunDir, str]]:
    """The run directories of a path that have begun, and the arm that a sweep gives each."""
    if not path.is_dir():
        RunDir.open(path)  # says what is missing
    found = find_runs(path)
    if not found:
        raise ConfigError(f"no run in folder {str(path)!r}: neither it nor a folder in it has config.yaml")
    return [(run, entry.arm if entry else "") for run, entry in found if run.config.is_file()]


def _of_table(path: Path) -> Iterator[Run]:
    if path.suffix.lower() not in (".csv", ".tsv"):
        raise ConfigError(
            f"{str(path)!r} is a file: curves are of run directories, folders of them, sweeps, and CSV tables of curves"
        )
    for run, trace in read_traces(path):
        name = f"{path.stem} {trace.arm} {trace.game} {run}"
        yield Run(name, trace.arm, trace.game, run, int(trace.ended[-1]), {}, trace=trace)


def _read(directory: RunDir, arm: str) -> Run:
    config = load_yaml(DQNConfig, directory.config)
    shared = comparable(as_plain(config)) | {"rules": config.rules.name, "budget": config.budget}
    score, games = mean_score(read_result(directory) or {}, directory.result) or (None, None)
    return Run(str(directory.path), arm, config.env, config.seed, config.budget, shared, directory, None, score, games)
