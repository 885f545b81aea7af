"""Scores of runs, read from run directories, folders of them, sweeps and CSV files into one list."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from agents.config import DQNConfig
from benchmarks.report.agreement import check_arms, list_of, name_arms, steps_of
from benchmarks.report.csv_files import read_rows
from benchmarks.report.folders import find_runs, items_of, mean_score
from benchmarks.report.played import Played, read_played
from envs.registry import is_sequence, recorded_rules, resolve_game
from experiment.config import ConfigError, as_plain, load_yaml, suggest
from experiment.results import read_result
from experiment.storage.run_dir import RunDir
from experiment.sweeps import manifest
from experiment.sweeps.manifest import Entry

UNSCORED = "finished without an evaluation"
SEQUENCES = "their report: python -m benchmarks.continual --figure FOLDER, or FILE.csv"
RESULT = {"agent": str, "game": str, "seed": int, "agent_steps": int, "protocol": dict, "settings": dict}

Notes = list[tuple[str, str]]
"""Names of files, each with a fact that a reader of the report has to know."""


@dataclass(frozen=True, slots=True)
class Score:
    """The final score of one run, a mean raw return, and what it stands on.

    Attributes:
        run: the seed, or the name that a CSV file gives it.
        source: the run directory or the line it was read from.
        protocol, settings, steps: None where a CSV file does not tell.
        games: games that the score is the mean of.
        played: how many of them were cut, and how many were different; None where that is not recorded.
        frame_skip: frames a step, where a CSV file states it.
        kind: of a CSV file: `training` or `evaluation`, where it states which games the score is of.
    """

    arm: str
    game: str
    run: str
    score: float
    source: str
    protocol: Mapping[str, Any] | None = None
    steps: int | None = None
    settings: Mapping[str, Any] | None = None
    versions: Mapping[str, Any] | None = None
    games: int | None = None
    directory: RunDir | None = None
    played: Played | None = None
    frame_skip: int | None = None
    kind: str | None = None

    @property
    def skip(self) -> int | None:
        """Frames a step; None if neither the protocol nor a CSV file states it."""
        return (self.protocol or {}).get("frame_skip", self.frame_skip)

    @property
    def rules(self) -> str:
        """The name of the protocol; empty if it is not stated."""
        return "" if self.protocol is None else str(self.protocol.get("name", "unnamed"))


@dataclass(frozen=True)
class Missing:
    """A run that has no score, and why."""

    arm: str
    game: str
    run: str
    why: str
    """Not begun, not finished, failed: and the reason ..."""
    settings: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Scores:
    """Every run of a report, those that are missing, and what a reader has to know about the files read."""

    runs: tuple[Score, ...]
    missing: tuple[Missing, ...]
    notes: tuple[str, ...] = ()

    @property
    def arms(self) -> list[str]:
        """Names in the order in which they came."""
        return list(dict.fromkeys([run.arm for run in self.runs] + [run.arm for run in self.missing]))


def read_scores(paths: Sequence[str]) -> Scores:
    """The scores of run directories, sweeps with a manifest, CSV files of agent,game,run,score, and folders of any.

    A run has the arm that the manifest next to it gives; others are named after their agent, methods and the settings
    in which they differ. A run that is given twice counts once.
    Raises ConfigError, in one line, for what cannot be read, runs of one arm, game and seed with other scores, an arm
    whose runs have other rules, budgets or settings, and arms that were scored under other rules.
    """
    found: dict[tuple[str | int, int], Score | Missing] = {}
    notes: Notes = []
    for path in paths:
        for number, item in enumerate(_read(Path(path), notes)):
            directory = item.directory.path.stat() if isinstance(item, Score) and item.directory else None
            found.setdefault((directory.st_dev, directory.st_ino) if directory else (path, number), item)
    named = _named(list(found.values()))
    runs = _unique([item for item in named if isinstance(item, Score)], notes)
    if not runs:
        unscored = sum(isinstance(item, Missing) and item.why == UNSCORED for item in named)
        more = f": {unscored} {UNSCORED}" if unscored else ""
        raise ConfigError(f"no run with a score in {', '.join(map(repr, paths))}{more}")
    check_arms(runs)
    present = {(run.arm, run.game, run.run) for run in runs}
    missing = {(item.arm, item.game, item.run): item for item in named if isinstance(item, Missing)}
    return Scores(tuple(runs), tuple(item for key, item in missing.items() if key not in present), _by_fact(notes))


def _by_fact(notes: Notes) -> tuple[str, ...]:
    """One sentence for each fact, with the files that it holds for."""
    files: dict[str, list[str]] = {}
    for name, fact in dict.fromkeys(notes):
        files.setdefault(fact, []).append(name)
    return tuple(f"{list_of(names, 3)}: {fact}." for fact, names in files.items())


def _read(path: Path, notes: Notes) -> Iterator[Score | Missing]:
    if path.is_file():
        return _read_csv(path, notes)
    if not path.is_dir():
        siblings = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
        raise ConfigError(f"no runs {str(path)!r}: there is no such file or folder{suggest(path.name, siblings)}")
    tables = [item for item in items_of(path) if item.suffix.lower() in (".csv", ".tsv") and item.is_file()]
    if runs := find_runs(path):
        notes += [(item.name, "not read, since its folder has runs; name it to add it") for item in tables]
        return (_read_run(run) if entry is None else _read_entry(entry, run) for run, entry in runs)
    if not tables:
        raise ConfigError(
            f"no run in folder {str(path)!r}: neither it nor a folder in it has config.yaml, nor a CSV file"
        )
    return chain.from_iterable(_read_csv(item, notes) for item in tables)


def _named(items: list[Score | Missing]) -> list[Score | Missing]:
    """Gives an arm to runs that came without one."""
    nameless = [item for item in items if not item.arm]
    arms = iter(name_arms([item.settings or {} for item in nameless]))
    return [item if item.arm else replace(item, arm=next(arms)) for item in items]


def _unique(runs: Sequence[Score], notes: Notes) -> list[Score]:
    """One run for each arm, game and seed."""
    kept: dict[tuple[str, str, str], Score] = {}
    for run in runs:
        other = kept.setdefault((run.arm, run.game, run.run), run)
        if other is run:
            continue
        what = f"arm {run.arm!r}, game {run.game}, run {run.run}"
        if other.steps != run.steps and other.directory is None:
            raise ConfigError(
                f"{other.source} and {run.source} have {what} at {steps_of(other)} and {steps_of(run)} agent steps; "
                "a report compares final scores: keep one line for each run (benchmarks.convert curves does)"
            )
        if other.score != run.score:
            raise ConfigError(
                f"two runs of {what} disagree: {other.source} scored {other.score:g}, {run.source} {run.score:g}; "
                "leave one out"
            )
    if len(kept) < len(runs):
        count = len(runs) - len(kept)
        notes.append(("Runs", f"{count:,} given more than once, with the same score; each counts once"))
    places = {arm: place for place, arm in enumerate(dict.fromkeys(run.arm for run in runs))}
    return sorted(kept.values(), key=lambda run: (places[run.arm], run.game, run_order(run.run)))


def run_order(name: str) -> tuple[bool, int, str]:
    """A key that puts runs in the order of their numbers, which have no leading zeros, and named ones after them."""
    return not name.isdecimal(), len(name) if name.isdecimal() else 0, name


# --- run directories


def _read_entry(entry: Entry, run: RunDir) -> Score | Missing:
    """A run of a sweep."""
    where, game, seed = str(run.path), _game(entry.task, str(run.path)), str(entry.seed)
    if not run.finished:
        return Missing(entry.arm, game, seed, why_missing(entry, run))
    item = _read_result(run)
    for what, listed, ran in (("game", game, item.game), ("seed", seed, item.run)):
        if listed != ran:
            raise ConfigError(f"run {where!r} has {what} {ran}, and {manifest.NAME} lists it with {listed}")
    return replace(item, arm=entry.arm)


def why_missing(entry: Entry, run: RunDir) -> str:
    """Why a run of a sweep has no result."""
    if reason := entry.job(run.path.parent).failure():
        return f"failed: {reason}"
    return "not finished" if run.path.is_dir() else "not begun"


def _read_run(run: RunDir) -> Score | Missing:
    """A run of no sweep, its arm not yet named."""
    if not run.finished:
        config = load_yaml(DQNConfig, run.config)
        return Missing("", _game(config.env, str(run.path)), str(config.seed), "not finished", as_plain(config))
    return _read_result(run)


def _read_result(run: RunDir) -> Score | Missing:
    result = read_result(run, RESULT, "an agent's run")
    assert result is not None, "only finished runs have scores"
    game, seed, settings = _game(result["game"], str(run.result)), str(result["seed"]), _defaults() | result["settings"]
    protocol = recorded_rules(game, result["protocol"])
    settings |= {"agent": result["agent"], "protocol": protocol.get("name", settings["protocol"])}
    if (scored := mean_score(result, run.result)) is None:
        return Missing("", game, seed, UNSCORED, settings)
    mean, games = scored
    return Score(
        "", game, seed, mean, str(run.path), protocol, result["agent_steps"], settings,
        result.get("environment"), games, run, read_played(result["score"], str(run.result)),
    )  # fmt: skip


@cache
def _defaults() -> dict[str, Any]:
    """What settings had that an older version did not write."""
    return as_plain(DQNConfig())


@cache
def _resolved(game: str) -> str:
    """The game that a spelling means; ValueError for what is none, and for games in sequence."""
    if is_sequence(game):
        raise ValueError(f"games in sequence have visits and not one score; {SEQUENCES}")
    return resolve_game(game)


def _game(name: str, where: str) -> str:
    try:
        return _resolved(name)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


# --- other people's scores


def _read_csv(path: Path, notes: Notes) -> Iterator[Score]:
    """The scores of a CSV file."""
    empty = True
    for row in read_rows(path, _resolved, notes):
        empty = False
        settings = None if row.settings is None else _defaults() | row.settings
        yield Score(
            row.agent, row.game, row.run, row.score, row.where, row.rules, row.steps, settings,
            frame_skip=row.frame_skip, games=row.games, kind=row.kind,
        )  # fmt: skip
    if empty:
        raise ConfigError(f"{path}: it holds no scores")
