"""The peak memory of whole runs, each in a process of its own."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

from agents.cli import settings as agent_settings
from agents.run import build_trainer
from benchmarks.speed.replays import add_run
from benchmarks.speed.settings import Settings
from experiment.determinism import configure

RUNS = (("der", "der"), ("der", "small"), ("dqn", "atari100k"))
"""Agents and presets."""
UPDATES = 64


def peaks(settings: Settings) -> dict[str, str]:
    """The peak resident memory of each run with a full replay, as lines of text."""
    return {
        f"peak memory, {agent} {preset}": f"{_in_a_process(settings, agent, preset):.2f} GB" for agent, preset in RUNS
    }


def _in_a_process(settings: Settings, agent: str, preset: str) -> float:
    arguments = ", ".join(map(repr, (agent, preset, settings.capacity, settings.compile)))
    call = f"from {__name__} import peak_gigabytes; print(peak_gigabytes({arguments}))"
    done = subprocess.run([sys.executable, "-c", call], stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1])


def peak_gigabytes(agent: str, preset: str, capacity: int, compile: bool) -> float:
    """Builds an agent, fills its replay and makes updates; the peak resident memory of this process so far, in GB."""
    argv = ["--config", preset, "--env=Pong", "--threads=1", "--update-start=0"]
    config = agent_settings(agent, [*argv, f"--replay-capacity={capacity}", f"--compile={str(compile).lower()}"])
    configure(config.threads, config.seed)
    trainer = build_trainer(config)
    add_run(trainer.replay)(trainer.replay.max_rows)
    trainer.open()
    while trainer.agent.updates < UPDATES:
        trainer.step()
    return peak_bytes() / 1e9


def peak_bytes() -> int:
    """The peak resident memory of this process; on Linux not that of the one that started it, which rusage keeps."""
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
