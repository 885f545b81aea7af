"""Ends a run in order when a signal asks it to stop, and keeps it alive when its output streams are lost."""

import contextlib
import errno
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, TextIO

from experiment.values import one_line

INTERRUPTED = 130  # the shell's code for a program that SIGINT ended


class Interrupt:
    """While it is entered, SIGINT (Ctrl-C) and SIGTERM (a cluster's preemption) only set `requested`.

    A second SIGINT raises KeyboardInterrupt. SIGHUP (the terminal closes) is ignored. The previous handlers are
    restored on exit. Outside the main thread, where Python allows no handlers, this does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[signal.Signals, Any] = {}
        self._interrupted = False

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._request)
            self._before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        return self

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if number == signal.SIGINT:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before.clear()


class _Lasting:
    """A text stream whose reader may go away, or whose disk may fill: output is then lost without an error."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes, and ignores an error; letters that the stream cannot show are spelt out."""
        try:
            try:
                return self._stream.write(text)
            except UnicodeEncodeError:  # an ASCII terminal, or a folder whose name is not UTF-8
                encoding = self._stream.encoding
                return self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except (OSError, ValueError) as error:
            self._lost(error)
            return len(text)

    def flush(self) -> None:
        """Flushes, and ignores an error."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._lost(error)

    def close_quietly(self) -> None:
        """Flushes for the last time, and drops what a full disk refuses: Python would fail on it at its exit."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._redirect()

    def _lost(self, error: Exception) -> None:
        """Discards the rest, the buffer too, unless the disk is full: it may have room again later."""
        if getattr(error, "errno", None) != errno.ENOSPC:
            self._redirect()

    def _redirect(self) -> None:
        with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def outlive_terminal() -> Iterator[None]:
    """While it is entered, printing never fails: streams may be closed, readers of pipes go away, disks fill."""
    _open_missing()
    out, err = _Lasting(sys.stdout), _Lasting(sys.stderr)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            yield
        finally:
            out.close_quietly()
            err.close_quietly()


def _open_missing() -> None:
    """Opens the null device for each standard stream that was closed before Python began.

    Otherwise a file that is opened later, such as metrics.jsonl, would get the stream's number and a library's output.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
    for name in ("stdin", "stdout", "stderr"):  # a file of its own each: the number may be another file's by now
        if getattr(sys, name) is None:
            stream = open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8")  # noqa: SIM115 (it stays)
            setattr(sys, name, stream)


@contextlib.contextmanager
def cli_session() -> Iterator[None]:
    """Decorates the `main` of every command: `@cli_session()`.

    Warnings, a lost worker, and a Ctrl-C before there is anything to save are shown as one line. A lost stream does not
    end the command.
    """
    with outlive_terminal(), warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            yield
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None
        except ChildProcessError as error:
            print("error:", error, file=sys.stderr)
            raise SystemExit(1) from None


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print("warning:", one_line(message), file=sys.stderr)
