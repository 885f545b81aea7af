"""Runs many commands side by side, each a process that makes one run directory, and goes on where a sweep was stopped.

The run directories alone decide what is to be done: a run with a result is never repeated, one with a checkpoint is
resumed, any other begins. A run's log is locked while a process works on it. So two sweeps of the same runs share them,
and a sweep that was killed can be started again at once.
"""

import contextlib
import errno
import signal
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from experiment.command_line import shell
from experiment.interrupt import Interrupt
from experiment.sweeps.job import FAILED, Attempt, End, Executor, Job
from experiment.sweeps.processes import Processes
from experiment.values import ConfigError, counted

if TYPE_CHECKING:
    from rich.console import Console

POLL = 0.1
LOOK_AGAIN = 1.0
PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
"""Errors at the start of a run that may pass: a full disk, no memory, too many processes or files."""
LONGEST_PAUSE = 60.0
"""Seconds until the next start after one that the machine refused; the first pause is short, each longer."""
LOST = 100
"""Times that a run may lose its machine before it counts as failed."""


@dataclass(frozen=True)
class Outcome:
    """The names of the runs that have a result, of those that failed, each with why, and of those still to be done."""

    finished: tuple[str, ...]
    failed: dict[str, str]
    left: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 if every run has its result, 1 if one failed, else 130, the shell's code for what Ctrl-C ended."""
        return 1 if self.failed else 130 if self.left else 0


class SweepState(NamedTuple):
    """A sweep at one moment: how many runs wait, the names of those that run, are done, or failed, each with why."""

    waiting: int
    running: tuple[str, ...]
    finished: Iterable[str]
    failed: Mapping[str, str]
    elsewhere: tuple[str, ...]
    """Runs that another process has."""


class View(AbstractContextManager[Any], Protocol):
    """Shows a sweep while it runs; `show` is called ten times a second and must not fail."""

    def show(self, moment: SweepState) -> None: ...


def plan(jobs: Iterable[Job], all_commands: bool = False) -> str:
    """What a sweep would do: a line with the number of runs, and the first command, or with `all_commands` each.

    Starts and changes nothing.
    """
    jobs = _checked(jobs)
    states = {job.name: job.state() for job in jobs}
    left = {job.name: len(job.left()) for job in jobs}
    runs = sum(len(job.runs) for job in jobs)
    count: Counter[str] = Counter({"done": runs - sum(left.values())})
    for name, state in states.items():
        count[state] += left[name]
    begin = count["new"] + count["leftover"]
    lines = [f"{counted(runs, 'run')}: {count['done']:,} done, {count['interrupted']:,} to resume, {begin:,} to start"]
    first = 0
    verbs = {"done": "done", "interrupted": "resume", "leftover": "restart", "new": "start"}
    for job in jobs:
        waits = "" if job.is_ready() else f" (once {job.source} has its checkpoint of step {job.fork_step})"
        command = "" if states[job.name] == "done" else f"{waits}: {shell(*job.argv(states[job.name]))}"
        if all_commands or (command and len(lines) == 1):
            lines.append(f"{verbs[states[job.name]]:<8}{job.name}{command}")
            first = left[job.name]
    more = 0 if all_commands else sum(left.values()) - first
    return "\n".join(lines if more < 1 else [*lines, f"and {counted(more, 'more run')}: --all-commands prints each"])


def sweep(
    jobs: Iterable[Job],
    processes: int | None = None,
    *,
    retries: int = 2,
    console: "Console | None" = None,
    view: View | None = None,
    slots: Sequence[Mapping[str, str]] | None = None,
    executor: Executor | None = None,
) -> Outcome:
    """Runs what is not finished, `processes` at a time (default: one per core), each on its share of the cores.

    A run that fails is tried `retries` times more, after the others, and goes on from its checkpoint. A directory
    without a checkpoint is removed if nothing was measured in it, and else moved to aside/. The first SIGINT or SIGTERM
    is passed on, so that the runs save and end; a second kills them. If this process is killed, they get a SIGTERM
    (on Linux). If another process has a run, the sweep waits for it, and takes the run over if it is left unfinished.
    Each sweep distributes all cores that it may use: give two sweeps at the same time different cores (taskset).
    `view` shows the progress on the same `console`. `slots` are environment variables, one set for each process, such
    as the GPU that it may see; they set the number of processes, which then share all cores. An `executor` replaces
    this machine's processes; a run that loses its machine there is started again and has not failed.

    Raises:
        ConfigError: two runs of one name or directory, a name that is no file name, or no process.
    """
    from rich.console import Console

    jobs, console = _checked(jobs), console or Console()
    if retries < 0 or (processes is not None and processes < 1):
        raise ConfigError(f"a sweep needs 1 process and 0 retries or more, not {processes} and {retries}")
    state = _Sweep(jobs, executor or Processes(processes, slots), retries, console)
    return state.run(view)


def _checked(jobs: Iterable[Job]) -> list[Job]:
    jobs = list(jobs)
    runs = [run for job in jobs for run in job.runs]
    for name, count in Counter(run.name for run in runs).items():
        if not name or Path(name).name != name or name.startswith("."):
            raise ConfigError(f"the name of a run is one file name, not {name!r}")
        if count > 1:
            raise ConfigError(f"{count} runs are named {name!r}: give each a name of its own")
    owner: dict[Path, str] = {}
    for job in runs:
        path = job.directory.resolve()
        if path.name in ("logs", "aside"):
            raise ConfigError(f"run {job.name!r}: {path.name!r} is the sweep's own directory, no name for a run's")
        if owner.setdefault(path, job.name) != job.name:
            raise ConfigError(f"runs {owner[path]!r} and {job.name!r} have the same directory {str(job.directory)!r}")
        if not job.command:
            raise ConfigError(f"run {job.name!r} has no command")
    return jobs


class Signals(Interrupt):
    """Counts the signals to stop, and keeps the first."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.first = signal.SIGTERM

    def _request(self, number: int, frame: FrameType | None) -> None:
        if not self.requested:
            self.first = signal.Signals(number)
        self.requested = True
        self.count += 1


def _names(jobs: Iterable[Job]) -> list[str]:
    """The names of all their runs, in order."""
    return [run.name for job in jobs for run in job.runs]


class _Sweep:
    """The state of a sweep while it runs. `finished` and `failed` have runs; a job is a run or a fleet of them."""

    def __init__(self, jobs: Sequence[Job], executor: Executor, retries: int, console: "Console") -> None:
        self.jobs, self.executor, self.retries, self.console = jobs, executor, retries, console
        self.finished: set[str] = set()
        self.waiting = deque(job for job in jobs if self._is_left(job))
        self.elsewhere: list[Job] = []
        self.running: list[Attempt] = []
        self.attempts: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.failed: dict[str, str] = {}
        self.stopping = False
        self.look_again = 0.0
        self.start_again, self.pause = 0.0, POLL

    def run(self, view: View | None) -> Outcome:
        signals = Signals()
        with signals, view or contextlib.nullcontext():
            try:
                while self.running or ((self.waiting or self.elsewhere) and not signals.requested):
                    self._obey(signals)
                    if not signals.requested:
                        self._start_jobs()
                    self._show(view)
                    time.sleep(POLL)
                    self._reap()
                self._show(view)
            finally:
                for attempt in self.running:
                    attempt.kill()
        return self._outcome()

    def _obey(self, signals: Signals) -> None:
        if signals.requested and not self.stopping:
            self.stopping = True
            for attempt in self.running:
                attempt.send_signal(signals.first)
            if self.running:
                self._say("stopping: the runs save and end; a second Ctrl-C kills them")
        if signals.count > 1:
            for attempt in self.running:
                attempt.kill()

    def _start_jobs(self) -> None:
        if self.elsewhere and time.monotonic() >= self.look_again and not any(job.is_ready() for job in self.waiting):
            self.waiting.extend(part for job in self.elsewhere for part in job.parts())
            self.elsewhere.clear()
            self.look_again = time.monotonic() + LOOK_AGAIN
        while self.executor.room() and time.monotonic() >= self.start_again and (job := self._next()):
            try:
                self._start(job)
            except OSError as error:
                reason = f"{error.filename or job.log}: {error.strerror or error}"
                if error.errno not in PASSING:
                    self._give_up(job, reason)
                    continue
                self.waiting.appendleft(job)
                self._say(f"{job.name} waits: {reason}")
                self.pause = min(2 * self.pause, LONGEST_PAUSE)
                self.start_again = time.monotonic() + self.pause
                return
            self.pause = POLL

    def _next(self) -> Job | None:
        """Takes the first waiting run that can start; gives up the forks whose source will not have the checkpoint."""
        for job in list(self.waiting):
            if job.is_ready():
                self.waiting.remove(job)
                return job
            if job.source in self.failed or job.source in self.finished:
                self.waiting.remove(job)
                why = "failed" if job.source in self.failed else f"has no checkpoint of step {job.fork_step}"
                self._give_up(job, f"{job.source}, which it forks, {why}")
        return None

    def _is_left(self, job: Job) -> bool:
        """Whether one of its runs has no result; those that have one are finished."""
        left = [run.name for run in job.left()]
        self.finished.update(set(_names([job])).difference(left))
        return bool(left)

    def _start(self, job: Job) -> None:
        started = self.executor.start(job, self.attempts[job.name] + 1)
        if isinstance(started, End):
            self._settle(job, started)
        else:
            self.running.append(started)

    def _reap(self) -> None:
        for attempt in self.running.copy():
            if (end := attempt.end()) is not None:
                self.running.remove(attempt)
                self._settle(attempt.job, end)

    def _settle(self, job: Job, end: End) -> None:
        """Decides what to do with a run after an attempt."""
        for note in end.notes:
            self._say(note)
        self.attempts[job.name] += end.how == "failed"
        self.lost[job.name] += end.how == "lost"
        if end.how == "done" or not self._is_left(job):
            self.finished.update(_names([job]))
        elif end.how == "elsewhere":
            self.elsewhere.append(job)
        elif self.stopping or (self.attempts[job.name] <= self.retries and self.lost[job.name] < LOST):
            self.waiting.append(job)
            if not self.stopping:
                self._say(f"{job.name} will be tried again: {end.reason}")
        else:
            reason = f"{end.reason}, {counted(self.attempts[job.name] + self.lost[job.name], 'attempt')}"
            self._give_up(job, reason, f", log: {job.log}")

    def _give_up(self, job: Job, reason: str, more: str = "") -> None:
        for run in job.left():
            self.failed[run.name] = reason + more
            with contextlib.suppress(OSError), open(run.log, "ab") as log:  # a full disk: it is named at the end anyway
                log.write(f"{FAILED}{reason}\n".encode(errors="backslashreplace"))

    def _show(self, view: View | None) -> None:
        if view is not None:
            running, elsewhere = _names(attempt.job for attempt in self.running), _names(self.elsewhere)
            view.show(SweepState(len(self.waiting), tuple(running), self.finished, self.failed, tuple(elsewhere)))

    def _outcome(self) -> Outcome:
        names = _names(self.jobs)
        left = tuple(name for name in names if name not in self.finished and name not in self.failed)
        for name, reason in self.failed.items():
            self._say(f"failed: {name}: {reason}")
        if left:
            self._say(f"left: {len(left)} of {counted(len(names), 'run')}; the same command goes on")
        return Outcome(tuple(name for name in names if name in self.finished), self.failed, left)

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError, SystemExit):  # the terminal went away, the sweep goes on
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)
