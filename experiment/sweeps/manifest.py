"""The list of a sweep's runs: manifest.json, next to their run directories."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from experiment.seeds import as_text
from experiment.storage.files import write_atomic
from experiment.sweeps.job import Job
from experiment.values import ConfigError

LAYOUT = 2
"""This version also reads layout 1, in which the task is called game."""
NAME = "manifest.json"


@dataclass(frozen=True)
class Entry:
    """One run: an arm on a task with a seed; `name` is that of its run directory.

    `config_hash` is the hash of all settings that the runs of an arm share; `command` starts the run. A fork has the
    run that it forks, and the step of the checkpoint.
    """

    name: str
    arm: str
    task: str
    seed: int
    config_hash: str
    command: tuple[str, ...]
    source: Entry | None = None
    fork_step: int | None = None

    def fleet_command(self, seeds: Sequence[int]) -> tuple[str, ...]:
        """The command of this run for several seeds in one process: --seeds SEEDS, and --name without the seed."""
        words = list(self.command)
        place = words.index("--seed")
        words[place : place + 2] = "--seeds", as_text(seeds)
        name = words.index("--name") + 1
        words[name] = words[name].removesuffix(f"-s{self.seed}")
        return tuple(words)

    def job(self, root: Path, resume_options: tuple[str, ...] = ()) -> Job:
        """The run in the sweep's folder; it is resumed by the same program, with these options alone."""
        directory = root / self.name
        resume = (*self.command[:3], "--resume", str(directory), *_checkpoint_option(self.command), *resume_options)
        if self.source is None or self.fork_step is None:
            return Job(self.name, self.command, directory, resume)
        return Job(self.name, self.command, directory, resume, self.source.name, self.fork_step)


@dataclass(frozen=True)
class Manifest:
    """The runs of a sweep in order; no two of one name, nor of one arm, task and seed."""

    suite: str
    runs: tuple[Entry, ...]

    def save(self, folder: Path) -> None:
        """Writes manifest.json, whole or not at all."""
        runs = ",\n".join(json.dumps(_as_plain(entry)) for entry in self.runs)
        head = json.dumps({"layout": LAYOUT, "suite": self.suite})[:-1]
        write_atomic(Path(folder) / NAME, f'{head}, "runs": [\n{runs}\n]}}\n')

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Reads manifest.json. Raises ConfigError if there is none, if it is damaged, or of another layout."""
        path = Path(folder) / NAME
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise ConfigError(f"no sweep in {str(folder)!r}: it has no {NAME}") from None
        except OSError as error:
            raise ConfigError(f"cannot read the list of runs {str(path)!r}: {error.strerror}") from None
        except (ValueError, RecursionError):
            raise ConfigError(f"{path} is damaged: it is not JSON") from None
        layout = content.get("layout") if isinstance(content, dict) else None
        if layout not in (1, LAYOUT):
            raise ConfigError(f"{path} has layout {layout!r}, and this version reads the layouts 1 and {LAYOUT}")
        suite, runs = content.get("suite"), content.get("runs")
        if not isinstance(suite, str) or not isinstance(runs, list) or not runs:
            raise ConfigError(f"{path} is damaged: it has no suite or no list of runs")
        task = "game" if layout == 1 else "task"
        entries = tuple(_entry(run, task, f"{path} is damaged: run {number}") for number, run in enumerate(runs, 1))
        _check_unique(entries, path)
        return cls(suite, entries)


def _checkpoint_option(command: tuple[str, ...]) -> tuple[str, ...]:
    """The option with the steps at which forks need a checkpoint: a run that began without it gets it when resumed."""
    place = command.index("--checkpoint-at") if "--checkpoint-at" in command else len(command)
    return command[place : place + 2]


def _as_plain(entry: Entry) -> dict[str, Any]:
    plain = {name: value for name, value in vars(entry).items() if value is not None}
    return plain if entry.source is None else plain | {"source": _as_plain(entry.source)}


def _entry(run: Any, task: str, where: str) -> Entry:
    """The entry that a file has; `task` is the name of that field there."""
    names = [task if field.name == "task" else field.name for field in fields(Entry)][:-2]
    fork = {"source", "fork_step"} & set(run) if isinstance(run, dict) else set()
    if not isinstance(run, dict) or set(run) - fork != set(names) or len(fork) == 1:
        raise ConfigError(f"{where} does not have just {', '.join(names)}")
    texts = [run[name] for name in ("name", "arm", task, "config_hash")]
    argv = run["command"]
    if not all(isinstance(text, str) and text for text in texts):
        raise ConfigError(f"{where}: name, arm, {task} and config_hash have to be text")
    if type(run["seed"]) is not int or run["seed"] < 0:
        raise ConfigError(f"{where}: seed has to be a whole number of at least 0, not {run['seed']!r}")
    if not isinstance(argv, list) or not argv or not all(isinstance(arg, str) for arg in argv):
        raise ConfigError(f"{where}: command has to be a list of words")
    if Path(run["name"]).name != run["name"] or run["name"].startswith("."):
        raise ConfigError(f"{where}: its name has to be one directory name, not {run['name']!r}")
    entry = Entry(run["name"], run["arm"], run[task], run["seed"], run["config_hash"], tuple(argv))
    if not fork:
        return entry
    if type(run["fork_step"]) is not int or run["fork_step"] < 1:
        raise ConfigError(f"{where}: fork_step has to be a whole number of at least 1, not {run['fork_step']!r}")
    return replace(entry, source=_entry(run["source"], task, f"{where}, its source"), fork_step=run["fork_step"])


def _check_unique(entries: tuple[Entry, ...], path: Path) -> None:
    for what, keys in (
        ("name", [entry.name for entry in entries]),
        ("arm, task and seed", [(entry.arm, entry.task, entry.seed) for entry in entries]),
    ):
        seen: set[Any] = set()
        for key in keys:
            if key in seen:
                raise ConfigError(f"{path} is damaged: two runs have the same {what}, {key}")
            seen.add(key)
