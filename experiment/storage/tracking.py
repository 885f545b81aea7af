"""metrics.jsonl for every run, and wandb or TensorBoard on request; none of them ever stops training."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from experiment.storage.files import to_json
from experiment.values import ConfigError, counted

MODULES = {"wandb": "wandb", "tensorboard": "torch.utils.tensorboard"}
"""What each tracker is imported from; torch's own part of it needs the package tensorboard."""


def check_tracker(track: str) -> None:
    """Raises ConfigError if the tracker is asked for and not installed; before anything of a run is written."""
    try:
        if track in MODULES:
            importlib.import_module(MODULES[track])
    except ImportError:
        raise ConfigError(
            f"--track {track} needs {track}, which is not installed: pip install 'rewarm[{track}]'"
        ) from None


def step_of(row: Mapping[str, Any]) -> int | None:
    """Where on the x axis a row stands: its agent step, or its update where there are no agent steps."""
    return row.get("agent_step", row.get("update"))


class Tracker:
    """Appends rows of metrics to a file, one JSON object a line, each on the disk's side when `log` returns.

    NaN and infinity are written as null. A last line that a killed process left unfinished is removed on opening.
    `track` may be "wandb" or "tensorboard": a row then goes there too. wandb's own rows cannot be cut back on a resume;
    TensorBoard's are, and its event files lie next to the file of metrics.

    Raises:
        ConfigError: the tracker is asked for and is not installed.
    """

    def __init__(
        self, path: Path, track: str = "none", name: str = "", config: Mapping[str, Any] | None = None
    ) -> None:
        check_tracker(track)
        self._track = track
        self._second = _start(track, name or path.parent.name, config or {}, path.parent)
        self._file: BinaryIO = open(path, "a+b", buffering=0)  # noqa: SIM115 (closed by close)
        self._failing = False
        self._end, self._waiting = 0, b""
        self.cut_to(self._file.seek(0, os.SEEK_END))

    def log(self, row: Mapping[str, Any]) -> None:
        """Appends one row. If the disk is full, warns once and writes the row later. A failing tracker is dropped."""
        self._waiting += (to_json(row) + "\n").encode()
        self._write()
        if self._second is not None:
            self._call(self._second.log, row)

    def _write(self) -> None:
        """Writes what waits, or keeps it until there is room."""
        if not self._waiting:
            return
        try:
            if self._failing:
                self._file.truncate(self._end)
            if self._file.write(self._waiting) != len(self._waiting):
                raise OSError("rows were only written in part")
        except (OSError, ValueError) as error:
            if not self._failing:
                warnings.warn(f"metrics wait until they can be written, training goes on: {error}", stacklevel=3)
            self._failing = True
            return
        self._end += len(self._waiting)
        self._waiting, self._failing = b"", False

    def offset(self) -> int:
        """Brings the rows to the disk and returns their size in bytes, for a checkpoint."""
        self._write()
        with contextlib.suppress(OSError):  # `log` has warned of a full disk
            os.fsync(self._file.fileno())
        if self._second is not None:
            self._call(self._second.flush)
        return self._end + len(self._waiting)

    def cut_to(self, offset: int) -> None:
        """Removes the rows after `offset` bytes, so that a resumed run writes none twice; keeps whole lines."""
        size = self._file.seek(0, os.SEEK_END)
        if offset > size:
            warnings.warn(
                f"metrics.jsonl ends {counted(offset - size, 'byte')} before the checkpoint: rows were lost",
                stacklevel=2,
            )
        self._file.seek(0)
        kept = self._file.read(min(offset, size))
        self._end = kept.rfind(b"\n") + 1
        self._file.truncate(self._end)
        if self._second is not None:
            self._call(self._second.cut_to, kept[: self._end].rstrip().rpartition(b"\n")[2])

    def close(self) -> None:
        """Ends the file and what the tracker writes."""
        self._write()
        if self._waiting:
            count, self._waiting = self._waiting.count(b"\n"), b""
            warnings.warn(
                f"the end of the metrics could not be written and is lost: {counted(count, 'row')}", stacklevel=2
            )
        with contextlib.suppress(OSError):
            self._file.close()
        if self._second is not None:
            self._call(self._second.close)
            self._second = None

    def _call(self, method: Callable[..., object], *arguments: Any) -> None:
        """Calls a method of the tracker; it is left once it has failed."""
        try:
            method(*arguments)
        except Exception as error:  # whatever a tracker does, training goes on
            warnings.warn(f"{self._track} failed and is dropped, metrics.jsonl goes on: {error}", stacklevel=3)
            self._second = None


def _start(track: str, name: str, config: Mapping[str, Any], directory: Path) -> _WandB | _TensorBoard | None:
    try:
        if track == "wandb":
            return _WandB(name, config, directory)
        return _TensorBoard(directory) if track == "tensorboard" else None
    except Exception as error:  # whatever a tracker does, training goes on
        warnings.warn(f"{track} did not start; metrics.jsonl is still written: {error}", stacklevel=3)
        return None


class _WandB:
    """A run of wandb."""

    def __init__(self, name: str, config: Mapping[str, Any], directory: Path) -> None:
        wandb = importlib.import_module(MODULES["wandb"])
        self._run = wandb.init(
            project="rewarm",
            id=name,
            name=name,
            config=dict(config),
            dir=str(directory),
            resume="allow",
            reinit="create_new",  # a fleet has a run for each seed at once
        )

    def log(self, row: Mapping[str, Any]) -> None:
        self._run.log(dict(row))

    def flush(self) -> None:
        """wandb sends when it likes."""

    def cut_to(self, last: bytes) -> None:
        """What is sent stays."""

    def close(self) -> None:
        self._run.finish()


class _TensorBoard:
    """Event files in a directory, one more for each time that a run goes on."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._writer: Any = None
        self._purge_step = 0

    def log(self, row: Mapping[str, Any]) -> None:
        if self._writer is None:
            writer = importlib.import_module(MODULES["tensorboard"]).SummaryWriter
            self._writer = writer(str(self._directory), purge_step=self._purge_step)
        step = step_of(row)
        for name, value in row.items():
            if value is not None and not isinstance(value, str):
                self._writer.add_scalar(name, float(value), step)

    def flush(self) -> None:
        if self._writer is not None:
            self._writer.flush()

    def cut_to(self, last: bytes) -> None:
        """Called before the first row: TensorBoard no longer shows steps of earlier files after the `last` row's."""
        step = step_of(json.loads(last)) if last else None
        self._purge_step = 0 if step is None else step + 1

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
