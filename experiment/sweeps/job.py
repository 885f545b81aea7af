"""A run of a sweep as its directory and log tell of it, and what it means to carry one out."""

import fcntl
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from experiment.storage.run_dir import RunDir

State = Literal["done", "interrupted", "leftover", "new"]

FAILED = "--- failed: "
"""Begins the last line of the log of a run that was given up."""


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        name: tells it from the others, and names its log.
        command: makes the run directory, and ends it with result.json.
        directory: that run directory.
        resume: the command that goes on with an interrupted run; by default `command --resume DIRECTORY`.
    """

    name: str
    command: tuple[str, ...]
    directory: Path
    resume: tuple[str, ...] = ()

    @property
    def log(self) -> Path:
        """What the run's processes print, one attempt after another."""
        return self.directory.parent / "logs" / f"{self.name}.log"

    def state(self) -> State:
        """What the run directory says: finished, to go on with, remains without a checkpoint, or not begun."""
        run = RunDir(self.directory)
        if run.finished:
            return "done"
        if run.has_checkpoint():
            return "interrupted"
        return "leftover" if run.path.exists() else "new"

    def argv(self, state: State | None = None) -> tuple[str, ...]:
        """The command that this run needs now, in its `state` if that is known."""
        if (state or self.state()) != "interrupted":
            return self.command
        return self.resume or (*self.command, "--resume", str(self.directory))

    def is_running(self) -> bool:
        """Whether a process of a sweep works on it; asked of its log, so that the run never notices."""
        try:
            with open(self.log, "rb") as log:
                fcntl.flock(log, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def failure(self) -> str:
        """Why the last sweep gave it up, or ""."""
        line = last_line(self.log) if self.log.is_file() else ""
        return line.removeprefix(FAILED) if line.startswith(FAILED) else ""


class End(NamedTuple):
    """What became of an attempt at a run: it has its result, it failed, its machine was lost, or another has the run.

    `reason` says why it has no result, `notes` what the user should know besides.
    """

    how: Literal["done", "failed", "lost", "elsewhere"]
    reason: str = ""
    notes: tuple[str, ...] = ()


class Attempt(Protocol):
    """A run that was started."""

    @property
    def job(self) -> Job: ...

    def end(self) -> End | None:
        """What became of it, said once; None as long as it works."""

    def send_signal(self, number: signal.Signals) -> None:
        """Lets it save and end."""

    def kill(self) -> None:
        """Ends it at once."""


class Executor(Protocol):
    """Where a sweep's runs go: processes of this machine, or the tasks of a cluster."""

    def room(self) -> bool:
        """Whether one more run can be started now."""

    def start(self, job: Job, number: int) -> Attempt | End:
        """Starts the run for the `number`th time, unless there is nothing to do; OSError if that fails."""


def last_line(log: Path, offset: int = 0) -> str:
    """The last line in a log after `offset` that is not empty, or ""; a log that somebody removed has none."""
    try:
        with open(log, "rb") as file:
            file.seek(max(offset, file.seek(0, os.SEEK_END) - 65536))
            lines = file.read().decode(errors="replace").split("\n")
    except FileNotFoundError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
