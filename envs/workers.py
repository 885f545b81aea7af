"""Players of emulators: in this process, or in another one, which plays while this process works.

A call is sent, and its result is received later. ale-py holds Python's lock while it plays, so threads do not help.
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
"""Signals that end the owner of a worker in order. The worker blocks them: its owner still needs it."""

START = "import sys; sys.path.insert(0, sys.argv[1]); from envs.workers import serve; serve(int(sys.argv[2]))"
"""The program of a worker, given this folder and a socket. PYTHONPATH would split a folder name at a colon."""


class Here:
    """A player in this process: a call runs when its result is received."""

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
    """A player in a new process, which runs a call as soon as it is sent, and ends when this process does.

    The process is a fresh Python that imports only what it plays, not this one's main module. Raises WorkerLost if the
    process has ended.
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
