"""The live view while its caller is busy, and what the terminal does meanwhile."""

import contextlib
import io
import os
import pty
import subprocess
import sys
import termios
import threading
import time

import pytest
from rich.console import Console

from experiment import terminal
from experiment.progress import Progress


def plain_console() -> Console:
    return Console(file=io.StringIO(), force_terminal=False)


def terminal_console(width: int = 80) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=24, _environ={"TERM": "xterm"})


def screen_of(progress: Progress, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(progress._live.get_renderable())
    return console.file.getvalue().splitlines()


def soon(condition) -> bool:
    end = time.monotonic() + 20
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def test_the_clock_goes_on_while_the_caller_is_busy():
    """A thread draws, from the metrics of the last time: those are not asked for again."""
    now, asked = 0.0, []

    def metrics():
        asked.append(threading.current_thread())
        return {"loss": "0.5"}

    with Progress(100, "steps", terminal_console(), pace=lambda: "time left unknown", clock=lambda: now) as progress:
        progress.update(5, metrics)
        assert screen_of(progress)[1].strip() == "0:00:00 elapsed, time left unknown"
        progress.busy("compiling")
        now = 42.0
        assert soon(lambda: screen_of(progress)[1].strip() == "compiling, 0:00:42 elapsed, time left unknown")
        assert "loss 0.5" in screen_of(progress)[2]
        progress.busy("")
        assert asked == [threading.main_thread()]
    assert "compiling" not in "\n".join(screen_of(progress))
    assert not any(thread.name == "progress" for thread in threading.enumerate())


def test_the_first_view_does_not_wait_for_the_first_update():
    now = 0.0
    with Progress(100, "steps", terminal_console(), clock=lambda: now) as progress:
        now = 3.0
        assert soon(lambda: "0% 0/100 steps" in screen_of(progress)[0])


def test_time_in_which_nothing_could_be_done_is_not_in_the_rate():
    now, console = 0.0, plain_console()
    with Progress(1000, "steps", console, interval=0.0, clock=lambda: now) as progress:
        progress.busy("compiling")
        now = 50.0
        progress.busy("")
        now = 60.0
        progress.update(100)
    assert "0:01:00 elapsed, 0:01:30 left, 10.0/s" in console.file.getvalue()


def test_a_line_that_is_said_stays():
    for console in (plain_console(), terminal_console()):
        with Progress(10, "steps", console) as progress:
            progress.update(1)
            progress.say("first estimate: [bold] 1:00:00")
        assert "first estimate: [bold] 1:00:00\n" in console.file.getvalue().replace("\r", "")


def test_words_that_do_not_fit_one_line_are_wrapped():
    pace = "about 0:12:00 left, at most 12:30:00, 123/s"
    with Progress(10, "steps", terminal_console(40), pace=lambda: pace) as progress:
        progress.update(1)
    assert " ".join(line.strip() for line in screen_of(progress, 40)[1:]).strip() == f"0:00:00 elapsed, {pace}"


TYPED = """
import sys, time
from experiment.progress import Progress
with Progress(10, "steps") as progress:
    for step in range(1, 5):
        progress.update(step)
        print("ready", file=sys.stderr, flush=True)
        sys.stdin.readline()
"""


def test_what_is_typed_does_not_show_in_the_live_view():
    """The ^C of Ctrl-C and new lines move the cursor, and the bar would be drawn a second time below itself."""
    child, screen = pty.fork()
    if child == 0:
        os.environ["TERM"] = "xterm"
        os.execv(sys.executable, [sys.executable, "-c", TYPED])
    shown = b""
    for count in range(1, 5):
        while shown.count(b"ready") < count:
            shown += os.read(screen, 4096)
        os.write(screen, b"typed\n")
    with contextlib.suppress(OSError):  # the end of a terminal whose process is gone
        while part := os.read(screen, 4096):
            shown += part
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert b"steps" in shown
    assert b"typed" not in shown


def test_the_terminal_shows_again_what_is_typed():
    reader, writer = pty.openpty()
    before = termios.tcgetattr(writer)
    with pytest.MonkeyPatch.context() as patch, os.fdopen(writer, "w") as file:
        patch.setattr(terminal, "_in_foreground", lambda _: True)
        with terminal.without_echo(file):
            assert not termios.tcgetattr(writer)[terminal.ECHO] & termios.ECHO
        assert termios.tcgetattr(writer) == before
        patch.setattr(terminal, "_in_foreground", lambda _: False)
        with terminal.without_echo(file):
            assert termios.tcgetattr(writer) == before
    os.close(reader)
    with terminal.without_echo(io.StringIO()):
        pass


def test_a_ctrl_c_does_not_end_a_compiler_that_runs():
    """SIGINT to the group, as the terminal sends it."""
    code = """
import os, signal, subprocess, sys
from experiment.interrupt import Interrupt
from experiment.terminal import children_outlive_interrupt
with Interrupt() as interrupt:
    with children_outlive_interrupt():
        sleeper = "import time; print('up', flush=True); time.sleep(1)"
        child = subprocess.Popen([sys.executable, "-c", sleeper], stdout=-1)
        child.stdout.readline()
        os.killpg(os.getpgrp(), signal.SIGINT)
        code = child.wait()
    print(code, interrupt.requested)
"""
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, start_new_session=True, timeout=60)
    assert (done.stdout, done.stderr) == ("0 True\n", "")
