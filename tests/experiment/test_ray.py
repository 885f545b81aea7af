"""Sweeps on Ray: what a node does, without Ray; and a cluster of two nodes, with kills."""

import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import atari
from experiment.storage.run_dir import RunDir
from experiment.sweeps import ray as ray_tasks
from experiment.sweeps.job import End, Job
from experiment.sweeps.ray import TOKEN, attempt, node_sees_root
from experiment.sweeps.sweep import LOST, sweep

RUN = """
import sys, time
from dataclasses import dataclass
from pathlib import Path
from experiment.interrupt import Interrupt
from experiment.storage.run_dir import RunDir

@dataclass
class Config:
    seed: int = 0

path, steps, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
resumed = "--resume" in sys.argv
run = RunDir.open(path) if resumed else RunDir.create(path.parent, path.name, Config(), explicit=True)
run.lock()
assert not run.result.exists()
begin = int(run.newest_checkpoint().name) if resumed else 0
with Interrupt() as interrupt:
    for step in range(begin + 1, steps + 1):
        if interrupt.requested:
            sys.exit(130)
        time.sleep(seconds)
        with open(run.metrics, "a") as file:
            file.write(f"{step}\\n")
        (run.checkpoints / str(step)).mkdir()
with open(path.parent / "results.txt", "a") as file:
    file.write(path.name + "\\n")
run.write_result({"steps": steps})
"""
DRIVER = """
import sys
from pathlib import Path
from experiment.sweeps.ray import RayTasks
from experiment.sweeps.job import Job
from experiment.sweeps.sweep import sweep
script, root, address = sys.argv[1:]
paths = [Path(root) / f"run{index}" for index in range(4)]
jobs = [Job(path.name, (sys.executable, script, str(path), "60", "0.1"), path) for path in paths]
with RayTasks(Path(root), address) as tasks:
    print("capacity", tasks.capacity, flush=True)
    sys.exit(sweep(jobs, retries=0, executor=tasks).exit_code)
"""


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    (tmp_path / "run.py").write_text(RUN)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / TOKEN).write_text("other\nmine\n")
    return tmp_path / "runs"


def job(root: Path, name: str = "run0", steps: int = 3, seconds: float = 0.01) -> Job:
    words = (sys.executable, str(root.parent / "run.py"), str(root / name), str(steps), str(seconds))
    return Job(name, words, root / name)


def test_a_node_does_a_run_once(root):
    assert attempt(job(root), 1, "mine", str(root)) == End("done")
    assert attempt(job(root), 1, "mine", str(root)) == End("done")
    assert (root / "results.txt").read_text() == "run0\n"
    assert job(root).log.read_text().count("attempt 1") == 1
    bad = Job("bad", (sys.executable, "-c", "raise SystemExit('no such game')"), root / "bad")
    assert attempt(bad, 2, "mine", str(root)) == End("failed", "no such game (exit code 1)")
    missing = Job("missing", ("/no/such/program",), root / "missing")
    assert attempt(missing, 1, "mine", str(root)).reason == "/no/such/program: No such file or directory"


def test_a_node_that_does_not_see_the_folder_starts_nothing(root, tmp_path):
    assert node_sees_root(root, "mine") == "unlocked"
    with open(root / TOKEN, "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert node_sees_root(root, "mine") == "locked"
    assert [node_sees_root(root, "theirs"), node_sees_root(tmp_path / "elsewhere", "mine")] == ["missing", "missing"]
    assert attempt(job(root), 1, "theirs", str(root)).how == "failed"
    assert not (root / "run0").exists()


def test_a_node_leaves_a_run_that_another_process_has(root):
    job(root).log.parent.mkdir()
    with open(job(root).log, "ab") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        assert attempt(job(root), 1, "mine", str(root)) == End("elsewhere")


def test_a_run_that_is_told_to_stop_saves_and_has_not_failed(root):
    slow = job(root, steps=1000, seconds=0.05)

    def stop():
        while not slow.directory.is_dir() or not RunDir(slow.directory).has_checkpoint():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=stop).start()
    assert attempt(slow, 1, "mine", str(root)).how == "lost"
    assert slow.state() == "interrupted"
    assert not slow.is_running()


class Unlucky:
    """An executor that loses each run some times."""

    def __init__(self, times: int, how: str = "lost"):
        self.times, self.how, self.numbers = times, how, []

    def room(self) -> bool:
        return True

    def start(self, job: Job, number: int):
        self.numbers.append(number)
        self.times -= 1
        return End(self.how, "its node was lost") if self.times >= 0 else attempt(job, number, "mine", os.getcwd())


def test_lost_nodes_are_no_failures_up_to_a_limit(root):
    console = Console(file=io.StringIO())
    unlucky = Unlucky(LOST - 1)
    assert sweep([job(root)], retries=0, console=console, executor=unlucky).finished == ("run0",)
    assert set(unlucky.numbers) == {1}
    outcome = sweep([job(root, "run1")], retries=5, console=console, executor=Unlucky(LOST))
    assert outcome.failed["run1"] == f"its node was lost, {LOST} attempts, log: {root}/logs/run1.log"
    failing = Unlucky(2, "failed")
    assert sweep([job(root, "run2")], retries=2, console=console, executor=failing).finished == ("run2",)
    assert failing.numbers == [1, 2, 3]


WRONG = {
    "no Ray": ([], "--launcher ray needs Ray: pip install 'rewarm[ray]'"),
    "runs of a GPU": (["--device", "cuda", "--per-gpu", "2"], "--gpus-per-run 0.25 puts four runs on each GPU"),
    "one GPU": (["--device", "cuda:1"], "it is cpu or cuda, and Ray says which GPU"),
    "a GPU for the processor": (["--gpus-per-run", "0.5"], "--device cpu with --gpus-per-run 0.5"),
    "no CPU": (["--cpus-per-run", "0"], "--cpus-per-run is 0.0: it has to be at least 0.01"),
    "Ray's options without Ray": (["--launcher", "local", "--ray-address", "auto"], "are for --launcher ray"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_one_line(monkeypatch, capfd, case):
    given, message = WRONG[case]
    monkeypatch.setattr(ray_tasks, "find_spec", lambda name: None if case == "no Ray" else object())
    with pytest.raises(SystemExit) as exit:
        atari.main(["--suite", "Catch", "--launcher", "ray", *given])
    out, err = capfd.readouterr()
    assert message in err
    assert (exit.value.code, out, err.count("\n")) == (2, "", 1)


def progress(root: Path) -> int:
    """The steps of all runs together, by their checkpoints."""
    runs = [RunDir(root / f"run{index}") for index in range(4)]
    return sum(int(run.newest_checkpoint().name) for run in runs if run.has_checkpoint())


def wait_for(condition, seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_cluster_loses_the_driver_and_a_node_and_no_run(root):
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 80_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **small})
    command = [sys.executable, "-c", DRIVER, str(root.parent / "run.py"), str(root), cluster.address]

    def launch(more: int) -> subprocess.Popen:
        before = progress(root)
        driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        wait_for(lambda: progress(root) >= before + more)
        return driver

    try:
        node = cluster.add_node(**small)
        stopped = launch(4)
        stopped.send_signal(signal.SIGINT)
        assert "capacity 2" in stopped.communicate(timeout=300)[0]
        assert stopped.returncode == 130
        assert not any(job(root, f"run{index}").is_running() for index in range(4))
        killed = launch(4)
        killed.kill()
        killed.communicate()
        last = launch(4)
        cluster.remove_node(node, allow_graceful=False)
        out = last.communicate(timeout=300)[0]
    finally:
        cluster.shutdown()
    assert last.returncode == 0, out
    assert out.count("will be tried again: its node was lost") == 1
    assert sorted((root / "results.txt").read_text().split()) == [f"run{index}" for index in range(4)]
    for index in range(4):
        run = RunDir(root / f"run{index}")
        assert json.loads(run.result.read_text()) == {"steps": 60}
        assert run.metrics.read_text().split() == [str(step) for step in range(1, 61)]
