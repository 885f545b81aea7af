"""What the terminal sends and shows while a program runs on it."""

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
    """While it is entered, the terminal of `file` does not show what is typed.

    A live view moves the cursor up by the lines that it has drawn. What is typed, the ^C of Ctrl-C too, can move the
    cursor down, and the next drawing would leave a part of the last one above it. Nothing is done where `file` is no
    terminal, or one of another foreground process: to change it would stop this one.
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
