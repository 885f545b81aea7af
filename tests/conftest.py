"""One thread for each worker of the tests, which already use every core; read when torch is imported."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
