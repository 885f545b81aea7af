"""Streams that are closed before a command begins, and words that a stream cannot show."""

import io
import os
import subprocess
import sys

import pytest

from experiment.interrupt import outlive_terminal

NOISE = """
import os, sys
from experiment.interrupt import outlive_terminal

with outlive_terminal():
    with open(sys.argv[1], "wb", buffering=0) as file:
        os.write(1, b"noise of a library")
        os.write(2, b"noise of a library")
        os.system("echo noise of a child; echo noise of a child >&2")
        print("words"), print("words", file=sys.stderr)
        file.write(b"rows")
"""


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-", "<&- 2>&-"])
def test_nothing_that_is_printed_reaches_a_file_that_is_opened_later(closed, tmp_path):
    words = [sys.executable, "-c", NOISE, str(tmp_path / "file")]
    code = subprocess.run(["bash", "-c", f'exec "$@" {closed}', "-", *words], capture_output=True).returncode
    assert code == 0
    assert (tmp_path / "file").read_bytes() == b"rows"


def test_an_error_does_not_go_to_stdout_where_stderr_is_closed(tmp_path):
    words = [sys.executable, "-m", "agents.evaluate", str(tmp_path / "no-run")]
    done = subprocess.run(["bash", "-c", 'exec "$@" 2>&-', "-", *words], capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (2, b"", b"")


def test_letters_that_a_stream_has_not_are_spelt_out_and_the_rest_still_arrives(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    with outlive_terminal():
        print("10 × 10 in", os.fsdecode(b"run/\xff"))
        print("the end")
    assert written.getvalue() == b"10 \\xd7 10 in run/\\udcff\nthe end\n"
