"""Scores of runs, read from run directories, folders of them, sweeps and CSV files into one list."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, TypeGuard

from agents.config import DQNConfig
from benchmarks import manifest
from benchmarks.manifest import Entry, Manifest
from benchmarks.reporting.agreement import check_arms, name_arms
from benchmarks.reporting.played import Played, read_played
from benchmarks.suites import job
from envs.games import resolve_game
from envs.protocol import PROTOCOLS
from experiment.config import ConfigError, as_plain, load_yaml, near
from experiment.run_dir import RunDir

COLUMNS = ("agent", "game", "run", "score")
UNSCORED = "finished without an evaluation"
RESULT = {"agent": str, "game": str, "seed": int, "agent_steps": int, "protocol": dict, "settings": dict}


@dataclass(frozen=True)
class Score:
    """The final score of one run, a mean raw return, and what it stands on.

    Attributes:
        run: the seed, or the name that a CSV file gives it.
        source: the run directory or the line it was read from.
        protocol, settings, steps: None where a CSV file does not tell.
        games: games that the score is the mean of.
        played: how many of them were cut, and how many were different; None where that is not recorded.
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
    """Every run of a report, and those that are missing."""

    runs: tuple[Score, ...]
    missing: tuple[Missing, ...]

    @property
    def arms(self) -> list[str]:
        """Names in the order in which they came."""
        return list(dict.fromkeys([run.arm for run in self.runs] + [run.arm for run in self.missing]))


def read_scores(paths: Sequence[str]) -> Scores:
    """The scores of run directories, folders of them, sweeps with a manifest, and CSV files of agent,game,run,score.

    A run has the arm that the manifest beside it gives; others are named after their agent, methods and the settings in
    which they differ. A run that is given twice counts once.
    Raises ConfigError, in one line, for what cannot be read, runs of one arm, game and seed with other scores, an arm
    whose runs have other rules, budgets or settings, and arms that were scored under other rules.
    """
    found: dict[tuple[str | int, int], Score | Missing] = {}
    for path in paths:
        for number, item in enumerate(_read(Path(path))):
            directory = item.directory.path.stat() if isinstance(item, Score) and item.directory else None
            found.setdefault((directory.st_dev, directory.st_ino) if directory else (path, number), item)
    named = _named(list(found.values()))
    runs = _unique(item for item in named if isinstance(item, Score))
    if not runs:
        unscored = sum(isinstance(item, Missing) and item.why == UNSCORED for item in named)
        more = f": {unscored} {UNSCORED}" if unscored else ""
        raise ConfigError(f"no run with a score in {', '.join(map(repr, paths))}{more}")
    check_arms(runs)
    present = {(run.arm, run.game, run.run) for run in runs}
    missing = {(item.arm, item.game, item.run): item for item in named if isinstance(item, Missing)}
    return Scores(tuple(runs), tuple(item for key, item in missing.items() if key not in present))


def _read(path: Path) -> Iterator[Score | Missing]:
    if path.is_file():
        return _read_csv(path)
    if not path.is_dir():
        siblings = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
        raise ConfigError(f"no runs {str(path)!r}: there is no such file or folder{near(path.name, siblings)}")
    inside = [path] if _holds_runs(path) else [item for item in sorted(path.iterdir()) if _holds_runs(item)]
    inside = [item for item in inside if item == path or not item.name.startswith(".")]  # that is being made
    if not inside:
        raise ConfigError(f"no run in folder {str(path)!r}: neither it nor a folder in it has config.yaml")
    listed = cache(_listed)
    return chain.from_iterable(_read_folder(item, listed) for item in inside)


def _holds_runs(path: Path) -> bool:
    return any((path / name).is_file() for name in (manifest.NAME, "config.yaml", "result.json"))


def _read_folder(path: Path, listed: Callable[[Path], Mapping[str, Entry]]) -> Iterator[Score | Missing]:
    """A sweep, or one run: of the sweep in whose folder it lies, if there is one."""
    if (path / manifest.NAME).is_file():
        return (_read_entry(entry, path / entry.name) for entry in Manifest.load(path).runs)
    real = path.resolve()
    entry = listed(real.parent).get(real.name)
    return iter([_read_entry(entry, path) if entry else _read_run(path)])


def _listed(folder: Path) -> dict[str, Entry]:
    """The runs of a sweep by name; none without a manifest."""
    known = (folder / manifest.NAME).is_file()
    return {entry.name: entry for entry in Manifest.load(folder).runs} if known else {}


def _named(items: list[Score | Missing]) -> list[Score | Missing]:
    """Gives an arm to runs that came without one."""
    nameless = [item for item in items if not item.arm]
    arms = iter(name_arms([item.settings or {} for item in nameless]))
    return [item if item.arm else replace(item, arm=next(arms)) for item in items]


def _unique(runs: Iterable[Score]) -> list[Score]:
    """One run for each arm, game and seed."""
    kept: dict[tuple[str, str, str], Score] = {}
    for run in runs:
        other = kept.setdefault((run.arm, run.game, run.run), run)
        if other.score != run.score:
            raise ConfigError(
                f"two runs of arm {run.arm!r}, game {run.game}, seed {run.run} disagree: {other.source} scored "
                f"{other.score:g}, {run.source} {run.score:g}; leave one out"
            )
    return list(kept.values())


# --- run directories


def _read_entry(entry: Entry, path: Path) -> Score | Missing:
    """A run of a sweep."""
    run = RunDir(path)
    if not run.finished:
        why = "not finished" if path.is_dir() else "not begun"
        if reason := job(entry, path.parent).failure():
            why = f"failed: {reason}"
        return Missing(entry.arm, _game(entry.game, str(path)), str(entry.seed), why)
    item = _read_result(run)
    for what, listed, ran in (("game", _game(entry.game, str(path)), item.game), ("seed", str(entry.seed), item.run)):
        if listed != ran:
            raise ConfigError(f"run {str(path)!r} has {what} {ran}, and {manifest.NAME} lists it with {listed}")
    return replace(item, arm=entry.arm)


def _read_run(path: Path) -> Score | Missing:
    """A run directory, its arm not yet named."""
    run = RunDir(path)
    if not run.finished:
        config = load_yaml(DQNConfig, run.config)
        return Missing("", _game(config.env, str(path)), str(config.seed), "not finished", as_plain(config))
    return _read_result(run)


def _read_result(run: RunDir) -> Score | Missing:
    result = _json(run.result)
    game, seed, settings = _game(result["game"], str(run.result)), str(result["seed"]), _defaults() | result["settings"]
    settings["agent"] = result["agent"]
    if result.get("score") is None:
        return Missing("", game, seed, UNSCORED, settings)
    score = result["score"]
    mean = score.get("mean") if isinstance(score, dict) else None
    if not _is_finite(mean):
        raise ConfigError(f"{run.result}: its mean score is {mean!r}, not a number")
    episodes, environment = score.get("episodes"), result.get("environment")
    if not isinstance(episodes, int | None):
        raise ConfigError(f"{run.result}: its score is of {episodes!r} episodes, not a whole number")
    if not isinstance(environment, dict | None):
        raise ConfigError(f"{run.result}: its environment is {environment!r}, not a mapping")
    return Score(
        "", game, seed, float(mean), str(run.path), result["protocol"], result["agent_steps"], settings,
        environment, episodes, run, read_played(score, str(run.result)),
    )  # fmt: skip


def _is_finite(value: Any) -> TypeGuard[float]:
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False


def _json(path: Path) -> dict[str, Any]:
    """A result.json that has what the report needs."""
    try:
        result = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {str(path)!r}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{path} is damaged: it is not JSON") from None
    for key, kind in RESULT.items():
        if not isinstance(result, dict) or not isinstance(result.get(key), kind):
            raise ConfigError(f"{path} is not the result of an agent's run: it has no {key!r}")
    return result


@cache
def _defaults() -> dict[str, Any]:
    """What settings had that an older version did not write."""
    return as_plain(DQNConfig())


@cache
def _resolved(game: str) -> str:
    return resolve_game(game)


def _game(name: str, where: str) -> str:
    try:
        return _resolved(name)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


# --- other people's scores


def _read_csv(path: Path) -> Iterator[Score]:
    """The rows of a CSV file; columns protocol and agent_steps are read if there are any, and others passed over."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
            for column in COLUMNS:
                if column not in reader.fieldnames:
                    raise ConfigError(f"{path}: it has no column {column!r}; a table of scores has {','.join(COLUMNS)}")
            rows = [_csv_score(row, f"{path} line {reader.line_num}") for row in reader]
    except OSError as error:
        raise ConfigError(f"cannot read {str(path)!r}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error):
        raise ConfigError(f"{path}: it is no CSV table in UTF-8") from None
    if not rows:
        raise ConfigError(f"{path}: it holds no scores")
    return iter(rows)


def _csv_score(row: Mapping[str | None, Any], where: str) -> Score:
    if None in row:
        raise ConfigError(f"{where}: it has more fields than the first line has columns; quote those with commas")
    words = {column: " ".join((row[column] or "").split()) for column in COLUMNS}
    for column, word in words.items():
        if not word:
            raise ConfigError(f"{where}: it has no {column}")
    protocol, steps = (row.get("protocol") or "").strip(), (row.get("agent_steps") or "").strip()
    if steps and not steps.isdecimal():
        raise ConfigError(f"{where}: agent_steps {steps!r} is not a whole number")
    return Score(
        words["agent"],
        _game(words["game"], where),
        words["run"],
        _number(words["score"], where),
        where,
        _rules(protocol) if protocol else None,
        int(steps) if steps else None,
    )


def _number(word: str, where: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"{where}: score {word!r} is not a number")
    return value


@cache
def _rules(protocol: str) -> dict[str, Any]:
    """What a protocol's name stands for."""
    known = PROTOCOLS.get(protocol)
    return {"name": protocol} if known is None else dataclasses.asdict(known)
