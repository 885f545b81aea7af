"""Ending a run in order when it is told to stop, and not ending it because nobody listens any more."""

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

INTERRUPTED = 130  # the shell's code for a program that SIGINT ended


class Interrupt:
    """While it is entered, SIGINT (Ctrl-C) and SIGTERM (a cluster's preemption) only set `requested`.

    A second SIGINT raises KeyboardInterrupt. SIGHUP, the terminal that goes away, is ignored. The handlers from before
    are restored on exit. Outside the main thread, where Python allows no handlers, it does nothing.
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
    """A text stream whose reader may go away, or whose disk may fill: what is written then is lost, and no error."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes, or does not."""
        try:
            return self._stream.write(text)
        except (OSError, ValueError) as error:
            self._lost(error)
            return len(text)

    def flush(self) -> None:
        """Flushes, or does not."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._lost(error)

    def _lost(self, error: Exception) -> None:
        """Sends the rest nowhere, what is still buffered too: Python would fail on it when it ends."""
        if getattr(error, "errno", None) != errno.ENOSPC:
            with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def outlive_terminal() -> Iterator[None]:
    """While it is entered, printing never fails: terminals and readers of pipes may go away, disks may fill."""
    out, err = _Lasting(sys.stdout), _Lasting(sys.stderr)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            yield
        finally:
            out.flush()
            err.flush()


@contextlib.contextmanager
def terminal_manners() -> Iterator[None]:
    """Warnings, a worker that is lost and a Ctrl-C where nothing is there to be saved are one line each.

    A terminal that goes away ends nothing.
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
    print("warning:", " ".join(str(message).split()), file=sys.stderr)
