"""One thread for each worker of the tests, which already use every core (read when torch is imported); and floats that
underflow gradually, as Python's do, and the directory of the start, whatever a test before has set."""

import os
import sys

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["REWARM_SLOW_BF16"] = "1"  # what bf16 computes is tested on every processor


@pytest.fixture(autouse=True)
def gradual_underflow():
    """Runs flush tiny numbers to zero (`determinism.configure`); the next test starts without."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture(autouse=True)
def same_directory():
    """A node of Ray changes into the sweep's directory; the next test starts where this one did."""
    before = os.getcwd()
    yield
    os.chdir(before)
