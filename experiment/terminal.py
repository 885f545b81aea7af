"""Echo and signals of the terminal while a program runs on it."""

from __future__ import annotations

import contextlib
import os
import signal
import termios
from collections.abc import Iterator
from typing import IO

ECHO = 3
"""Where `termios.tcgetattr` has the flags of which ECHO is one."""


@contextlib.contextmanager
def without_echo(file: IO[str]) -> Iterator[None]:
    """While it is entered, the terminal of `file` does not echo typed keys.

    A live view moves the cursor up by the lines that it has drawn. Typed keys, and the ^C of Ctrl-C, can move the
    cursor down; the next drawing would then leave a part of the last one above it. Does nothing if `file` is no
    terminal, or if another process is in its foreground: changing it would stop this process.
    """
    try:
        descriptor = file.fileno()
        before = termios.tcgetattr(descriptor)
        if not _in_foreground(descriptor):
            raise OSError("another process has the terminal")
        silent = before.copy()
        silent[ECHO] &= ~termios.ECHO
        termios.tcsetattr(descriptor, termios.TCSADRAIN, silent)
    except (OSError, ValueError, AttributeError, termios.error):
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(OSError, ValueError, termios.error):
            if _in_foreground(descriptor):
                termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _in_foreground(descriptor: int) -> bool:
    return os.tcgetpgrp(descriptor) == os.getpgrp()


@contextlib.contextmanager
def children_outlive_interrupt() -> Iterator[None]:
    """While it is entered, a Ctrl-C does not end the processes that this thread starts, a compiler say.

    The terminal sends SIGINT to all of them. This thread blocks it, and they inherit that; another thread takes the
    signal meanwhile, or it waits.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
