"""How many processors this process may use, and which they are."""

import os
import platform
import sys
from pathlib import Path


def available_cores() -> int:
    """Cores that this process may run on, if the system reports them (Linux), otherwise all cores of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The name of the processor."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
