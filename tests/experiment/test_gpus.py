"""The GPUs of a sweep: which there are, how many runs fit on each, and what is said where that is not known."""

import subprocess

import pytest

from experiment.sweeps import gpus
from experiment.sweeps.gpus import free_memory, gpu_slots
from experiment.values import ConfigError


def test_runs_share_gpus_by_what_fits_their_memory(monkeypatch):
    each = 2.3e9
    free = {"0": 40 * each, "GPU-b": 3.4 * each}
    monkeypatch.setattr(gpus, "free_memory", lambda: free)
    found, said = gpu_slots("cuda", each, None, cores=64)
    assert found == [{"CUDA_VISIBLE_DEVICES": name} for _ in range(3) for name in ("0", "GPU-b")]
    assert said.startswith("2 GPUs, 3 runs on each: a run takes about ")
    assert len(gpu_slots("cuda", each, None, cores=3)[0]) == 4
    assert gpu_slots("cuda:1", each, 2)[0] == [{"CUDA_VISIBLE_DEVICES": "GPU-b"}] * 2
    with pytest.raises(ConfigError, match="there are 2 GPUs, counted from 0"):
        gpu_slots("cuda:2", each, None)
    free = {"0": each}
    with pytest.raises(ConfigError, match=r"2\.1 GiB are free: make runs smaller, or give --per-gpu 1$"):
        gpu_slots("cuda", each, None)


def test_the_gpus_that_may_be_used_are_asked_of_nvidia_smi(monkeypatch):
    answer = subprocess.CompletedProcess([], 0, stdout="0, GPU-a, 1024\n1, GPU-b, 2048\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert free_memory() == {"0": 2**30, "1": 2**31}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-b")
    assert free_memory() == {"GPU-b": 2**31}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ConfigError, match="no GPU is visible"):
        free_memory()


def test_a_gpu_that_does_not_tell_its_memory_needs_per_gpu(monkeypatch):
    answer = subprocess.CompletedProcess([], 0, stdout="0, GPU-a, [N/A]\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(ConfigError, match=r"free memory of GPU 0 is unknown: give --per-gpu$"):
        gpu_slots("cuda", 1e9, None)
    found, said = gpu_slots("cuda", 1e9, 2)
    assert found == [{"CUDA_VISIBLE_DEVICES": "0"}] * 2
    assert said.endswith("how much is free is unknown")
