"""Both studies: N + kill -9 + resume + N equals 2N, to the bit, wherever the kill comes."""

import gc
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiment.results import read_rows
from experiment.storage import checkpoint
from experiment.storage.run_dir import RunDir
from studies.grokking.__main__ import main as grokking
from studies.grokking.learner import Learner as GrokkingLearner
from studies.warm_start.__main__ import main as warm_start
from studies.warm_start.learner import Learner as WarmStartLearner
from tests.agents.test_resume import differences

pytest.importorskip("sklearn")
OFTEN = ["--log-interval", "3", "--checkpoint-interval", "4", "--no-figure", "--threads", "1"]
STUDIES: dict[str, tuple[Callable, Any, str]] = {
    "grokking": (
        grokking, GrokkingLearner,
        "--modulus 7 --fraction 0.5 --updates 14 --delay 5 --warmup 3 --anneal 6 --batch-size 8",
    ),
    "warm-start": (
        warm_start, WarmStartLearner,
        "--dataset digits --width 4 --hidden 8 --batch-size 16 --phase-updates 7 --nap --plasticity redo:period=3",
    ),
}  # fmt: skip
DEATHS = {
    "before the first save": ("update", 3),
    "between two saves": ("update", 11),
    "amid the files of a save": ("finish", 6),
    "before a save is renamed": ("sync", 3),
    "before an old save is removed": ("sync", 6),
    "before the result is written": ("result", 1),
}
"""What kills, and at which of its calls."""


def train(study: str, root: Path, name: str, *words: str) -> int:
    main, _, settings = STUDIES[study]
    code = main([*settings.split(), *OFTEN, "--root", str(root), "--name", name, *words])
    RunDir(root / name).unlock()
    return code


def outcome(run: RunDir) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The last checkpoint, without wall times, and the rows."""
    saved = checkpoint.load_latest(run.checkpoints)
    last = {"step": saved.step, "last": saved.state["run"]["last"]}
    rows = [{name: value for name, value in row.items() if "seconds" not in name} for row in read_rows(run)]
    rng = saved.state["rng"] | {"python": None}  # the live view draws from it
    return saved.state | {"run": last, "rng": rng}, rows


@pytest.fixture(scope="module", params=STUDIES)
def whole(request, tmp_path_factory):
    """A study and what it comes to in one go."""
    root = tmp_path_factory.mktemp("whole")
    assert train(request.param, root, "a") == 0
    return request.param, outcome(RunDir(root / "a"))


def mortal(function: Callable, calls: int) -> Callable:
    """The function, with a kill -9 of its process at that call."""

    def call(*given, **named):
        nonlocal calls
        calls -= 1
        if calls == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*given, **named)

    return call


@pytest.mark.parametrize("death", DEATHS)
def test_killed_and_resumed_equals_undisturbed(death, whole, tmp_path):
    study, undisturbed = whole
    kind, calls = DEATHS[death]
    owner, name = {
        "update": (STUDIES[study][1], "update"),
        "finish": (checkpoint.HashingFile, "finish"),
        "sync": (checkpoint, "sync_directory"),
        "result": (RunDir, "write_result"),
    }[kind]
    if (child := os.fork()) == 0:
        gc.freeze()  # what other tests have left behind is not this process's to destroy
        setattr(owner, name, mortal(getattr(owner, name), calls))
        os._exit(train(study, tmp_path, "a"))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    run = RunDir(tmp_path / "a")
    assert not run.finished
    assert train(study, tmp_path, "a", "--resume", "auto") == 0
    state, rows = outcome(run)
    assert differences(state, undisturbed[0]) == []
    assert rows == undisturbed[1]
    assert len(list(run.checkpoints.iterdir())) == 2
