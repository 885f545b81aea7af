"""Sweeps of small real processes, with kills of the runs and of the launcher."""

import contextlib
import errno
import fcntl
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from experiment.storage.run_dir import RunDir
from experiment.sweeps.job import Job
from experiment.sweeps.processes import Processes, _claim
from experiment.sweeps.sweep import POLL, SweepState, plan, sweep
from experiment.values import ConfigError

RUN = """
import json, os, shutil, sys, time
from dataclasses import dataclass
from pathlib import Path
from experiment.interrupt import Interrupt
from experiment.storage.run_dir import RunDir

@dataclass
class Config:
    seed: int = 0

path, steps, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
resumed = "--resume" in sys.argv
run = RunDir.open(sys.argv[-1]) if resumed else RunDir.create(path.parent, path.name, Config(), explicit=True)
run.lock()
assert not run.result.exists()
step = max(int(item.name) for item in run.checkpoints.iterdir() if item.name.isdigit()) if resumed else 0
rows = run.metrics.read_text().splitlines(True) if resumed else []
run.metrics.write_text("".join(rows[:step]))
print("begins at", step, flush=True)
with Interrupt() as interrupt:
    while step < steps and not interrupt.requested:
        step += 1
        with open(run.metrics, "a") as file:
            file.write(f"{step}\\n")
        time.sleep(seconds)
        (run.checkpoints / str(step)).mkdir()
if step < steps:
    print("stopped at", step)
    sys.exit(130)
with open(path.parent / "results.txt", "a") as file:
    file.write(path.name + "\\n")
run.write_result({"steps": step, "threads": os.environ.get("OMP_NUM_THREADS"), "cores": len(os.sched_getaffinity(0))})
"""

LAUNCH = """
import sys
from pathlib import Path
from experiment.sweeps.job import Job
from experiment.sweeps.sweep import sweep
script, root, count, seconds = sys.argv[1:]
def job(name):
    return Job(name, (sys.executable, script, str(Path(root) / name), "10", seconds), Path(root) / name)
outcome = sweep([job(f"run{index}") for index in range(int(count))], 2)
print(outcome)
sys.exit(outcome.exit_code)
"""


def jobs(tmp_path: Path, count: int, steps: int = 5, seconds: float = 0.01) -> list[Job]:
    script = tmp_path / "run.py"
    script.write_text(RUN)
    paths = [tmp_path / "runs" / f"run{index}" for index in range(count)]
    words = (sys.executable, str(script))
    return [Job(path.name, (*words, str(path), str(steps), str(seconds)), path) for path in paths]


def shell(tmp_path: Path, name: str, code: str) -> Job:
    return Job(name, (sys.executable, "-c", code), tmp_path / "runs" / name)


def quiet() -> Console:
    return Console(file=io.StringIO())


def said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture(autouse=True)
def _children_find_the_packages(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


def assert_each_done_once(tmp_path: Path, count: int, steps: int) -> None:
    names = [f"run{index}" for index in range(count)]
    assert sorted((tmp_path / "runs" / "results.txt").read_text().split()) == names
    for name in names:
        run = RunDir(tmp_path / "runs" / name)
        assert json.loads(run.result.read_text())["steps"] == steps
        assert run.metrics.read_text().split() == [str(step + 1) for step in range(steps)]


def wait_for(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def lock_owner(run: Path) -> int:
    """The process of a run that has begun to train, else 0."""
    return int((run / ".lock").read_text()) if RunDir(run).has_checkpoint() else 0


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def launch(tmp_path: Path, count: int, seconds: float = 0.1, script: str = RUN) -> subprocess.Popen:
    (tmp_path / "run.py").write_text(script)
    words = [sys.executable, "-c", LAUNCH, str(tmp_path / "run.py"), str(tmp_path / "runs"), str(count), str(seconds)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize(("processes", "shares"), [(1, [4]), (2, [2, 2]), (3, [1, 1, 2])])
def test_few_processes_share_out_all_cores(processes, shares, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 4, 5})
    executor = Processes(processes)
    given = [executor._share(slot) for slot in range(processes)]
    assert sorted(map(len, given)) == shares
    assert sorted(core for share in given for core in share) == [0, 1, 4, 5]


def test_many_processes_take_a_core_each_in_turn(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 3})
    assert [Processes(5)._share(slot) for slot in range(5)] == [[2], [3], [2], [3], [2]]


def test_one_process_has_every_core(tmp_path):
    assert sweep(jobs(tmp_path, 1), 1, console=quiet()).exit_code == 0
    result = json.loads((tmp_path / "runs" / "run0" / "result.json").read_text())
    assert (result["threads"], result["cores"]) == ("1", len(os.sched_getaffinity(0)))


def test_all_runs_are_done_once_with_one_thread_and_a_share_of_the_cores_each(tmp_path):
    console = quiet()
    outcome = sweep(jobs(tmp_path, 3), 2, console=console)
    assert outcome.finished == ("run0", "run1", "run2")
    assert (outcome.failed, outcome.left, outcome.exit_code) == ({}, (), 0)
    assert_each_done_once(tmp_path, 3, 5)
    result = json.loads((tmp_path / "runs" / "run0" / "result.json").read_text())
    cores = len(os.sched_getaffinity(0))
    assert result["threads"] == "1"
    assert result["cores"] in {max(cores // 2, 1), -(-cores // 2)}
    assert said(console) == ""  # there is no view
    before = (tmp_path / "runs" / "logs" / "run0.log").read_bytes()
    assert sweep(jobs(tmp_path, 3), 2, console=quiet()) == outcome
    assert (tmp_path / "runs" / "logs" / "run0.log").read_bytes() == before


def test_the_plan_says_what_a_sweep_would_do(tmp_path):
    done, interrupted, leftover, new, custom = jobs(tmp_path, 5)
    for job in (done, interrupted, leftover, custom):
        job.directory.mkdir(parents=True)
    (done.directory / "result.json").write_text("{}")
    (interrupted.directory / "checkpoints" / "7").mkdir(parents=True)
    (custom.directory / "checkpoints" / "7").mkdir(parents=True)
    custom = Job(custom.name, custom.command, custom.directory, resume=("go", "on"))
    short = plan([done, interrupted, leftover, new, custom]).splitlines()
    lines = plan([done, interrupted, leftover, new, custom], all_commands=True).splitlines()
    assert short == [*lines[:1], lines[2], "and 3 more runs: --all-commands prints each"]
    assert plan([done]) == "1 run: 1 done, 0 to resume, 0 to start"
    assert lines[0] == "5 runs: 1 done, 2 to resume, 2 to start"
    assert [line.split()[:2] for line in lines[1:]] == [
        ["done", "run0"],
        ["resume", "run1:"],
        ["restart", "run2:"],
        ["start", "run3:"],
        ["resume", "run4:"],
    ]
    assert lines[2].endswith(f" 5 0.01 --resume {interrupted.directory}")
    assert lines[4].endswith(f"{new.directory} 5 0.01")
    assert lines[5].endswith("run4: go on")
    assert not (tmp_path / "runs" / "logs").exists()


def test_a_worker_killed_in_the_middle_is_tried_again_and_nothing_is_lost(tmp_path):
    launcher = launch(tmp_path, 3)
    wait_for(lambda: lock_owner(tmp_path / "runs" / "run1"))
    os.kill(lock_owner(tmp_path / "runs" / "run1"), signal.SIGKILL)
    output = launcher.communicate(timeout=120)[0]
    assert launcher.returncode == 0, output
    assert "run1 will be tried again: begins at 0 (ended by signal 9, Killed)" in output
    assert re.search(r"begins at [1-9]", (tmp_path / "runs" / "logs" / "run1.log").read_text())
    assert_each_done_once(tmp_path, 3, 10)


def test_a_killed_launcher_takes_its_runs_along_and_a_second_one_goes_on_at_once(tmp_path):
    first = launch(tmp_path, 3)
    wait_for(lambda: lock_owner(tmp_path / "runs" / "run0") and lock_owner(tmp_path / "runs" / "run1"))
    children = [lock_owner(tmp_path / "runs" / f"run{index}") for index in range(2)]
    first.kill()
    second = launch(tmp_path, 3)
    wait_for(lambda: not any(alive(child) for child in children))
    output = second.communicate(timeout=120)[0]
    first.communicate()
    assert second.returncode == 0, output
    assert "tried again" not in output
    assert all("stopped at" in (tmp_path / "runs" / "logs" / f"run{index}.log").read_text() for index in range(2))
    assert_each_done_once(tmp_path, 3, 10)


def test_two_sweeps_of_the_same_runs_share_them(tmp_path):
    launchers = [launch(tmp_path, 4, 0.05) for _ in range(2)]
    outputs = [launcher.communicate(timeout=120)[0] for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0], outputs
    assert all("finished=('run0', 'run1', 'run2', 'run3')" in output for output in outputs)
    assert_each_done_once(tmp_path, 4, 10)
    assert "tried again" not in "".join(outputs)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_runs_save_and_the_next_sweep_goes_on(tmp_path, number):
    launcher = launch(tmp_path, 3)
    wait_for(lambda: lock_owner(tmp_path / "runs" / "run0") and lock_owner(tmp_path / "runs" / "run1"))
    launcher.send_signal(number)
    output = launcher.communicate(timeout=120)[0]
    assert launcher.returncode == 130, output
    assert "left: 3 of 3 runs; the same command goes on" in output
    logs = [(tmp_path / "runs" / "logs" / f"run{index}.log").read_text() for index in range(2)]
    assert all("stopped at" in log for log in logs)
    assert not (tmp_path / "runs" / "run2").exists()
    again = launch(tmp_path, 3, 0.01)
    assert again.wait(timeout=120) == 0, again.communicate()[0]
    again.communicate()
    assert_each_done_once(tmp_path, 3, 10)


STUBBORN = """
import signal, sys, time
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: print("heard", number, flush=True))
print("ready", flush=True)
for _ in range(200):
    time.sleep(0.1)
"""


def test_a_second_signal_kills(tmp_path):
    launcher = launch(tmp_path, 1, script=STUBBORN)
    log = tmp_path / "runs" / "logs" / "run0.log"
    wait_for(lambda: log.exists() and "ready" in log.read_text())
    launcher.send_signal(signal.SIGINT)
    wait_for(lambda: "heard 2" in log.read_text())
    time.sleep(0.3)
    assert log.read_text().count("heard") == 1
    assert launcher.poll() is None
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(timeout=120) == 130
    launcher.communicate()


class Seen:
    """A view that remembers what it was shown."""

    def __init__(self):
        self.moments, self.open = [], 0

    def __enter__(self):
        self.open += 1

    def __exit__(self, *_):
        self.open -= 1

    def show(self, moment: SweepState):
        assert self.open == 1
        self.moments.append((moment, [tmp.is_running() for tmp in self.jobs]))


def test_a_view_sees_every_state_and_places_give_each_process_its_own_variables(tmp_path):
    code = "import os; from pathlib import Path; from experiment.storage.run_dir import RunDir as R; p = Path({!r});"
    code += "p.mkdir(); R(p).write_result({{'gpu': os.environ['GPU'], 'cores': len(os.sched_getaffinity(0))}})"
    names = ("a", "b")
    view = Seen()
    view.jobs = [shell(tmp_path, name, code.format(str(tmp_path / "runs" / name))) for name in names]
    assert not any(job.is_running() for job in view.jobs)
    assert sweep(view.jobs, console=quiet(), view=view, slots=[{"GPU": "7"}, {"GPU": "8"}]).finished == names
    results = [json.loads(RunDir(job.directory).result.read_text()) for job in view.jobs]
    assert [result["gpu"] for result in results] == ["7", "8"]
    assert {result["cores"] for result in results} == {len(os.sched_getaffinity(0))}
    first, running = view.moments[0]
    assert (first.waiting, first.running, running) == (0, names, [True, True])
    last, running = view.moments[-1]
    assert (last.waiting, last.running, set(last.finished), dict(last.failed)) == (0, (), set(names), {})
    assert (running, view.open) == ([False, False], 0)


def test_a_failing_run_is_retried_then_named_with_its_last_line_and_log(tmp_path):
    console = quiet()
    failing = shell(tmp_path, "bad", "print('trying'); raise SystemExit('no such game')")
    silent = shell(tmp_path, "silent", "")
    missing = Job("missing", ("/no/such/program",), tmp_path / "runs" / "missing")
    outcome = sweep([failing, silent, missing, *jobs(tmp_path, 1)], 2, retries=1, console=console)
    assert outcome.finished == ("run0",)
    assert outcome.exit_code == 1
    log = tmp_path / "runs" / "logs" / "bad.log"
    assert outcome.failed["bad"] == f"no such game (exit code 1), 2 attempts, log: {log}"
    assert outcome.failed["silent"].startswith(
        f"it printed nothing (exit code 0, but no {silent.directory}/result.json)"
    )
    gone = "/no/such/program: No such file or directory"
    assert outcome.failed["missing"] == gone
    assert log.read_text().count("\nno such game\n") == 2
    assert failing.failure() == "no such game (exit code 1), 2 attempts"
    assert [job.failure() for job in (missing, *jobs(tmp_path, 1))] == [gone, ""]
    assert f"failed: bad: {outcome.failed['bad']}" in said(console).splitlines()


def test_a_machine_that_refuses_to_start_runs_is_waited_for(tmp_path):
    """A full disk or process table passes; the runs that wait are not all failed because of it."""

    class Full(Processes):
        refusals = 3

        def start(self, job, number):
            if self.refusals:
                self.refusals -= 1
                raise OSError(errno.ENOSPC, "No space left on device", str(job.log))
            return super().start(job, number)

    console, began = quiet(), time.monotonic()
    assert sweep(jobs(tmp_path, 1), retries=0, executor=Full(2), console=console).exit_code == 0
    assert_each_done_once(tmp_path, 1, steps=5)
    assert said(console).count("No space left on device") == 3
    assert time.monotonic() - began > POLL * (2 + 4 + 8)


def test_who_looks_whether_a_run_is_running_does_not_keep_it_from_being_claimed(tmp_path, monkeypatch):
    (job,) = jobs(tmp_path, 1)
    job.log.parent.mkdir(parents=True)
    with open(job.log, "wb") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        monkeypatch.setattr(time, "sleep", lambda _: fcntl.flock(looking, fcntl.LOCK_UN))
        with contextlib.ExitStack() as files:
            assert _claim(job, files)


def test_the_first_words_of_a_run_that_fails_at_once_are_its_reason(tmp_path):
    hasty = [Job(f"h{i}", ("sh", "-c", "echo no such game; exit 2"), tmp_path / "runs" / f"h{i}") for i in range(20)]
    outcome = sweep(hasty, 4, retries=0, console=quiet())
    assert {reason.partition(",")[0] for reason in outcome.failed.values()} == {"no such game (exit code 2)"}
    assert len(outcome.failed) == 20


def test_a_log_that_somebody_removed_is_no_reason_to_stop(tmp_path):
    log = tmp_path / "runs" / "logs" / "gone.log"
    gone = shell(tmp_path, "gone", f"import os; os.remove({str(log)!r}); raise SystemExit('into nowhere')")
    outcome = sweep([gone, *jobs(tmp_path, 1)], 2, retries=1, console=quiet())
    assert outcome.finished == ("run0",)
    assert outcome.failed["gone"].startswith("it printed nothing (exit code 1), 2 attempts")


def test_a_directory_without_a_checkpoint_is_kept_if_it_holds_metrics(tmp_path):
    console = quiet()
    worthless, measured, foreign = jobs(tmp_path, 3)
    for job in (worthless, measured, foreign):
        (job.directory / "checkpoints" / ".tmp-3").mkdir(parents=True)
        (job.directory / "checkpoints" / ".tmp-3" / "part.pt").write_text("half")
        (job.directory / "metrics.jsonl").touch()
        (job.directory / "config.yaml").write_text("seed: 1\n")
    (measured.directory / "metrics.jsonl").write_text("measured\n")
    (foreign.directory / "thesis.tex").write_text("years of work")
    (foreign.directory / "config.yaml").unlink()
    outcome = sweep([worthless, measured, foreign], 2, console=console)
    assert outcome.finished == ("run0", "run1")
    assert outcome.failed["run2"] == (
        f"{foreign.directory}: this is no run directory, it has no config.yaml: move it out of the way"
    )
    assert (foreign.directory / "thesis.tex").read_text() == "years of work"
    aside = tmp_path / "runs" / "aside"
    assert [path.name for path in aside.iterdir()] == ["run1-1"]
    assert (aside / "run1-1" / "metrics.jsonl").read_text() == "measured\n"
    assert f"run1 begins again: it had no checkpoint; what it had is in {aside / 'run1-1'}" in said(console)


def test_a_run_in_use_is_waited_for(tmp_path):
    (job,) = jobs(tmp_path, 1)
    by_hand = subprocess.Popen([*job.command[:3], "10", "0.1"], stdout=subprocess.DEVNULL)
    wait_for(lambda: lock_owner(job.directory))
    assert sweep([job], 1, console=quiet()).finished == ("run0",)
    assert by_hand.wait(timeout=120) == 0
    assert "attempt" not in job.log.read_text()
    assert_each_done_once(tmp_path, 1, 10)


def test_bad_input_is_one_line(tmp_path):
    a, b = jobs(tmp_path, 2)
    for wrong, message in [
        ([a, a], "2 runs are named 'run0': give each a name of its own"),
        ([a, Job("b", b.command, a.directory)], "runs 'run0' and 'b' have the same directory"),
        ([Job("a/b", a.command, a.directory)], "the name of a run is one file name, not 'a/b'"),
        ([Job("a", (), a.directory)], "run 'a' has no command"),
        ([Job("a", a.command, tmp_path / "logs")], "run 'a': 'logs' is the sweep's own directory"),
    ]:
        with pytest.raises(ConfigError, match=re.escape(message)):
            sweep(wrong, 1, console=quiet())
        with pytest.raises(ConfigError, match=re.escape(message)):
            plan(wrong)
    with pytest.raises(ConfigError, match="not 0 and 2"):
        sweep([a], 0, console=quiet())


def test_ten_thousand_runs_are_planned_quickly(tmp_path):
    many = [Job(f"run{index}", ("true",), tmp_path / f"run{index}") for index in range(10_000)]
    began = time.process_time()
    assert plan(many).startswith("10,000 runs: 0 done, 0 to resume, 10,000 to start")
    assert time.process_time() - began < 5


FORK = """
import sys
from pathlib import Path
source = Path(sys.argv[1])
assert (source / "checkpoints" / sys.argv[2]).is_dir()
(source.parent / sys.argv[3]).mkdir()
(source.parent / sys.argv[3] / "result.json").write_text((source / "result.json").is_file() and "late" or "early")
"""


def fork(job: Job, name: str, step: int) -> Job:
    """A run that needs a checkpoint of another one; its result is "early" if that one still went on."""
    words = (sys.executable, "-c", FORK, str(job.directory), str(step), name)
    return Job(name, words, job.directory.parent / name, source=job.name, fork_step=step)


def test_a_fork_waits_for_its_checkpoint_and_not_for_the_end(tmp_path):
    (trunk,) = jobs(tmp_path, 1, steps=30, seconds=0.1)
    forks = [fork(trunk, "early", 2), fork(trunk, "late", 30)]
    assert "start   early (once run0 has its checkpoint of step 2): " in plan([*forks, trunk], all_commands=True)
    assert sweep([*forks, trunk], 2, console=quiet()).exit_code == 0
    assert [(job.directory / "result.json").read_text() for job in forks] == ["early", "late"]


def test_a_fork_fails_with_what_it_forks_and_where_that_has_no_such_checkpoint(tmp_path):
    (trunk,) = jobs(tmp_path, 1)
    bad = shell(tmp_path, "bad", "raise SystemExit('no such game')")
    outcome = sweep([fork(bad, "a", 3), fork(trunk, "b", 77), bad, trunk], 2, console=quiet(), retries=0)
    assert outcome.exit_code == 1
    assert outcome.finished == ("run0",)
    assert outcome.failed["a"] == "bad, which it forks, failed"
    assert outcome.failed["b"] == "run0, which it forks, has no checkpoint of step 77"
