"""The processes of this machine that carry out a sweep's runs, each on its share of the cores."""

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from experiment.command_line import shell
from experiment.storage.run_dir import RunDir
from experiment.sweeps.job import End, Job, last_line
from experiment.values import ConfigError

ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"),
    "PYTHONUNBUFFERED": "1",  # so that the log of a run that is killed has its last line
}
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


@dataclass
class _Child:
    """A process that works on a job; the logs of its runs are locked as long as it, or what it has started, has them
    open."""

    job: Job
    slot: int
    process: subprocess.Popen[bytes]
    logs: contextlib.ExitStack
    """Closes them."""
    offset: int
    """Where in the first log its own lines begin."""
    free: list[int]
    """Gets the slot back."""
    notes: tuple[str, ...]

    def end(self) -> End | None:
        if self.process.poll() is None:
            return None
        self.kill()  # what it has started and left behind
        self.free.append(self.slot)
        with self.logs:
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
            how = f"exit code {code}" if code else f"exit code 0, but no {RunDir(self.job.left()[0].directory).result}"
        return f"{last_line(self.job.log, self.offset)[-300:] or 'it printed nothing'} ({how})"


class Processes:
    """The executor of this machine: `processes` at a time (default: one per core), or one in each of `slots`.

    Each process keeps to its share of the cores, which is one where there are as many processes.
    """

    def __init__(self, processes: int | None = None, slots: Sequence[Mapping[str, str]] | None = None) -> None:
        self._cores = sorted(os.sched_getaffinity(0)) if slots is None and hasattr(os, "sched_getaffinity") else []
        if slots is not None or processes is None:
            processes = len(self._cores if slots is None else slots) or os.cpu_count() or 1
        self._slots = slots
        self._processes = processes
        self._free = list(range(processes))

    def room(self) -> bool:
        return bool(self._free)

    def start(self, job: Job, number: int) -> _Child | End:
        with contextlib.ExitStack() as files:
            logs = _claim(job, files)
            if not logs:
                return End("elsewhere")
            state = job.state()
            if state == "done":  # another sweep was faster
                return End("done")
            cleared = [_clear(run) for run in job.runs] if state == "leftover" else []
            return self._launch(job, number, logs, tuple(filter(None, cleared)), files)

    def _launch(
        self, job: Job, number: int, logs: Sequence[IO[bytes]], notes: tuple[str, ...], files: contextlib.ExitStack
    ) -> _Child:
        argv, slot = job.argv(), self._free[0]
        log, *others = logs
        when = time.strftime("%Y-%m-%d %H:%M:%S")
        for each in others:
            _write(each, f"{when}, attempt {number}: in a fleet, which writes into {job.log}")
        _write(log, *notes, f"{when}, attempt {number}: {shell(*argv)}")
        offset = log.tell()  # the child's first lines move it
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ | ENVIRONMENT | (dict(self._slots[slot]) if self._slots else {}),
            pass_fds=[each.fileno() for each in others],  # so that it keeps them locked
            start_new_session=True,  # a Ctrl-C reaches it through this process alone
            preexec_fn=child_setup(self._share(slot)),
        )
        del self._free[0]
        return _Child(job, slot, process, files.pop_all(), offset, self._free, notes)

    def _share(self, slot: int) -> list[int]:
        if not self._cores:
            return []
        return self._cores[slot :: self._processes] or [self._cores[slot % len(self._cores)]]


def _write(log: IO[bytes], *lines: str) -> None:
    log.write("".join(f"--- {line}\n" for line in lines).encode(errors="backslashreplace"))


def _claim(job: Job, files: contextlib.ExitStack) -> list[IO[bytes]]:
    """Opens and locks the logs of a job's runs; none if another sweep or process works on one. `files` closes them."""
    logs: list[IO[bytes]] = []
    for each in job.runs:
        each.log.parent.mkdir(parents=True, exist_ok=True)
        logs.append(files.enter_context(each.log.open("ab", buffering=0)))
        try:
            _lock(logs[-1])
            if each.directory.is_dir():
                run = RunDir(each.directory)
                run.lock()
                run.unlock()
        except (BlockingIOError, ConfigError):
            return []
    return logs


def _lock(log: IO[bytes]) -> None:
    """Locks a log; BlockingIOError if another has it for longer than it takes to look whether it is locked."""
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(0.002)
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _clear(job: Job) -> str:
    """Makes room for a run that has to begin again; returns what was done if it moved something.

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
    return f"{job.name} begins again: it had no checkpoint; what it had is in {aside / path.name}-{count}"


def _is_content(run: Path, file: Path) -> bool:
    """Whether a file of a run holds measurements: not empty, no setting, no incomplete checkpoint."""
    parts = file.relative_to(run).parts
    setting = parts in ((".lock",), ("config.yaml",), (".config.yaml.tmp",), ("fleet.json",))
    half = parts[0] == "checkpoints" and len(parts) > 1 and parts[1].startswith(".tmp-")
    return not (setting or half or file.is_dir() or file.stat().st_size == 0)


def child_setup(cores: Collection[int] = ()) -> Callable[[], None]:
    """What a child does before it becomes its command: binds its life to this process and itself to cores, if any."""
    parent = os.getpid()

    def setup() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # Ray's processes block it; children inherit that
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # it died before the line above
                os._exit(1)
        if cores:
            os.sched_setaffinity(0, cores)

    return setup


@contextlib.contextmanager
def exit_on_signals() -> Iterator[None]:
    """While it is entered, SIGTERM and SIGHUP raise SystemExit, so that temporary files are removed first.

    A signal that is ignored (nohup) or handled stays so. Outside the main thread this does nothing.
    """

    def stop(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)  # the shell's code for a program that a signal ended

    here = threading.current_thread() is threading.main_thread()
    numbers = [each for each in (signal.SIGTERM, signal.SIGHUP) if here and signal.getsignal(each) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
