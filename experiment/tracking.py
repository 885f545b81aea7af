"""metrics.jsonl for every run, and wandb for those who ask for it; neither ever stops training."""

import contextlib
import importlib
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from experiment.files import to_json
from experiment.values import ConfigError


def check_tracker(track: str) -> None:
    """Raises ConfigError if the tracker is asked for and not installed; before anything of a run is written."""
    try:
        if track == "wandb":
            importlib.import_module("wandb")
    except ImportError:
        raise ConfigError("--track wandb needs wandb, which is not installed: pip install 'rewarm[wandb]'") from None


class Tracker:
    """Appends rows of metrics to a file, one JSON object a line, each on the disk's side when `log` returns.

    NaN and infinity are written as null. A last line that a killed process left unfinished is removed on opening.
    `track` may be "wandb": a row then goes there too. wandb's own rows cannot be cut back on a resume.

    Raises:
        ConfigError: wandb is asked for and is not installed.
    """

    def __init__(
        self, path: Path, track: str = "none", name: str = "", config: Mapping[str, Any] | None = None
    ) -> None:
        check_tracker(track)
        self._wandb = _start_wandb(name or path.parent.name, config or {}, path.parent) if track == "wandb" else None
        self._file: BinaryIO = open(path, "a+b", buffering=0)  # noqa: SIM115 (closed by close)
        self._failing = False
        self._end = 0
        self.cut_to(self._file.seek(0, os.SEEK_END))

    def log(self, row: Mapping[str, Any]) -> None:
        """Appends one row. A full disk loses the row and warns once; a failing wandb warns once and is left."""
        line = (to_json(row) + "\n").encode()
        try:
            if self._failing:
                self._file.truncate(self._end)
            if self._file.write(line) != len(line):
                raise OSError("the row was only written in part")
            self._end += len(line)
            self._failing = False
        except (OSError, ValueError) as error:
            if not self._failing:
                warnings.warn(f"metrics are being lost, training goes on: {error}", stacklevel=2)
            self._failing = True
        if self._wandb is not None:
            self._wandb = _guarded(self._wandb, "log", dict(row))

    def offset(self) -> int:
        """Brings the rows to the disk and returns their size in bytes, for a checkpoint."""
        with contextlib.suppress(OSError):  # a full disk was told of by `log`
            os.fsync(self._file.fileno())
        return self._end

    def cut_to(self, offset: int) -> None:
        """Removes the rows after `offset` bytes, so that a resumed run writes none twice; keeps whole lines."""
        size = self._file.seek(0, os.SEEK_END)
        if offset > size:
            warnings.warn(
                f"metrics.jsonl ends {offset - size} bytes before the checkpoint: rows were lost", stacklevel=2
            )
        self._file.seek(0)
        kept = self._file.read(min(offset, size))
        self._end = kept.rfind(b"\n") + 1
        self._file.truncate(self._end)

    def close(self) -> None:
        """Ends the file and wandb's run."""
        with contextlib.suppress(OSError):
            self._file.close()
        if self._wandb is not None:
            _guarded(self._wandb, "finish")
            self._wandb = None


def _start_wandb(name: str, config: Mapping[str, Any], directory: Path) -> Any:
    try:
        wandb = importlib.import_module("wandb")
        return wandb.init(project="rewarm", id=name, name=name, config=dict(config), dir=str(directory), resume="allow")
    except Exception as error:  # whatever a tracker does, training goes on
        warnings.warn(f"wandb did not start, metrics.jsonl is written all the same: {error}", stacklevel=3)
        return None


def _guarded(run: Any, method: str, *arguments: Any) -> Any:
    """Calls a method of wandb's run; returns the run, or None once it has failed."""
    try:
        getattr(run, method)(*arguments)
    except Exception as error:  # whatever a tracker does, training goes on
        warnings.warn(f"wandb failed and is left, metrics.jsonl goes on: {error}", stacklevel=3)
        return None
    return run
