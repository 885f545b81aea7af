"""Sweeps that train the seeds of an arm and game together: which, why, what is begun on disk, and the same results."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.atari import main
from benchmarks.report.runs import read_runs
from benchmarks.sweep.command import AgentSweep, Settings, parse
from benchmarks.sweep.runs import KIND
from experiment.config import ConfigError
from experiment.storage.run_dir import RunDir
from experiment.sweeps.calibration import Memory, Pace
from experiment.sweeps.job import Job
from experiment.sweeps.manifest import Manifest
from experiment.sweeps.status import SweepStatus

TINY = (
    "--config minatar --steps 200 --update-start 60 --checkpoint-interval 50 --eval-episodes 1 --compile false "
    "--batch-size 8 --probe-interval 0 --log-interval 50"
)
GAME = "MinAtar/Breakout"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


def words(root: Path, *more: str, seeds: int = 3, suite: str = GAME, options: str = TINY) -> list[str]:
    where = ["--suite", suite, "--seeds", str(seeds), "--root", str(root)]
    return [*where, *(() if "--processes" in more else ("--processes", "1")), *more, "--", *options.split()]


def planned(root: Path, *more: str, **options) -> AgentSweep:
    return AgentSweep(*parse(words(root, *more, **options), Settings))


def jobs(ready: AgentSweep) -> list[Job]:
    return ready.packing.jobs(ready.runs, ready.settings.processes)


def seeds(made: Sequence[Job]) -> list[list[int]]:
    """The seeds of each job."""
    return [[int(run.name.rpartition("-s")[2]) for run in job.runs] for job in made]


def begin(root: Path, seeds: Sequence[int], fleet: bool = True, saved: bool = True) -> list[RunDir]:
    """Leaves runs of the arm dqn as a sweep that was killed leaves them."""
    runs = [RunDir(root / f"dqn-MinAtar_Breakout-s{seed}") for seed in seeds]
    entries = {entry.name: entry for entry in planned(root, seeds=10).runs}
    for run in runs:
        RunDir.create(root, run.path.name, KIND.settings(entries[run.path.name]), explicit=True).unlock()
        if fleet:
            run.fleet.write_text(json.dumps([each.path.name for each in runs]))
        if saved:
            (run.checkpoints / "50").mkdir()
    return runs


@pytest.mark.parametrize(
    ("processes", "suite", "expected"),
    [
        (1, GAME, [[0, 1, 2, 3, 4]]),
        (2, GAME, [[0, 1], [2, 3, 4]]),
        (8, GAME, [[0, 1], [2, 3, 4]]),  # a fleet has two members or more
        (2, "MinAtar/Breakout,MinAtar/Asterix", [[0, 1, 2, 3, 4]] * 2),
        (3, "MinAtar/Breakout,MinAtar/Asterix", [[0, 1], [2, 3, 4]] * 2),
    ],
)
def test_fleets_are_as_large_as_can_be_while_every_process_has_one(processes, suite, expected, tmp_path):
    ready = planned(tmp_path, "--processes", str(processes), suite=suite, seeds=5)
    assert seeds(jobs(ready)) == expected
    names = [run.name for job in jobs(ready) for run in job.runs]
    assert sorted(names) == sorted(entry.name for entry in ready.runs)


def test_the_command_of_a_fleet_is_that_of_its_runs(tmp_path):
    ready = planned(tmp_path, "--arm", "a:--nap")
    (job,) = jobs(ready)
    one = ready.runs[0].command
    assert job.name == "a-MinAtar_Breakout-s0-2"
    assert job.argv()[:4] == one[:4]
    assert job.argv()[-2:] == ("--name", "a-MinAtar_Breakout")
    differ = [(there, here) for there, here in zip(one, job.argv(), strict=True) if there != here]
    assert differ == [("--seed", "--seeds"), ("0", "0-2"), ("a-MinAtar_Breakout-s0", "a-MinAtar_Breakout")]
    assert job.resume == (*one[:3], "--resume", f"{tmp_path}/a-MinAtar_Breakout-s0", "--seeds", "0-2")


def test_runs_go_on_as_they_began(tmp_path):
    fleet, single = begin(tmp_path, (0, 1, 4)), begin(tmp_path, (2,), fleet=False)
    ready = planned(tmp_path, seeds=7)
    assert seeds(jobs(ready)) == [[0, 1, 4], [2], [3, 5, 6]]
    whole, alone, _ = jobs(ready)
    assert whole.argv()[3:] == ("--resume", str(fleet[0].path), "--seeds", "0-1,4")
    assert alone.argv()[3:] == ("--resume", str(single[0].path))
    fleet[0].result.write_text("{}")
    again = jobs(planned(tmp_path, seeds=7))
    assert seeds(again) == [[0], [1, 4], [2], [3, 5, 6]]
    assert again[1].argv()[3:] == ("--resume", str(fleet[1].path), "--seeds", "0-1,4")
    assert seeds(jobs(planned(tmp_path, "--fleet", "off", seeds=7))) == [[seed] for seed in range(7)]
    fleet[0].config.unlink()
    assert seeds(jobs(planned(tmp_path, seeds=7))) == [[0], [1], [2], [3, 5, 6], [4]]  # a fleet of which one is gone


def test_a_run_that_went_on_alone_does_so_again(tmp_path):
    fleet = begin(tmp_path, (0, 1, 2))
    fleet[0].fleet.unlink()
    made = jobs(planned(tmp_path, seeds=3))
    assert seeds(made) == [[0], [1, 2]]
    assert [job.argv()[3:] for job in made] == [
        ("--resume", str(fleet[0].path)),
        ("--resume", str(fleet[1].path), "--seeds", "0-2"),
    ]


def test_a_fleet_that_another_sweep_began_otherwise_goes_on_run_by_run(tmp_path):
    small, large = (planned(tmp_path, "--processes", str(processes), seeds=4) for processes in (2, 1))
    waiting, (whole,) = jobs(small), jobs(large)
    assert seeds(waiting) == [[0, 1], [2, 3]]
    assert seeds([part for job in waiting for part in job.parts()]) == [[0, 1], [2, 3]]
    begin(tmp_path, (0, 1, 2, 3))
    assert seeds([part for job in waiting for part in job.parts()]) == [[0], [1], [2], [3]]
    assert whole.parts() == (whole,)


def test_a_fleet_without_a_checkpoint_begins_again_with_the_seeds_that_are_asked_for(tmp_path):
    begin(tmp_path, (0, 1, 4), saved=False)
    assert seeds(jobs(planned(tmp_path, seeds=5))) == [[0, 1, 4], [2, 3]]
    assert seeds(jobs(planned(tmp_path, seeds=2))) == [[0, 1]]
    assert "--seeds" in jobs(planned(tmp_path, seeds=2))[0].argv()


def test_what_is_recorded_elsewhere_is_in_no_fleet(tmp_path):
    entries = planned(tmp_path, seeds=4).runs
    settings = json.dumps(KIND.shared(KIND.settings(entries[1]))).replace('"', '""')
    (tmp_path / "have.csv").write_text(f'arm,task,seed,score,settings\ndqn,{GAME},1,3.5,"{settings}"\n')
    ready = planned(tmp_path, "--have", str(tmp_path / "have.csv"), seeds=4)
    assert seeds(jobs(ready)) == [[0, 2, 3]]
    assert jobs(ready)[0].argv()[jobs(ready)[0].argv().index("--seeds") + 1] == "0,2-3"


RULE = "arm a: fleets: MinAtar's network is faster so on a CPU; --dry-run --calibrate measures it"
FORK = [
    "arm a: fleets: MinAtar's network is faster so on a CPU; --dry-run --calibrate measures it",
    "arm b: single runs: a fork has the seed of its run",
]
OTHER = "of the networks only MinAtar's is known to be faster in fleets; --dry-run --calibrate measures it"


@pytest.mark.parametrize(
    ("given", "suite", "said"),
    [
        (["--arm", "a:"], GAME, [RULE]),
        (["--arm", "a:", "--fleet", "on"], GAME, ["arm a: fleets: --fleet on"]),
        (["--arm", "a:", "--fleet", "off"], GAME, []),
        (["--arm", "a:", "--arm", "b:--fork a@100"], GAME, FORK),
        (
            ["--arm", "a:--plasticity parseval"],
            GAME,
            ["arm a: single runs: Parseval cannot be stacked: train these seeds one by one"],
        ),
        (
            ["--arm", "a:--precision bf16"],
            GAME,
            ["arm a: single runs: a fleet computes in fp32: leave out --precision bf16"],
        ),
        (
            ["--arm", "a:--keep-checkpoints 1"],
            GAME,
            ["arm a: single runs: a fleet keeps 2 checkpoints or more: leave out --keep-checkpoints 1"],
        ),
        (["--arm", "a:", "--arm", "b:--nap"], "Catch", [f"arms a, b: single runs: {OTHER}"]),
        (["--arm", "a:", "--fleet", "on"], "Catch", ["arm a: fleets: --fleet on"]),
    ],
)
def test_the_plan_says_how_an_arm_trains_and_why(given, suite, said, tmp_path, capsys):
    options = TINY if suite == GAME else TINY.replace("--config minatar", "--config catch")
    argv = words(tmp_path / "root", "--dry-run", *given, suite=suite, options=options)
    assert main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "fleets: " in line or "single runs: " in line] == said
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(("seconds", "text"), [(0.5, "fleets: 2.0"), (4.0, "single runs: 0.2")])
def test_a_measurement_decides_before_the_rule(seconds, text, tmp_path):
    ready = planned(tmp_path)
    memory, config = Memory(KIND, "cpu"), KIND.settings(ready.runs[0])
    memory.keep(config, Pace(1.0, 1.0, "now"))
    assert list(ready.packing.lines(ready.runs)) == [RULE.replace("arm a", "arm dqn")]
    memory.keep(config, Pace(seconds, seconds, "now", 5))
    (line,) = ready.packing.lines(ready.runs)
    assert line.startswith(f"arm dqn: {text} times as fast with 5 seeds, as measured on 20")
    assert len(jobs(planned(tmp_path))) == (1 if seconds < 1 else 3)
    assert len(jobs(planned(tmp_path, "--fleet", "on"))) == 1


@pytest.mark.slow
def test_a_calibration_measures_the_fleet_of_the_arms_that_can_have_one(tmp_path, capsys):
    arms = ["--arm", "a:", "--arm", "b:--plasticity parseval"]
    assert main(words(tmp_path / "root", "--dry-run", "--calibrate", *arms, seeds=4)) == 0
    lines = capsys.readouterr().out.splitlines()
    memory = Memory(KIND, "cpu")
    for arm, members in (("a", [1, 4]), ("b", [1])):
        config = KIND.settings(next(entry for entry in planned(tmp_path, *arms).runs if entry.arm == arm))
        found = [memory.recall(config), memory.recall(config, fleet=True)]
        assert [pace.members for pace in found if pace is not None] == members
    assert any(" times as fast with 4 seeds, by 200 updates on MinAtar/Breakout" in line for line in lines)
    assert "arm b: single runs: Parseval cannot be stacked: train these seeds one by one" in lines


def test_a_fleet_counts_as_one_process(tmp_path):
    runs = begin(tmp_path, (0, 1, 4))
    ready = planned(tmp_path, seeds=5)
    (tmp_path / "logs").mkdir()
    status = SweepStatus(KIND, tmp_path, ready.runs)
    with contextlib.ExitStack() as stack:
        for name in (*(run.path.name for run in runs), "dqn-MinAtar_Breakout-s3"):
            log = stack.enter_context((tmp_path / "logs" / f"{name}.log").open("w"))
            fcntl.flock(log, fcntl.LOCK_EX)
        status.look()
        assert seeds(jobs(ready)) == [[0, 1, 4], [2], [3]]  # who is at work on 3 may have begun it
    assert len(status.named("running")) == 4
    assert status.side_by_side() == 2
    assert seeds(jobs(ready)) == [[0, 1, 4], [2, 3]]


def test_fleets_are_on_a_cpu(tmp_path):
    with pytest.raises(ConfigError, match="--fleet on is for --device cpu: with --device cuda every run is a process"):
        planned(tmp_path, "--fleet", "on", "--device", "cuda")


def facts(root: Path) -> dict[str, tuple]:
    """What every run came to, but for its bits."""
    results = {path.parent.name: json.loads(path.read_text()) for path in root.glob("*/result.json")}
    names = ("seed", "agent_steps", "updates", "frames", "parameters", "protocol")
    return {run: tuple(str(result[name]) for name in names) for run, result in results.items()}


def hashes(root: Path) -> dict[str, str]:
    return {path.parent.name: json.loads(path.read_text())["parameter_hash"] for path in root.glob("*/result.json")}


def test_a_sweep_trains_two_seeds_in_one_process(tmp_path):
    assert main(words(tmp_path, "--arm", "a:--nap --steps 150", "--fleet", "on", seeds=2)) == 0
    assert {path.parent.name for path in tmp_path.glob("*/fleet.json")} == set(facts(tmp_path))
    assert set(facts(tmp_path)) == {"a-MinAtar_Breakout-s0", "a-MinAtar_Breakout-s1"}


@pytest.mark.slow
def test_fleets_make_the_runs_that_single_runs_make(tmp_path):
    arm, other = ["--arm", "a:--nap --steps 300"], ["--arm", "b:--plasticity parseval"]
    together, alone = tmp_path / "together", tmp_path / "alone"
    assert main(words(together, *arm, *other, "--fleet", "on", seeds=2)) == 0
    assert main(words(alone, *arm, "--fleet", "off", seeds=2)) == 0
    assert facts(alone) == {name: found for name, found in facts(together).items() if name.startswith("a-")}
    assert {run.arm for run in read_runs((str(together),))} == {"a", "b"}
    fleets = {path.parent.name for path in together.glob("*/fleet.json")}
    assert fleets == set(facts(alone)) == {"a-MinAtar_Breakout-s0", "a-MinAtar_Breakout-s1"}
    assert len(facts(together)) == len(list((together / "logs").iterdir())) == 4


@pytest.mark.slow
def test_a_sweep_of_fleets_that_is_killed_ends_as_one_that_was_not(tmp_path, capsys):
    arm = ["--arm", "a:--nap --steps 1500"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(words(whole, *arm, seeds=2)) == 0
    for number in (signal.SIGKILL, signal.SIGINT):
        sweep = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.atari", *words(killed, *arm, seeds=2)], start_new_session=True
        )
        last = RunDir(killed / "a-MinAtar_Breakout-s1")
        before = last.steps()
        wait_for(lambda last=last, before=before: set(last.steps()) - set(before))
        os.kill(sweep.pid, number)
        assert sweep.wait(120) != 0
    capsys.readouterr()
    assert main(words(killed, *arm, "--dry-run", seeds=2)) == 0
    assert "2 runs: 0 done, 2 to resume, 0 to start" in capsys.readouterr().out
    assert main(words(killed, *arm, "--processes", "2", seeds=2)) == 0
    assert hashes(killed) == hashes(whole)
    status = SweepStatus(KIND, killed, Manifest.load(killed).runs)
    status.look()
    assert [status.statuses[entry.name].state for entry in status.entries] == ["done"] * 2


def wait_for(condition, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
