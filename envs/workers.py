"""Where emulators play: in this process, or in one of their own, at the same time as this one works.

A call is sent, and its result received later. ale-py holds Python's lock while it plays, so threads would not do.
"""

import contextlib
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from envs.errors import WorkerLost

QUIET = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
"""What ends the process that owns a worker in order; the worker is needed until then."""

START = "import sys; sys.path.insert(0, sys.argv[1]); from envs.workers import serve; serve(int(sys.argv[2]))"
"""What a worker's Python runs, with this folder and a socket. PYTHONPATH would split a name with a colon in it."""


class Here:
    """An object of this process: a call is made when its result is received."""

    def __init__(self, kind: Callable[..., Any], *arguments: Any) -> None:
        self._object = kind(*arguments)

    def send(self, method: str, *arguments: Any) -> None:
        self._call = getattr(self._object, method), arguments

    def recv(self) -> Any:
        method, arguments = self._call
        return method(*arguments)

    def close(self) -> None:
        pass


class Worker:
    """The same in a new process, which makes a call as soon as it is sent, and ends when this process does.

    It is a fresh Python that imports only what it plays, not this one's main module. WorkerLost if it is gone.
    """

    def __init__(self, kind: Callable[..., Any], *arguments: Any) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-P", "-c", START, str(Path(__file__).parents[1]), str(theirs.fileno())]
        before = signal.pthread_sigmask(signal.SIG_BLOCK, QUIET)  # a child inherits what is blocked
        try:
            with theirs:
                self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._pipe = Connection(ours.detach())
        self.close = weakref.finalize(self, _end, self._process, self._pipe)
        self.send(kind, arguments)

    def send(self, *call: Any) -> None:
        with self._lost():
            self._pipe.send(call)

    def recv(self) -> Any:
        with self._lost():
            return self._pipe.recv()

    @contextlib.contextmanager
    def _lost(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError):
            self.close()
            code = self._process.returncode
            how = f"signal {-code}, {signal.strsignal(-code)}" if code < 0 else f"exit code {code}"
            raise WorkerLost(f"a process that plays the games has ended ({how})") from None


def _end(process: subprocess.Popen[bytes], pipe: Connection) -> None:
    pipe.close()  # the worker reads that it is not needed any more
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def serve(descriptor: int) -> None:
    """Makes the calls that come through a socket, until its other end is closed."""
    pipe = Connection(descriptor)
    with contextlib.suppress(EOFError, OSError):
        kind, arguments = pipe.recv()
        served = Here(kind, *arguments)
        while True:
            served.send(*pipe.recv())
            pipe.send(served.recv())
