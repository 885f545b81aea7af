"""Agents, methods and studies on an accelerator that is pretended, each file of cases in a process of its own.

torch can have one such device, for the whole process and for good, and none once a backward pass has been made.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "pretend"


@pytest.mark.parametrize("cases", sorted(path.name for path in FOLDER.glob("*_cases.py")))
def test_cases_on_the_pretend_device(cases):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "--tb=short", str(FOLDER / cases)]
    done = subprocess.run(command, cwd=FOLDER.parents[1], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2_000:]
