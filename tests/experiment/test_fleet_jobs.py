"""A sweep's job that makes several runs: what counts as one run each, whatever becomes of the process."""

from __future__ import annotations

import io
import pickle
import signal
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from experiment.storage.run_dir import RunDir
from experiment.sweeps.job import End, FleetJob, Job
from experiment.sweeps.processes import Processes
from experiment.sweeps.ray import TOKEN, attempt
from experiment.sweeps.sweep import Outcome, SweepState, plan, sweep

SCRIPT = """
import json, sys, time
from pathlib import Path
from experiment.storage.run_dir import RunDir
from experiment.values import ConfigError
root, bad, seconds, resumed = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), "--resume" in sys.argv
runs = [RunDir(root / name) for name in ("a-s0", "a-s1", "a-s2")]
for run in runs:
    if not resumed:
        run.checkpoints.mkdir(parents=True)
        run.config.write_text("seed: 0")
        run.fleet.write_text(json.dumps([each.path.name for each in runs]))
    run.lock()
    (run.checkpoints / ("2" if resumed else "1")).mkdir(exist_ok=True)
print("resumed" if resumed else "begun", flush=True)
time.sleep(seconds)
for run in runs:
    if run.path.name != bad and not run.finished:
        run.write_result({"resumed": resumed})
sys.exit("seed 1: it diverged" if bad else 0)
"""


@pytest.fixture(autouse=True)
def _children_find_the_packages(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


def fleet(root: Path, bad: str = "", seconds: float = 0.0) -> FleetJob:
    members = tuple(Job(f"a-s{seed}", ("none",), root / f"a-s{seed}") for seed in range(3))
    command = (sys.executable, "-c", SCRIPT, str(root), bad, str(seconds))
    return FleetJob("a-s0-2", command, members[0].directory, (*command, "--resume"), members=members)


class Seen:
    """A view that keeps what it is shown."""

    def __init__(self) -> None:
        self.moments: list[SweepState] = []

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        pass

    def show(self, moment: SweepState) -> None:
        self.moments.append(moment._replace(finished=set(moment.finished), failed=dict(moment.failed)))


def run(job: Job, view: Seen | None = None, retries: int = 1) -> tuple[Outcome, str]:
    console = Console(file=io.StringIO())
    outcome = sweep([job], 1, retries=retries, console=console, view=view)
    return outcome, console.file.getvalue()


def test_members_count_as_runs_and_share_a_process(tmp_path):
    job, view = fleet(tmp_path, seconds=0.5), Seen()
    assert plan([job]).splitlines()[0] == "3 runs: 0 done, 0 to resume, 3 to start"
    outcome, _ = run(job, view)
    assert outcome == Outcome(("a-s0", "a-s1", "a-s2"), {}, ())
    assert set(view.moments[0].running) == {"a-s0", "a-s1", "a-s2"}
    assert view.moments[-1].finished == {"a-s0", "a-s1", "a-s2"}
    assert "begun" in job.log.read_text()
    assert f"in a fleet, which writes into {job.log}" in job.members[2].log.read_text()
    assert plan([job]).splitlines() == ["3 runs: 3 done, 0 to resume, 0 to start"]


def test_one_that_fails_is_tried_again_and_fails_alone(tmp_path):
    job, view = fleet(tmp_path, bad="a-s1"), Seen()
    outcome, said = run(job, view)
    assert outcome.finished == ("a-s0", "a-s2")
    assert outcome.failed == {"a-s1": f"seed 1: it diverged (exit code 1), 2 attempts, log: {job.log}"}
    assert outcome.exit_code == 1
    assert "a-s0-2 will be tried again: seed 1: it diverged" in said
    assert [member.failure() != "" for member in job.members] == [False, True, False]
    assert job.log.read_text().splitlines().count("resumed") == 1
    assert any(moment.running and set(moment.finished) == {"a-s0", "a-s2"} for moment in view.moments)
    assert plan([job]).splitlines()[:1] == ["3 runs: 2 done, 1 to resume, 0 to start"]


def test_a_fleet_that_was_killed_before_its_first_checkpoint_begins_again(tmp_path):
    job = fleet(tmp_path)
    for member, content in zip(job.members, ("", "{}\n", None), strict=True):
        if content is not None:
            RunDir(member.directory).checkpoints.mkdir(parents=True)
            RunDir(member.directory).config.write_text("seed: 0")
            RunDir(member.directory).fleet.write_text("[]")
            RunDir(member.directory).metrics.write_text(content)
    assert job.state() == "leftover"
    outcome, said = run(job)
    assert outcome.exit_code == 0
    assert "a-s1 begins again: it had no checkpoint" in said
    assert [path.name for path in (tmp_path / "aside").iterdir()] == ["a-s1-1"]


def test_no_other_process_takes_a_member_while_the_fleet_lives(tmp_path):
    job, processes = fleet(tmp_path, seconds=60), Processes(2)
    child = processes.start(job, 1)
    assert not isinstance(child, End)
    deadline = time.monotonic() + 60
    while job.state() != "interrupted" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [member.is_running() for member in job.members] == [True] * 3
    assert processes.start(job.members[2], 1) == End("elsewhere")
    child.logs.close()  # as if the sweep had died: the fleet itself has them
    assert [member.is_running() for member in job.members] == [True] * 3
    child.send_signal(signal.SIGKILL)
    child.process.wait(60)
    assert [member.is_running() for member in job.members] == [False] * 3
    assert run(fleet(tmp_path))[0].exit_code == 0


def test_a_node_of_a_cluster_gets_a_fleet_as_one_run(tmp_path):
    (tmp_path / TOKEN).write_text("mine\n")
    job = pickle.loads(pickle.dumps(fleet(tmp_path)))
    assert attempt(job, 1, "mine", str(tmp_path)) == End("done")
    assert [member.state() for member in job.members] == ["done"] * 3
    assert attempt(job, 1, "mine", str(tmp_path)) == End("done")
