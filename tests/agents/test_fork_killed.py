"""The command of a fork, killed at several moments and resumed each time, ends as the fork that nobody killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from experiment.storage.run_dir import RunDir

TINY = "--steps 700 --update-start 60 --checkpoint-interval 100 --eval-episodes 3 --compile false --batch-size 8"
COMMON = f"--env Catch --threads 1 --log-interval 10 --probe-interval 0 --keep-checkpoints every {TINY}"
FORK = "--plasticity reset:at=now redo:period=7 --utd 3/2 --lr 1e-4"
MOMENTS: dict[str, Callable[[RunDir], bool]] = {
    "its folder is there": lambda run: run.path.exists(),
    "its first checkpoint is saved": lambda run: 90 in run.steps(),
    "a row is written": lambda run: row_of(run) >= 130,
    "another checkpoint is begun": lambda run: any(run.checkpoints.glob("*300*")),
    "between two checkpoints": lambda run: row_of(run) >= 450,
    "all is trained": lambda run: 700 in run.steps(),
}
"""When the next kill comes, in this order."""


def row_of(run: RunDir) -> int:
    """The step of the last whole row of metrics."""
    lines = run.metrics.read_text().splitlines(keepends=True) if run.metrics.exists() else []
    return max((json.loads(line)["agent_step"] for line in lines if line.endswith("\n")), default=0)


def start(*words: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "agents.dqn", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def result(run: RunDir) -> dict[str, object]:
    found = json.loads(run.result.read_text())
    return {key: found[key] for key in ("parameter_hash", "updates", "agent_steps", "score")}


@pytest.mark.slow
def test_a_fork_that_is_killed_again_and_again_ends_the_same(tmp_path: Path) -> None:
    root = ("--root", tmp_path)
    assert start(*COMMON.split(), "--checkpoint-at", 90, *root, "--name", "trunk").wait(300) == 0
    words = ("--fork", tmp_path / "trunk@90", *FORK.split(), "--name")
    assert start(*words, "whole").wait(300) == 0
    run, kills = RunDir(tmp_path / "killed"), 0
    for moment, come in MOMENTS.items():
        process = start("--resume", run.path) if run.path.exists() else start(*words, "killed")
        end = time.monotonic() + 120
        while not come(run) and process.poll() is None:
            assert time.monotonic() < end, moment
            time.sleep(0.002)
        process.kill()
        kills += process.wait() == -signal.SIGKILL
    assert kills >= 4  # on a fast machine one may end before its moment is seen
    if not run.result.exists():
        assert start("--resume", run.path).wait(300) == 0
    assert result(run) == result(RunDir(tmp_path / "whole"))
    assert result(run)["parameter_hash"] != result(RunDir(tmp_path / "trunk"))["parameter_hash"]
