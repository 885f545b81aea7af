"""The GPUs of a sweep: how many runs fit on each, and which GPU each process sees."""

from __future__ import annotations

import math
import os
import subprocess

from experiment.config import ConfigError
from experiment.processor import available_cores
from experiment.values import counted

GIB = 2**30
FIXED = 1.5 * GIB
"""Bytes that any run takes: CUDA's context and libraries, compiled code, networks and optimiser."""


def free_memory() -> dict[str, float]:
    """Free bytes of each GPU that this process may use, by its id; NaN if nvidia-smi does not report it.

    ConfigError without a GPU, or without nvidia-smi.
    """
    query = ["nvidia-smi", "--query-gpu=index,uuid,memory.free", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        raise ConfigError("--device cuda: no GPU was found, nvidia-smi does not answer") from None
    rows = [[cell.strip() for cell in line.split(",")] for line in answer.splitlines() if line.count(",") == 2]
    free = {name: _bytes(mib) for index, uuid, mib in rows for name in (index, uuid)}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    wanted = [index for index, _, _ in rows] if visible is None else [name.strip() for name in visible.split(",")]
    found = {name: free[name] for name in wanted if name in free}
    if not found:
        raise ConfigError(f"--device cuda: no GPU is visible (CUDA_VISIBLE_DEVICES is {visible!r})")
    return found


def _bytes(mib: str) -> float:
    """A number of nvidia-smi; NaN for [N/A], as of GPUs that share the machine's memory or are split."""
    try:
        return float(mib) * 2**20
    except ValueError:
        return math.nan


def gpu_slots(
    device: str, need: float, per_gpu: int | None, cores: int | None = None
) -> tuple[list[dict[str, str]], str]:
    """The environment variables of each process, GPUs in turn, and a line that says how many fit and why.

    `need`: bytes of a GPU's memory that a run takes. Without `per_gpu` as many go on
    a GPU as 90% of the least free memory holds, and no more than there are cores for them.
    """
    memory = free_memory()
    if device != "cuda":
        number = int(device.partition(":")[2])
        if number >= len(memory):
            raise ConfigError(f"--device {device}: there are {len(memory)} GPUs, counted from 0")
        memory = dict([list(memory.items())[number]])
    least = min(memory.values())
    cores = cores or available_cores()
    unknown = [name for name, size in memory.items() if math.isnan(size)]
    if unknown and per_gpu is None:
        raise ConfigError(f"--device {device}: the free memory of GPU {unknown[0]} is unknown: give --per-gpu")
    there = "how much is free is unknown" if unknown else f"{least / GIB:.1f} GiB are free"
    said = f"a run takes about {need / GIB:.1f} GiB of a GPU, {there}"
    if per_gpu is None:
        fit = int(0.9 * least / need)
        if fit < 1:
            raise ConfigError(f"--device {device}: {said}: make runs smaller, or give --per-gpu 1")
        per_gpu = max(1, min(fit, -(-cores // len(memory))))
        said += f" and there are {cores} cores"
    line = f"{counted(len(memory), 'GPU')}, {counted(per_gpu, 'run')} on each: {said}"
    return [{"CUDA_VISIBLE_DEVICES": name} for _ in range(per_gpu) for name in memory], line
