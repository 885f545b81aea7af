"""Where the runs of a sweep go on GPUs: how many fit together, and which GPU each process sees."""

from __future__ import annotations

import math
import os
import subprocess
from collections.abc import Callable, Iterable, Mapping

from agents.config import DQNConfig
from experiment.config import ConfigError
from experiment.processor import available_cores
from experiment.values import counted

GIB = 2**30
FRAME = 84 * 84
FIXED = 1.5 * GIB
"""CUDA's context and libraries, compiled code, networks and optimiser of one run."""
PER_TRANSITION = 2**20
"""Activations of a transition in a block, both passes."""
Free = Callable[[], Mapping[str, float]]


def free_memory() -> dict[str, float]:
    """Free bytes of each GPU that this process may use, by its id; NaN where nvidia-smi does not tell.

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
    """NaN for [N/A], which GPUs say that share the memory of their machine or are split."""
    try:
        return float(mib) * 2**20
    except ValueError:
        return math.nan


def need(config: DQNConfig) -> float:
    """Bytes of GPU memory that one run takes, about: its replay's frames, its blocks, and what each process takes."""
    replay = min(config.replay_capacity, config.budget) * FRAME * 1.05
    return FIXED + replay + config.block * config.batch_size * PER_TRANSITION


def places(
    device: str, configs: Iterable[DQNConfig], per_gpu: int | None, free: Free = free_memory, cores: int | None = None
) -> tuple[list[dict[str, str]], str]:
    """The environment variables of each process, GPUs in turn, and a line that says how many fit and why.

    Without `per_gpu` as many as 90% of the least free memory holds, and no more than there are cores for them.
    """
    memory = dict(free())
    if device != "cuda":
        number = int(device.partition(":")[2])
        if number >= len(memory):
            raise ConfigError(f"--device {device}: there are {len(memory)} GPUs, counted from 0")
        memory = dict([list(memory.items())[number]])
    each, least = max(map(need, configs)), min(memory.values())
    cores = cores or available_cores()
    unknown = [name for name, size in memory.items() if math.isnan(size)]
    if unknown and per_gpu is None:
        raise ConfigError(f"--device {device}: nvidia-smi does not tell what GPU {unknown[0]} has free: say --per-gpu")
    there = "how much is free is unknown" if unknown else f"{least / GIB:.1f} GiB are free"
    said = f"a run takes about {each / GIB:.1f} GiB of a GPU, {there}"
    if per_gpu is None:
        fit = int(0.9 * least / each)
        if fit < 1:
            raise ConfigError(f"--device {device}: {said}: a smaller --replay-capacity helps, or say --per-gpu 1")
        per_gpu = max(1, min(fit, -(-cores // len(memory))))
        said += f" and there are {cores} cores"
    line = f"{counted(len(memory), 'GPU')}, {counted(per_gpu, 'run')} on each: {said}"
    return [{"CUDA_VISIBLE_DEVICES": name} for _ in range(per_gpu) for name in memory], line
