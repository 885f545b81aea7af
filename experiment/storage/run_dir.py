"""The directory of one run: config.yaml, metrics.jsonl, checkpoints/ and, at the end, result.json."""

import dataclasses
import errno
import fcntl
import json
import os
import shutil
import uuid
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO, Any, ClassVar, TypeVar

from experiment.command_line import flag, shell
from experiment.config import dump_yaml, load_yaml
from experiment.setting import changeable, learning, names_of
from experiment.storage.files import check_room, sync_directory, to_json, write_atomic
from experiment.values import ConfigError, suggest

Config = TypeVar("Config", bound=Any)
"""A config dataclass with name, root and resume."""


class RunDir:
    """The paths of a run. `create` and `open` make one.

    Attributes:
        path, config, metrics, result: the directory and its files.
        checkpoints: the directory that `experiment.storage.checkpoint` fills.
        fleet: of a run that trains with others in one process, the file with the names of all their directories.
    """

    _locks: ClassVar[dict[Path, IO[str]]] = {}  # open for the life of the process, also after the objects are deleted

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.metrics = path / "metrics.jsonl"
        self.result = path / "result.json"
        self.checkpoints = path / "checkpoints"
        self.fleet = path / "fleet.json"

    @classmethod
    def create(cls, root: Path | str, name: str, config: Any, explicit: bool = False, room: int = 0) -> "RunDir":
        """Makes a new locked run directory under `root` with its config, whole or, if killed amid it, not at all.

        A name that is taken gets a counter, `name-2`; when the user chose it (`explicit`), it is refused instead.
        `room` is the least that a checkpoint takes, in bytes.

        Raises:
            ConfigError: the name is taken or is no name of a directory, or `root` cannot be written, or is full.
        """
        if not name or Path(name).name != name or name.startswith(".") or len(os.fsencode(name)) > 200:
            raise ConfigError(f"the name of a run is one directory name of at most 200 bytes, not {name!r}")
        if not str(root):
            raise ConfigError("the folder of the run directories has no name")
        root = Path(root)
        _make_folder(root)
        run, count = cls(root / name), 1
        while not run._make(dump_yaml(config), room):
            if explicit:
                go_on = shell("--resume", run.path)
                raise ConfigError(f"run {str(run.path)!r} exists: continue it with {go_on}, or choose another --name")
            count += 1
            run = cls(root / f"{name}-{count}")
        return run

    def _make(self, config: str, room: int) -> bool:
        """Builds the directory under a temporary name, locks and renames it; returns whether the name was free."""
        if os.path.lexists(self.path):
            return False
        temporary = RunDir(self.path.with_name(f".tmp-{uuid.uuid4().hex}"))
        try:
            temporary.path.mkdir()
            temporary.lock()
            temporary.checkpoints.mkdir()
            write_atomic(temporary.config, config)
            check_room(temporary.checkpoints, room)
            os.rename(temporary.path, self.path)
        except BaseException as error:  # a full disk, say: nothing half-made is left
            temporary.unlock()
            shutil.rmtree(temporary.path, ignore_errors=True)
            if not isinstance(error, OSError):
                raise
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR) and os.path.lexists(self.path):
                return False  # another process was quicker
            raise ConfigError(f"run {str(self.path)!r} cannot be made: {error.strerror}") from None
        self._locks[self.path.resolve()] = self._locks.pop(temporary.path.resolve())
        sync_directory(self.path.parent)
        return True

    @classmethod
    def open(cls, path: Path | str) -> "RunDir":
        """Returns an existing run, unlocked, so that it may be read while it trains.

        Raises:
            ConfigError: there is no run; says what is missing.
        """
        run = cls(Path(path))
        if not run.path.is_dir():
            if run.path.exists():
                raise ConfigError(f"{str(path)!r} is not a run: it is no directory")
            siblings = [item.name for item in run.path.parent.iterdir()] if run.path.parent.is_dir() else []
            raise ConfigError(f"no run {str(path)!r}: there is no such directory{suggest(run.path.name, siblings)}")
        if not run.config.is_file():
            raise ConfigError(f"{str(path)!r} is not a run: it has no config.yaml")
        return run

    def lock(self) -> None:
        """Keeps the run for this process until it ends, however it ends; warns where the file system has no locks.

        Raises:
            ConfigError: another process has it.
        """
        key = self.path.resolve()
        if key in self._locks:
            return
        file = open(self.path / ".lock", "a+", encoding="utf-8")  # noqa: SIM115 (held for the life of the run)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip()
            file.close()
            raise ConfigError(f"run {str(self.path)!r} is in use by process {owner or 'unknown'}") from None
        except OSError as error:
            warnings.warn(f"no lock on {self.path}, so a second process could use it: {error.strerror}", stacklevel=2)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        self._locks[key] = file

    def unlock(self) -> None:
        """Lets another process have the run."""
        file = self._locks.pop(self.path.resolve(), None)
        if file is not None:
            file.close()

    @property
    def label(self) -> str:
        """The run's name for figures and pages, which need valid text: bytes that are no UTF-8 are escaped."""
        return os.fsencode(self.path.name).decode(errors="backslashreplace")

    @property
    def finished(self) -> bool:
        """Whether it has its result; an empty file is none."""
        return self.result.is_file() and self.result.stat().st_size > 0

    def fellows(self) -> list["RunDir"]:
        """The runs that train with it in one process, itself among them, in order; none if it is of no fleet."""
        try:
            names = json.loads(self.fleet.read_text(encoding="utf-8"))
            return [RunDir(self.path.parent / name) for name in names]
        except (OSError, ValueError, TypeError):
            return []

    def has_checkpoint(self) -> bool:
        """Whether a checkpoint was ever written."""
        return self.newest_checkpoint() is not None

    def newest_checkpoint(self) -> Path | None:
        """The directory of the newest checkpoint, whether or not it can be read."""
        paths = self._checkpoint_paths()
        return paths[-1] if paths else None

    def steps(self) -> list[int]:
        """The steps of its checkpoints, in order, whether or not they can be read."""
        return [int(path.name) for path in self._checkpoint_paths()]

    def _checkpoint_paths(self) -> list[Path]:
        items = self.checkpoints.iterdir() if self.checkpoints.is_dir() else ()
        return sorted((item for item in items if item.name.isdecimal()), key=lambda item: int(item.name))

    def unsaved(self, where: str, resume: str) -> str:
        """The message of a run that ends without its last state; `where` is "agent step 300", `resume` a command."""
        last = self.newest_checkpoint()
        kept = "there is no checkpoint from before" if last is None else f"the last checkpoint is of {int(last.name):,}"
        begin = "begin again" if last is None else "go on from there"
        return f"{where} could not be saved, and {kept}; make room, then {begin} with: {resume}"

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Writes result.json, whole or not at all."""
        write_atomic(self.result, to_json(result, indent=2) + "\n")


def _make_folder(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(f"runs cannot be kept in {str(root)!r}: a file stands in the way") from None
    except OSError as error:
        raise ConfigError(f"runs cannot be kept in {str(root)!r}: {error.strerror}") from None


def nearest(step: int, steps: Collection[int]) -> str:
    """Which steps of some are nearest to one that is not among them, for messages."""
    near = sorted(sorted(steps, key=lambda other: abs(other - step))[:2])
    return f"the nearest {'are' if len(near) > 1 else 'is'} {' and '.join(map(str, near))}"


def load_settings(config_class: type[Config], run: RunDir) -> Config:
    """The resolved settings of a run. Raises ConfigError, which names the file, if this version does not take them."""
    try:
        return load_yaml(config_class, run.config).resolved()
    except ConfigError as error:
        text = str(error)  # of a setting of the file, not of an option that was given
        raise ConfigError(text if str(run.config) in text else f"{run.config}: {text.removeprefix('--')}") from None


def find_resumed(config: Any) -> RunDir | None:
    """The run that `config.resume` means, or None for a new one.

    "auto" is the run of the given name, if it exists, or else the newest unfinished run of the same settings: those
    with the role learning. Raises ConfigError if the named run has others, or if there is no run where one is named.
    """
    if config.resume is None:
        return None
    if config.resume != "auto":
        return RunDir.open(config.resume)
    root = Path(config.root)
    if config.name is not None:
        named = RunDir(root / config.name)
        if named.config.is_file() and learning(config) != learning(load_settings(type(config), named)):
            raise ConfigError(f"run {str(named.path)!r} has other settings: choose another --name")
        return named if named.config.is_file() else None
    runs = [RunDir(path) for path in root.iterdir()] if root.is_dir() else []
    runs = [run for run in runs if run.has_checkpoint() and not run.finished and _is_of(config, run)]
    return max(runs, key=lambda run: run.checkpoints.stat().st_mtime_ns, default=None)


def _is_of(config: Any, run: RunDir) -> bool:
    try:
        return learning(config) == learning(load_settings(type(config), run))
    except ConfigError:  # a run of another version of the settings
        return False


def say_kept(run: RunDir, asked: Any, stored: Any) -> None:
    """Prints in one line the settings of a run found by --resume auto that differ from the ones asked for.

    They are settings of machine and observing that a resume may not change. "auto" and none count as not asked for.
    """
    fixed = names_of(type(stored), "machine", "observing").difference(changeable(stored))
    values = ((name, getattr(stored, name), getattr(asked, name)) for name in sorted(fixed))
    kept = [f"{flag(name)} {old} (not {new})" for name, old, new in values if new not in (None, "auto", old)]
    if kept:
        print(f"run {str(run.path)!r} keeps its own settings: {', '.join(kept)}")


def check_resumed(asked: Any, stored: Any) -> None:
    """Raises ConfigError if a resume asks for settings that the run has otherwise, and that it may not change."""
    if dataclasses.replace(asked, resume=None) != dataclasses.replace(stored, **changeable(asked)):
        *others, last = (flag(name) for name in changeable(asked))
        options = f"{', '.join(others)} and {last}" if others else last
        raise ConfigError(
            f"{shell('--resume', asked.resume)} keeps the settings of that run: give no others (except {options})"
        )
