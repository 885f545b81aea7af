"""Agents, methods and studies on an accelerator that is pretended, in processes of their own.

torch can have one such device, for the whole process and for good, and none once a backward pass has been made.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "pretend"
CASES = sorted(map(str, FOLDER.glob("*_cases.py")))


@pytest.mark.parametrize("process", range(3))
def test_cases_on_the_pretend_device(process):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "--tb=short", *CASES[process::3]]
    done = subprocess.run(command, cwd=FOLDER.parents[1], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2_000:]
