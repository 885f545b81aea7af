"""The processor: how many cores this process may use, and what they can do. What is computed how follows from it.

Light: the command lines read this before torch is imported.
"""

import os
import platform
import re
import sys
from functools import cache
from pathlib import Path
from typing import Literal

from experiment.values import ConfigError

BF16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""What Linux calls instructions for bfloat16: the first two on x86, the last on ARM."""
ALLOW = "REWARM_SLOW_BF16"
"""Environment variable that lets bf16 run on a processor without such instructions; the tests set it."""
DEVICES = r"cpu|cuda(:\d{1,3})?"
"""What --device may be."""


def available_cores() -> int:
    """Cores that this process may run on, where the system tells (Linux), else all of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The name of the processor."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


@cache
def vendor() -> str:
    """The maker of an x86 processor, as it names itself; empty elsewhere, or where the system does not tell."""
    return _cpuinfo("vendor_id")


@cache
def instruction_sets() -> frozenset[str]:
    """The instruction sets that torch may use here, in Linux's names; empty where the system does not tell them.

    ATEN_CPU_CAPABILITY, torch's own variable, may keep it from AVX-512.
    """
    found = frozenset((_cpuinfo("flags") or _cpuinfo("Features")).split())
    if os.environ.get("ATEN_CPU_CAPABILITY") in ("avx2", "default"):
        return frozenset(name for name in found if not name.startswith(("avx512", "amx")))
    return found


def check_device(name: str) -> None:
    """Raises ConfigError for a kind of device that the code was not written for.

    MPS has no float64, in which priorities and the studies' losses are summed; nobody has tried XPU.
    """
    if not re.fullmatch(DEVICES, name):
        raise ConfigError(f"--device {name} cannot be used: it has to be cpu, cuda or cuda:N")


def best_precision(device: str) -> Literal["fp32", "bf16"]:
    """ "bf16" where the device has instructions for it, else "fp32"."""
    return "bf16" if device != "cpu" or instruction_sets() & BF16 else "fp32"


def check_precision(precision: str, device: str, resumed: bool = False) -> None:
    """Refuse bf16 on a processor without instructions for it; a run that is resumed goes on, with a warning.

    Raises ConfigError. A system that does not tell what its processor can do is trusted.
    """
    here = instruction_sets()
    if precision != "bf16" or device != "cpu" or not here or here & BF16 or ALLOW in os.environ:
        return
    lack = f"{processor()} has no instructions for bfloat16 (avx512_bf16, amx_bf16)"
    slow = "a matrix product in bf16 takes a hundred times as long as in fp32"
    if resumed:
        print(f"warning: {lack}: {slow}; the run goes on as it began", file=sys.stderr)
        return
    raise ConfigError(f"--precision bf16: {lack}, and {slow}: give --precision fp32, or auto")


def _cpuinfo(key: str) -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(key):
                return line.partition(":")[2].strip()
    return ""
