"""Seeds and threads, which decide a run's bits; and a record of the software and machine."""

import hashlib
import platform
import random
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiment.processor import check_device, processor
from experiment.values import ConfigError


def configure(threads: int, seed: int) -> None:
    """Sets torch's threads and seeds the global generators; call it before torch computes anything.

    On CUDA, float32 is then float32 (no TF32), and cuDNN does not choose its kernels by the clock. On a CPU, numbers
    too small for float32's full precision (below 1.2e-38) are taken as zero.
    """
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    child = seeds(seed, "python", "numpy", "torch")
    torch.set_num_threads(threads)
    # Adam's averages of gradients that have become zero decay into such numbers, each of which costs a hundred cycles:
    # a quarter of DER's update. Threads take the mode over from the one that starts them.
    np.finfo(np.float32), np.finfo(np.float64)  # kept by NumPy, which warns where it finds none of those numbers
    torch.set_flush_denormal(True)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    random.seed(child["python"])
    np.random.seed(child["numpy"])
    torch.manual_seed(child["torch"])


def device_of(name: str) -> torch.device:
    """The device of that name. Raises ConfigError if this machine has none, or the project does not run on its kind."""
    check_device(name)
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {name} cannot be used: {str(error).splitlines()[0]}") from None
    return device


def seeds(seed: int, *names: str) -> dict[str, int]:
    """Derives an independent seed in 0..2³¹−1 for each name, which depends on `seed` and that name alone."""
    if seed < 0:
        raise ValueError(f"a seed is a non-negative integer, got {seed}")
    return {name: _child(seed, name) for name in names}


def _child(seed: int, name: str) -> int:
    key = np.frombuffer(hashlib.sha256(name.encode()).digest(), dtype=np.uint32)
    sequence = np.random.SeedSequence(seed, spawn_key=tuple(int(word) for word in key))
    return int(sequence.generate_state(1)[0] >> 1)


def parameter_hash(module: torch.nn.Module) -> str:
    """Returns the sha256 of a module's state_dict: names, types, shapes and bits of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def environment() -> dict[str, Any]:
    """Describes the software and the machine, for a run's result."""
    return {
        "rewarm": _version("rewarm"),
        "commit": _commit(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": processor(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
    }


def made_by(compiled: object) -> dict[str, str]:
    """The software, the machine and its settings, which decide a run's bits together with the learning settings."""
    here = environment()
    names = ("rewarm", "commit", "torch", "numpy", "cpu", "vectors", "gpu", "threads")
    return {name: str(here[name]) for name in names} | {"compile": str(compiled)}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the source tree, with "+" when a tracked file differs from it; None outside a git checkout."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty=+"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def rng_state() -> dict[str, Any]:
    """Returns the state of the global generators of Python, NumPy and torch (CPU and CUDA), fit for a checkpoint."""
    version, words, gauss = random.getstate()
    numpy: Any = np.random.get_state(legacy=False)
    numpy["state"]["key"] = torch.from_numpy(numpy["state"]["key"].astype(np.int64))
    return {
        "python": (version, words, gauss),
        "numpy": numpy,
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Restores the global generators from `rng_state`; CUDA's only if the number of devices is the same."""
    random.setstate(state["python"])
    key = state["numpy"]["state"]["key"].numpy().astype(np.uint32)
    np.random.set_state(state["numpy"] | {"state": state["numpy"]["state"] | {"key": key}})
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
