"""A suite of a study from the command line: it is interrupted, continued, watched, and what fails is named."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from experiment.config import ConfigError
from experiment.results import read_rows
from experiment.storage.run_dir import RunDir
from experiment.sweeps import gpus
from experiment.sweeps.manifest import NAME, Manifest
from experiment.sweeps.status import SweepStatus
from studies.grokking.suite import DEFAULTS, GrokkingSweep
from studies.warm_start import suite as warm_start

TINY = """
from functools import partial

from studies import suite
from studies.arms import over_seeds
from studies.grokking.suite import DEFAULTS, GrokkingRuns, GrokkingSweep

TASK = {"modulus": 11, "fraction": 0.5, "batch_size": 16, "delay": 10, "warmup": 10}
WILD = {"anneal": 40, "lr": 10, "weight_decay": 1e3, "norm": "none", "projection": "off"}


class Runs(GrokkingRuns):
    command = "tiny"
    suites = {
        "two": lambda: over_seeds("up", (0,), **TASK, anneal=1_500) + over_seeds("down", (0,), **TASK, anneal=1_500),
        "failing": lambda: over_seeds("high", (0,), **TASK, **WILD),
    }


class TinySweep(GrokkingSweep):
    kind = Runs()


if __name__ == "__main__":
    raise SystemExit(suite.main(TinySweep, DEFAULTS))
"""


@pytest.fixture
def command(tmp_path):
    """Runs the suites' command, with a folder of its own."""
    (tmp_path / "tiny.py").write_text(TINY)
    code = f"{tmp_path}:{Path(__file__).parents[2]}"
    environment = os.environ | {"PYTHONPATH": code, "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def start(*words: str) -> subprocess.Popen:
        whole = [sys.executable, "-m", "tiny", *words]
        return subprocess.Popen(whole, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    return start


def ended(process: subprocess.Popen) -> tuple[int, str]:
    out = process.communicate(timeout=300)[0]
    return process.returncode, out


def wait_for(condition, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def rows(run: Path) -> int:
    metrics = run / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.is_file() else 0


@pytest.mark.slow
def test_a_suite_is_interrupted_watched_and_continued(tmp_path, command):
    root = tmp_path / "root" / "two"
    runs = [root / "up-s0", root / "down-s0"]
    words = ["two", "--root", str(root.parent), "--processes", "2", "--log-interval", "100"]
    process = command(*words)
    wait_for(lambda: all(rows(run) >= 4 for run in runs))
    process.send_signal(signal.SIGINT)
    code, said = ended(process)
    assert said.startswith(f"2 runs in {root}, 2 at a time; from any terminal: python -m tiny --status {root}\n")
    assert re.search(r"\n\d+% \d(\.\d)?/2 runs, .* left.*, waiting 0, running 2, done 0, failed 0", said)
    assert (code, said.splitlines()[-1]) == (130, "left: 2 of 2 runs; the same command goes on")

    code, said = ended(command("--status", str(root)))
    assert code == 0
    assert "waiting 0, running 0, done 0, failed 0, interrupted 2, best " in said
    assert re.search(r"interrupted: up-s0: \d+/1,520 updates, test accuracy 0\.\d{3}\n", said)

    (root / NAME).unlink()  # as that of a suite begun by a version without one
    before = {run: rows(run) for run in runs}
    code, said = ended(command(*words, "--dry-run"))
    assert (code, said.splitlines()[0]) == (0, "2 runs: 0 done, 2 to resume, 0 to start")
    assert not (root / NAME).exists()
    code, said = ended(command(*words))
    assert code == 0
    assert said.endswith(f"done, 2 runs: python -m studies.grokking.figures {root}\n")
    assert all(rows(run) > before[run] > 3 for run in runs)
    assert [entry.arm for entry in Manifest.load(root).runs] == ["up", "down"]
    code, said = ended(command("--status", str(root)))
    assert re.fullmatch(r"100% 2/2 runs, no training left, .* done 2, failed 0, best 0\.\d{3} .*, worst .*\n", said)
    results = [json.loads(RunDir(run).result.read_text()) for run in runs]
    assert results[0]["parameter_hash"] == results[1]["parameter_hash"]  # however each was cut
    assert all(len({row["update"] for row in read_rows(RunDir(run))}) == rows(run) for run in runs)


def test_a_run_that_fails_is_named_and_the_code_is_1(tmp_path, command):
    words = ["failing", "--root", str(tmp_path / "root"), "--retries", "0"]
    code, said = ended(command(*words))
    assert code == 1
    assert re.search(r"failed: high-s0: .*\(exit code 1\), 1 attempt, log: ", said)
    assert "failed: high-s0: " in ended(command("--status", str(tmp_path / "root" / "failing")))[1]


def test_the_cost_of_a_suite_is_measured_and_remembered(tmp_path, command):
    words = ["two", "--root", str(tmp_path / "root"), "--processes", "1", "--dry-run"]
    code, said = ended(command(*words, "--calibrate"))
    assert code == 0
    assert re.search(r"arm up: \d+ s a run, by 200 updates on add; 2 to do\ncost: 0.0\d hours with 1 at a time", said)
    assert re.search(r"arm up: \d+ s a run, as measured on \S+; 2 to do", ended(command(*words))[1])
    assert not (tmp_path / "root").exists()


def test_status_of_other_runs_and_a_wrong_option_are_one_line_and_code_2(tmp_path, command):
    for words, message in (
        (["two", "--plan"], "unknown option '--plan'"),
        (["tow"], "no suite is named 'tow'; it has to be one of two, failing; did you mean 'two'?"),
        (["two", "--seeds", "2"], "--seeds is 2, but suite two has 1"),
        (["two", "--calibrate"], "--calibrate is for --dry-run"),
        (["two", "--per-gpu", "2"], "--per-gpu is for --device cuda"),
        (["--status", str(tmp_path)], f"no sweep in '{tmp_path}': it has no {NAME}"),
    ):
        code, said = ended(command(*words, "--root", str(tmp_path / "root")))
        assert (code, said.count("\n")) == (2, 1), said
        assert message in said
    assert not (tmp_path / "root").exists()


def test_runs_of_another_program_are_no_runs_of_the_study(tmp_path):
    entry = GrokkingSweep(replace(DEFAULTS, suite="mlp", root=str(tmp_path))).runs[0]
    assert GrokkingSweep.kind.settings(entry).seed == entry.seed
    with pytest.raises(ConfigError, match=r"run 'mlp-s0' is none of studies.warm_start: its command is \S+ -m"):
        SweepStatus(warm_start.WarmStartSweep.kind, tmp_path, [entry]).workload(entry)


def test_a_suite_shares_the_gpus_by_what_its_largest_run_needs(tmp_path, monkeypatch):
    monkeypatch.setattr(gpus, "free_memory", lambda: {"0": 8e9, "1": 8e9})
    given = replace(warm_start.DEFAULTS, suite="tasks", root=str(tmp_path), device="cuda")
    monkeypatch.setattr(gpus, "available_cores", lambda: 64)
    ready = warm_start.WarmStartSweep(given)
    needs = {entry.arm: ready.kind.workload(ready.configs[entry.name]).bytes for entry in ready.runs}
    assert ready.processes == 2 * int(0.9 * 8e9 / max(needs.values()))
    assert all(entry.command[entry.command.index("--device") + 1] == "cuda" for entry in ready.runs)
    assert ready.note.startswith("2 GPUs, ")
    one = warm_start.WarmStartSweep(replace(given, device="cuda:1", per_gpu=3))
    assert one.slots == [{"CUDA_VISIBLE_DEVICES": "1"}] * 3
