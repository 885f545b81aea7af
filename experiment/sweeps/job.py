"""A run of a sweep, or a fleet of them: its command, its state on disk, and the interface of executors."""

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
        name: unique in the sweep; also names the run's log.
        command: makes the run directory, and at its end result.json.
        directory: that run directory.
        resume: the command that resumes an interrupted run; by default `command --resume DIRECTORY`.
        source, fork_step: of a fork, the name of the job whose run it forks, and the step of the checkpoint.
    """

    name: str
    command: tuple[str, ...]
    directory: Path
    resume: tuple[str, ...] = ()
    source: str = ""
    fork_step: int = 0

    @property
    def runs(self) -> tuple["Job", ...]:
        """The runs that its process makes."""
        return (self,)

    def parts(self) -> tuple["Job", ...]:
        """What goes on when another process has left it: itself."""
        return (self,)

    def left(self) -> list["Job"]:
        """Those of its runs that have no result."""
        return [run for run in self.runs if run.state() != "done"]

    @property
    def log(self) -> Path:
        """What the run's processes print, one attempt after another."""
        return self.directory.parent / "logs" / f"{self.name}.log"

    def state(self) -> State:
        """The state of the run directory: done, interrupted, remains without a checkpoint, or not begun."""
        run = RunDir(self.directory)
        if run.finished:
            return "done"
        if run.has_checkpoint():
            return "interrupted"
        return "leftover" if run.path.exists() else "new"

    def is_ready(self) -> bool:
        """Whether it can start: a fork waits for the checkpoint that it begins at."""
        if not self.source:
            return True
        source, own = RunDir(self.directory.parent / self.source), RunDir(self.directory)
        return self.fork_step in source.steps() or own.has_checkpoint() or own.finished

    def argv(self, state: State | None = None) -> tuple[str, ...]:
        """The command that this run needs now, in its `state` if that is known."""
        if (state or self.state()) != "interrupted":
            return self.command
        return self.resume or (*self.command, "--resume", str(self.directory))

    def is_running(self) -> bool:
        """Whether a process of a sweep works on it. The lock on its log is tested, which does not disturb the run."""
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


@dataclass(frozen=True)
class FleetJob(Job):
    """Runs of the same settings that one process trains together; each has its own directory, log, state and end.

    Attributes:
        members: the runs. What the process prints is in the log of the first.
        names: the names of all runs of the fleet, also of those that are finished or go on alone.
    """

    members: tuple[Job, ...] = ()
    names: tuple[str, ...] = ()

    @property
    def runs(self) -> tuple[Job, ...]:
        return self.members

    def parts(self) -> tuple[Job, ...]:
        """Its runs one by one, if another sweep has begun them otherwise."""
        begun = [run for run in self.members if RunDir(run.directory).path.exists()]
        fleets = {tuple(each.path.name for each in RunDir(run.directory).fellows()) for run in begun}
        return (self,) if fleets <= {self.names} else self.members

    @property
    def log(self) -> Path:
        return self.members[0].log

    def state(self) -> State:
        """The state of the whole: it is resumed as soon as one member has a checkpoint."""
        states = {run.state() for run in self.members}
        if states == {"done"}:
            return "done"
        if states & {"done", "interrupted"}:
            return "interrupted"
        return "leftover" if "leftover" in states else "new"


class End(NamedTuple):
    """The end of an attempt at a run: result, failure, lost machine, or another process has the run.

    `reason` says why there is no result; `notes` are further lines for the user.
    """

    how: Literal["done", "failed", "lost", "elsewhere"]
    reason: str = ""
    notes: tuple[str, ...] = ()


class Attempt(Protocol):
    """A run that was started."""

    @property
    def job(self) -> Job: ...

    def end(self) -> End | None:
        """The end of the attempt, returned once; None while it runs."""

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
