"""The runs of a study of games in sequence, from its folder or from a list of its finished runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from agents.config import DQNConfig
from agents.tasks import Tasks
from benchmarks.report.agreement import check_arms, name_arms
from benchmarks.report.folders import find_runs
from benchmarks.report.scores import Missing, Score, Scores, run_order, why_missing
from benchmarks.report.visits import Visited, visits_in, visits_of
from envs.protocol import PROTOCOLS
from envs.registry import is_sequence
from experiment.config import ConfigError, as_plain, from_mapping, load_yaml
from experiment.results import read_result
from experiment.storage.run_dir import RunDir
from experiment.sweeps.manifest import Entry
from experiment.sweeps.records import Record, read_records

RESULT = {"agent": str, "seed": int, "agent_steps": int, "protocol": dict, "settings": dict, "visits": list}


@dataclass(frozen=True)
class SequenceRun:
    """A finished run: its visits in order, and the agent steps of alarms if its schedule gives some.

    score: what tables about runs read; its value is the mean of the visits' areas.
    """

    score: Score
    config: DQNConfig
    visits: tuple[Visited, ...]
    alarms: tuple[int, ...] | None = None

    @property
    def arm(self) -> str:
        return self.score.arm

    @property
    def seed(self) -> str:
        return self.score.run

    def values(self, measure: str) -> np.ndarray:
        """A measure of all visits."""
        return np.array([getattr(visit, measure) for visit in self.visits], float)


@dataclass(frozen=True)
class Study:
    """Finished runs of one sequence, and those that are missing.

    plain, fresh: the names of the arm that others are compared with, and of that which is reset at each change.
    fresh_nap: the same for a network with NaP, which learns at a pace of its own. None of them needs to be there.
    """

    tasks: Tasks
    runs: tuple[SequenceRun, ...]
    missing: tuple[Missing, ...]
    plain: str
    fresh: str
    fresh_nap: str = ""

    @cached_property
    def scores(self) -> Scores:
        return Scores(tuple(run.score for run in self.runs), self.missing)

    @property
    def arms(self) -> list[str]:
        """Those with finished runs."""
        return list(dict.fromkeys(run.arm for run in self.runs))

    @cached_property
    def labels(self) -> list[str]:
        """A short name for each visit."""
        return [f"{number + 1}. {short_game(self.tasks[number].game)}" for number in range(len(self.tasks))]

    def of(self, arm: str) -> list[SequenceRun]:
        return [run for run in self.runs if run.arm == arm]

    def fresh_of(self, arm: str) -> str:
        """The arm that is a fresh agent with the network of an arm, as far as there is one."""
        return self.fresh_nap if self.fresh_nap in self.arms and self.of(arm)[0].config.uses_nap else self.fresh

    @property
    def fresh_names(self) -> str:
        """The arms that are fresh agents, as words."""
        return self.fresh + (f"; with NaP {self.fresh_nap}" if self.fresh_nap in self.arms else "")

    def by_seed(self, arm: str, measure: str) -> dict[str, np.ndarray]:
        """A measure of all visits of each run of an arm."""
        return {run.seed: run.values(measure) for run in self.of(arm)}

    @cached_property
    def scales(self) -> np.ndarray:
        """For each visit the mean area of a fresh agent on its game, over runs and visits; NaN if it is not above 0."""
        areas: dict[str, list[float]] = {}
        for run in self.of(self.fresh):
            for number, area in enumerate(run.values("area")):
                areas.setdefault(self.tasks[number].game, []).append(area)
        means = {game: float(np.nanmean(found)) for game, found in areas.items() if np.isfinite(found).any()}
        found = [means.get(self.tasks[number].game, math.nan) for number in range(len(self.tasks))]
        return np.array([scale if scale > 0 else math.nan for scale in found])


def short_game(game: str) -> str:
    """A game without its family."""
    return game.rpartition("/")[2]


def read_study(path: Path, plain: str, fresh: str, fresh_nap: str = "") -> Study:
    """The study in a folder, or in a list of finished runs. Raises ConfigError, in one line, for what is none."""
    found = list(_of_file(path) if path.is_file() else _of_folder(path))
    names = iter(name_arms([_settings(item) for item in found if not _arm(item)]))
    found = [item if _arm(item) else _named(item, next(names)) for item in found]
    runs = sorted((item for item in found if isinstance(item, SequenceRun)), key=lambda run: run_order(run.seed))
    places = {arm: place for place, arm in enumerate(dict.fromkeys(map(_arm, found)))}
    runs.sort(key=lambda run: places[run.arm])
    if not runs:
        raise ConfigError(f"no run of games in sequence in {str(path)!r} is finished")
    check_arms([run.score for run in runs])
    tasks = runs[0].config.tasks
    for run in runs:
        if run.config.tasks != tasks:
            both = f"{runs[0].score.source} and {run.score.source}"
            raise ConfigError(f"{both} differ in their games, --task-steps or --visits: report them apart")
    twice = {(run.arm, run.seed): run for run in runs}
    if len(twice) < len(runs):
        raise ConfigError(f"{str(path)!r} has two runs of one arm and seed: leave one out")
    missing = tuple(item for item in found if isinstance(item, Missing))
    return Study(tasks, tuple(runs), missing, plain, fresh, fresh_nap)


def _arm(item: SequenceRun | Missing) -> str:
    return item.arm


def _settings(item: SequenceRun | Missing) -> Mapping[str, Any]:
    return (item.settings if isinstance(item, Missing) else item.score.settings) or {}


def _named(item: SequenceRun | Missing, arm: str) -> SequenceRun | Missing:
    return replace(item, arm=arm) if isinstance(item, Missing) else replace(item, score=replace(item.score, arm=arm))


# --- run directories


def _of_folder(folder: Path) -> Iterator[SequenceRun | Missing]:
    if not folder.is_dir():
        raise ConfigError(f"{str(folder)!r} is neither the folder of a study nor a list of its runs")
    for run, entry in find_runs(folder):
        if entry is None or run.config.is_file():
            config = load_yaml(DQNConfig, run.config)
            _check_sequence(config.env, str(run.path), f"python -m benchmarks.report {folder}")
        yield _of_directory(run, entry)


def _check_sequence(games: str, where: str, instead: str) -> None:
    if not is_sequence(games):
        raise ConfigError(f"{where} has one game, {games}, and no sequence of games; its report: {instead}")


def _of_directory(run: RunDir, entry: Entry | None) -> SequenceRun | Missing:
    if not run.finished:
        if entry is not None:
            return Missing(entry.arm, entry.task, str(entry.seed), why_missing(entry, run))
        config = load_yaml(DQNConfig, run.config)
        return Missing("", config.env, str(config.seed), "not finished", as_plain(config))
    result = read_result(run, RESULT, "a run of games in sequence")
    assert result is not None, "it is finished"
    config = load_yaml(DQNConfig, run.config)
    visits, alarms = visits_of(result, run), result.get("alarms")
    if len(visits) != len(config.tasks):
        raise ConfigError(f"{run.result}: it has {len(visits)} visits, and the settings have {len(config.tasks)}")
    score = Score(
        "" if entry is None else entry.arm, config.env, str(config.seed), _mean(visits), str(run.path),
        result["protocol"], result["agent_steps"], as_plain(config), result.get("environment"),
        result["protocol"].get("evaluation_episodes"),
    )  # fmt: skip
    return SequenceRun(score, config, tuple(visits), None if alarms is None else tuple(alarms))


def _mean(visits: list[Visited]) -> float:
    areas = [visit.area for visit in visits if not math.isnan(visit.area)]
    return float(np.mean(areas)) if areas else math.nan


# --- lists of finished runs


def _of_file(path: Path) -> Iterator[SequenceRun]:
    for record in read_records(path).values():
        _check_sequence(record.cells["task"], record.where, f"python -m benchmarks.report {path}")
        yield _of_record(record)


def _of_record(record: Record) -> SequenceRun:
    cells, where = record.cells, record.where
    config = replace(from_mapping(DQNConfig, record.settings, where), env=cells["task"])
    visits, alarms = visits_in(cells, config.tasks, where)
    rules = PROTOCOLS.get(cells.get("protocol", ""))
    games = cells.get("games", "")
    score = Score(
        cells["arm"], config.env, cells["seed"], _mean(visits), where, None if rules is None else asdict(rules),
        config.tasks.steps, as_plain(config), games=int(games) if games.isdecimal() else None,
    )  # fmt: skip
    return SequenceRun(score, config, tuple(visits), None if alarms is None else tuple(alarms))
