"""How many processors this process may use."""

import os


def available_cores() -> int:
    """Cores that this process may run on, where the system tells (Linux), else all of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
