"""The directory of one run: config.yaml, metrics.jsonl, checkpoints/ and, at the end, result.json."""

import fcntl
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, ClassVar

from experiment.config import dump_yaml
from experiment.files import to_json, write_atomic
from experiment.values import ConfigError, near


class RunDir:
    """The paths of a run. `create` and `open` make one.

    Attributes:
        path, config, metrics, result: the directory and its files.
        checkpoints: the directory that `experiment.checkpoint` fills.
    """

    _locks: ClassVar[dict[Path, IO[str]]] = {}  # open for the life of the process, whatever becomes of the objects

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.metrics = path / "metrics.jsonl"
        self.result = path / "result.json"
        self.checkpoints = path / "checkpoints"

    @classmethod
    def create(cls, root: Path | str, name: str, config: Any, explicit: bool = False) -> "RunDir":
        """Makes a new locked run directory under `root` and writes its config.

        A name that is taken gets a counter, `name-2`; when the user chose it (`explicit`), it is refused instead.

        Raises:
            ConfigError: the name is taken or is no name of a directory. OSError: `root` cannot be written.
        """
        if not name or Path(name).name != name or name.startswith(".") or len(os.fsencode(name)) > 200:
            raise ConfigError(f"the name of a run is one directory name of at most 200 bytes, not {name!r}")
        if not str(root):
            raise ConfigError("the folder of the run directories has no name")
        root = Path(root)
        _make_folder(root)
        run, count = cls(root / name), 1
        while not run._make(dump_yaml(config)):
            if explicit:
                raise ConfigError(
                    f"run {str(run.path)!r} exists: continue it with --resume {run.path}, or choose another --name"
                )
            count += 1
            run = cls(root / f"{name}-{count}")
        return run

    def _make(self, config: str) -> bool:
        try:
            self.path.mkdir()
        except FileExistsError:
            return False
        try:
            self.lock()
            self.checkpoints.mkdir()
            write_atomic(self.config, config)
        except BaseException:  # a full disk, say: nothing half-made is left
            self.unlock()
            shutil.rmtree(self.path, ignore_errors=True)
            raise
        return True

    @classmethod
    def open(cls, path: Path | str) -> "RunDir":
        """Returns an existing run, unlocked, so that it may be read while it trains.

        Raises:
            ConfigError: there is no run; says what is missing.
        """
        run = cls(Path(path))
        if not run.path.is_dir():
            siblings = [item.name for item in run.path.parent.iterdir()] if run.path.parent.is_dir() else []
            raise ConfigError(f"no run {str(path)!r}: there is no such directory{near(run.path.name, siblings)}")
        if not run.config.is_file():
            raise ConfigError(f"{str(path)!r} is not a run: it has no config.yaml")
        return run

    def lock(self) -> None:
        """Keeps the run for this process until it ends, however it ends.

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
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        self._locks[key] = file

    def unlock(self) -> None:
        """Lets another process have the run."""
        file = self._locks.pop(self.path.resolve(), None)
        if file is not None:
            file.close()

    def has_checkpoint(self) -> bool:
        """Whether a checkpoint was ever written."""
        return self.newest_checkpoint() is not None

    def newest_checkpoint(self) -> Path | None:
        """The directory of the newest checkpoint, whether or not it can be read."""
        items = self.checkpoints.iterdir() if self.checkpoints.is_dir() else ()
        return max((item for item in items if item.name.isdigit()), key=lambda item: int(item.name), default=None)

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
