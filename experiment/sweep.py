"""Runs many commands side by side, each a process that makes one run directory, and goes on where a sweep was stopped.

What is to be done is read from the run directories alone: a run with a result is never run again, one with a checkpoint
goes on, any other begins. A run's log is locked while a process works on it, so that two sweeps of the same runs share
them, and a sweep that was killed can be started again at once.
"""

import contextlib
import ctypes
import fcntl
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from experiment.interrupt import Interrupt
from experiment.progress import Progress, Rate
from experiment.run_dir import RunDir
from experiment.values import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

State = Literal["done", "interrupted", "leftover", "new"]

ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"),
    "PYTHONUNBUFFERED": "1",  # so that the log of a run that is killed has its last line
}
FAILED = "--- failed: "
"""Begins the last line of the log of a run that was given up."""
POLL = 0.1
LOOK_AGAIN = 1.0
LOST = 100
"""So often a run may lose its machine before it counts as failed."""
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


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

    def words(self, state: State | None = None) -> tuple[str, ...]:
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
        line = _last_line(self.log) if self.log.is_file() else ""
        return line.removeprefix(FAILED) if line.startswith(FAILED) else ""


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


class Moment(NamedTuple):
    """A sweep at one moment: how many runs wait, the names of those that run, are done, or failed, each with why."""

    waiting: int
    running: tuple[str, ...]
    finished: Iterable[str]
    failed: Mapping[str, str]
    elsewhere: tuple[str, ...]
    """Runs that another process has."""

    def figures(self) -> dict[str, str]:
        """The number of each, by label."""
        counts = {
            "waiting": self.waiting,
            "running": len(self.running),
            "done": len(tuple(self.finished)),
            "failed": len(self.failed),
            "in use elsewhere": len(self.elsewhere),
        }
        return {label: str(count) for label, count in counts.items() if count or label != "in use elsewhere"}


class View(AbstractContextManager[Any], Protocol):
    """Shows a sweep while it runs; `show` is called ten times a second and must not fail."""

    def show(self, moment: Moment) -> None: ...


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
        """Starts the run for the `number`th time, unless there is nothing to do; OSError if that fails for good."""


def plan(jobs: Iterable[Job]) -> str:
    """What a sweep would do: a line with the number of runs, and one for each run. Starts and changes nothing."""
    jobs = _checked(jobs)
    states = {job.name: job.state() for job in jobs}
    count = Counter(states.values())
    begin = count["new"] + count["leftover"]
    lines = [f"{len(jobs)} runs: {count['done']} done, {count['interrupted']} to resume, {begin} to start"]
    verbs = {"done": "done", "interrupted": "resume", "leftover": "restart", "new": "start"}
    for job in jobs:
        command = "" if states[job.name] == "done" else f": {shlex.join(job.words(states[job.name]))}"
        lines.append(f"{verbs[states[job.name]]:<8}{job.name}{command}")
    return "\n".join(lines)


def sweep(
    jobs: Iterable[Job],
    processes: int | None = None,
    *,
    retries: int = 2,
    console: "Console | None" = None,
    view: View | None = None,
    places: Sequence[Mapping[str, str]] | None = None,
    executor: Executor | None = None,
) -> Outcome:
    """Runs what is not finished, `processes` at a time (default: one per core), each on a core and with one thread.

    A run that fails is tried `retries` times more, after the others, and goes on from its checkpoint. A directory
    without a checkpoint is removed if nothing was measured in it, and else moved to aside/. The first SIGINT or SIGTERM
    is passed on, so that the runs save and end; a second kills them. If this process is killed, they get a SIGTERM
    (on Linux). A run that another process has is waited for, and taken over if that leaves it unfinished. Sweeps of
    other runs at the same time do better on other cores (taskset), for each takes the first of those it may use.
    `view` shows it in place of a line with the counts, on the same `console`. `places` gives each process environment
    variables of its own, the GPU that it may see, say: there are as many processes then, and no core is theirs alone.
    An `executor` takes the runs in place of this machine's processes; a run that it loses, with the machine it was on,
    is started again and has not failed.

    Raises:
        ConfigError: two runs of one name or directory, a name that is no file name, or no process.
    """
    from rich.console import Console

    jobs, console = _checked(jobs), console or Console()
    if retries < 0 or (processes is not None and processes < 1):
        raise ConfigError(f"a sweep needs 1 process and 0 retries or more, not {processes} and {retries}")
    state = _Sweep(jobs, executor or Processes(processes, places), retries, console)
    return state.run(view or _SweepProgress(len(jobs), console, len(state.finished)))


def _checked(jobs: Iterable[Job]) -> list[Job]:
    jobs = list(jobs)
    for name, count in Counter(job.name for job in jobs).items():
        if not name or Path(name).name != name or name.startswith("."):
            raise ConfigError(f"the name of a run is one file name, not {name!r}")
        if count > 1:
            raise ConfigError(f"{count} runs are named {name!r}: give each a name of its own")
    owner: dict[Path, str] = {}
    for job in jobs:
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


class _SweepProgress(Progress):
    """Progress of runs that take minutes or hours: the rate is that of the whole sweep."""

    def __init__(self, total: int, console: "Console", start: int) -> None:
        super().__init__(total, "runs", console, start=start)
        self._rate = Rate(math.inf)
        self._rate.add(self._began, start)

    def show(self, moment: Moment) -> None:
        self.update(len(tuple(moment.finished)) + len(moment.failed), moment.figures())


@dataclass
class _Child:
    """A process that works on a run; its log is locked as long as it, or what it has started, keeps the log open."""

    job: Job
    slot: int
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    offset: int
    """Where in the log its own lines begin."""
    free: list[int]
    """Gets the slot back."""
    notes: tuple[str, ...]

    def end(self) -> End | None:
        if self.process.poll() is None:
            return None
        self.kill()  # what it has started and left behind
        self.free.append(self.slot)
        with self.log:
            if self.job.state() == "done":
                return End("done", notes=self.notes)
            return End("failed", self._reason(), self.notes)

    def send_signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def _reason(self) -> str:
        code = self.process.returncode
        if code < 0:
            how = f"ended by signal {-code}, {signal.strsignal(-code)}"
        else:
            how = f"exit code {code}" if code else f"exit code 0, but no {RunDir(self.job.directory).result}"
        return f"{_last_line(self.job.log, self.offset)[-300:] or 'it printed nothing'} ({how})"


class Processes:
    """The executor of this machine: `processes` at a time (default: one per core), or one in each of `places`."""

    def __init__(self, processes: int | None = None, places: Sequence[Mapping[str, str]] | None = None) -> None:
        self._cores = sorted(os.sched_getaffinity(0)) if places is None and hasattr(os, "sched_getaffinity") else []
        if places is not None or processes is None:
            processes = len(self._cores if places is None else places) or os.cpu_count() or 1
        self._places = places
        self._free = list(range(processes))

    def room(self) -> bool:
        return bool(self._free)

    def start(self, job: Job, number: int) -> _Child | End:
        log = _claim(job)
        if log is None:
            return End("elsewhere")
        with contextlib.ExitStack() as on_error:
            on_error.enter_context(log)
            if job.state() == "done":  # another sweep was faster
                return End("done")
            note = _clear(job)
            child = self._launch(job, number, log, (note,) if note else ())
            on_error.pop_all()
        return child

    def _launch(self, job: Job, number: int, log: IO[bytes], notes: tuple[str, ...]) -> _Child:
        words, slot = job.words(), self._free[0]
        when = time.strftime("%Y-%m-%d %H:%M:%S")
        lines = (*notes, f"{when}, attempt {number}: {shlex.join(words)}")
        log.write("".join(f"--- {line}\n" for line in lines).encode())
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ | ENVIRONMENT | (dict(self._places[slot]) if self._places else {}),
            start_new_session=True,  # a Ctrl-C reaches it through this process alone
            preexec_fn=_child_setup(self._cores[slot % len(self._cores)] if self._cores else None),
        )
        del self._free[0]
        return _Child(job, slot, process, log, log.tell(), self._free, notes)


class _Sweep:
    """The state of a sweep while it runs."""

    def __init__(self, jobs: Sequence[Job], executor: Executor, retries: int, console: "Console") -> None:
        self.jobs, self.executor, self.retries, self.console = jobs, executor, retries, console
        self.finished = {job.name for job in jobs if job.state() == "done"}
        self.waiting = deque(job for job in jobs if job.name not in self.finished)
        self.elsewhere: list[Job] = []
        self.running: list[Attempt] = []
        self.attempts: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.failed: dict[str, str] = {}
        self.stopping = False
        self.look_again = 0.0

    def run(self, view: View) -> Outcome:
        signals = Signals()
        with signals, view:
            try:
                while self.running or ((self.waiting or self.elsewhere) and not signals.requested):
                    self._obey(signals)
                    if not signals.requested:
                        self._start_jobs()
                    view.show(self._moment())
                    time.sleep(POLL)
                    self._reap()
                view.show(self._moment())
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
        if self.elsewhere and not self.waiting and time.monotonic() >= self.look_again:
            self.waiting.extend(self.elsewhere)
            self.elsewhere.clear()
            self.look_again = time.monotonic() + LOOK_AGAIN
        while self.waiting and self.executor.room():
            job = self.waiting.popleft()
            try:
                self._start(job)
            except OSError as error:
                self.failed[job.name] = f"{error.filename or job.log}: {error.strerror or error}"

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
        """Decides what becomes of a run after an attempt."""
        for note in end.notes:
            self._say(note)
        self.attempts[job.name] += end.how == "failed"
        self.lost[job.name] += end.how == "lost"
        if end.how == "done":
            self.finished.add(job.name)
        elif end.how == "elsewhere":
            self.elsewhere.append(job)
        elif self.stopping or (self.attempts[job.name] <= self.retries and self.lost[job.name] < LOST):
            self.waiting.append(job)
            if not self.stopping:
                self._say(f"{job.name} will be tried again: {end.reason}")
        else:
            self._give_up(job, f"{end.reason}, {self.attempts[job.name] + self.lost[job.name]} attempts")

    def _give_up(self, job: Job, reason: str) -> None:
        self.failed[job.name] = f"{reason}, log: {job.log}"
        with contextlib.suppress(OSError), open(job.log, "ab") as log:  # a full disk: it is named at the end anyway
            log.write(f"{FAILED}{reason}\n".encode())

    def _moment(self) -> Moment:
        running = tuple(attempt.job.name for attempt in self.running)
        return Moment(len(self.waiting), running, self.finished, self.failed, tuple(job.name for job in self.elsewhere))

    def _outcome(self) -> Outcome:
        names = [job.name for job in self.jobs]
        left = tuple(name for name in names if name not in self.finished and name not in self.failed)
        for name, reason in self.failed.items():
            self._say(f"failed: {name}: {reason}")
        if left:
            self._say(f"{len(left)} of {len(names)} runs are left; the same command goes on with them")
        return Outcome(tuple(name for name in names if name in self.finished), self.failed, left)

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError, SystemExit):  # the terminal went away, the sweep goes on
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _last_line(log: Path, offset: int = 0) -> str:
    """The last line in a log after `offset` that is not empty, or ""."""
    with open(log, "rb") as file:
        file.seek(max(offset, file.seek(0, os.SEEK_END) - 65536))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _claim(job: Job) -> IO[bytes] | None:
    """Opens and locks the run's log; None if another sweep or process works on the run."""
    job.log.parent.mkdir(parents=True, exist_ok=True)
    log = open(job.log, "ab", buffering=0)  # noqa: SIM115 (closed with the run's process)
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if job.directory.is_dir():
            run = RunDir(job.directory)
            run.lock()
            run.unlock()
    except (BlockingIOError, ConfigError):
        log.close()
        return None
    except BaseException:
        log.close()
        raise
    return log


def _clear(job: Job) -> str:
    """Makes room for a run that has to begin anew; returns what was done if it moved something.

    Raises:
        FileExistsError: what is there is no run, and is left alone.
    """
    path = job.directory
    if job.state() != "leftover":
        return ""
    if path.is_dir() and not any(_is_content(path, file) for file in path.rglob("*")):
        shutil.rmtree(path)
        return ""
    if not RunDir(path).config.is_file():
        raise FileExistsError(0, "this is no run directory, it has no config.yaml: move it out of the way", str(path))
    aside = path.parent / "aside"
    aside.mkdir(exist_ok=True)
    count = 1
    while (aside / f"{path.name}-{count}").exists():
        count += 1
    path.rename(aside / f"{path.name}-{count}")
    return f"{job.name} begins anew: it had no checkpoint; what it had is in {aside / path.name}-{count}"


def _is_content(run: Path, file: Path) -> bool:
    """Whether a file of a run is more than every run begins with: not empty, no setting, no half checkpoint."""
    parts = file.relative_to(run).parts
    setting = parts in ((".lock",), ("config.yaml",), (".config.yaml.tmp",))
    half = parts[0] == "checkpoints" and len(parts) > 1 and parts[1].startswith(".tmp-")
    return not (setting or half or file.is_dir() or file.stat().st_size == 0)


def _child_setup(core: int | None) -> Callable[[], None]:
    """What a child does before it becomes its command: binds its life to this process and itself to a core."""
    parent = os.getpid()

    def setup() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # Ray's processes block it; children inherit that
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # it died before the line above
                os._exit(1)
        if core is not None:
            os.sched_setaffinity(0, {core})

    return setup
