"""A fleet's runs: N directories as N runs have them, whole after any kill, each able to go on alone."""

from __future__ import annotations

import gc
import json
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import agents.run
from agents.cli import main
from agents.fleet.run import FleetRun, common_step
from agents.fleet.trainer import FleetTrainer
from agents.run import AgentRun
from agents.training.monitor import Monitor
from experiment.config import ConfigError
from experiment.storage import checkpoint
from experiment.storage.run_dir import RunDir
from tests.agents.test_resume import QUICK, assert_equal, build_toy, config_of, die, die_amid_a_save, rows, train

SEEDS = (0, 1, 5)


@pytest.fixture(autouse=True)
def little(monkeypatch):
    """Runs are of little networks on little frames."""
    monkeypatch.setattr(agents.run, "build_trainer", build_toy)


def fleet(root: Path, name: str, resume: str | None = None, **options: Any) -> FleetRun:
    """A fleet, and no locks of earlier ones of this process."""
    for directory in list(RunDir._locks):
        RunDir(directory).unlock()
    return FleetRun(config_of(root, name, resume=resume, **options), SEEDS)


def directories(root: Path, name: str) -> list[RunDir]:
    return [RunDir(root / f"{name}-s{seed}") for seed in SEEDS]


def test_members_have_what_runs_have(tmp_path, capsys):
    assert fleet(tmp_path, "all").train() == 0
    alone = train(config_of(tmp_path, "alone", seed=5))
    own = RunDir(tmp_path / "all-s5")
    result, expected = (json.loads(run.result.read_text()) for run in (own, alone.directory))
    assert result.keys() == expected.keys()
    assert result["seed"] == 5
    assert result["updates"] == expected["updates"]
    assert [sorted(row) for row in rows(own)] == [sorted(row) for row in rows(alone)]
    played = ("episode", "episode_return", "agent_step")
    assert [[row.get(name) for name in played] for row in rows(own)] == [
        [row.get(name) for name in played] for row in rows(alone)
    ]
    assert {item.name for item in own.path.iterdir()} - {"fleet.json"} == {
        i.name for i in alone.directory.path.iterdir()
    }
    assert "a fleet of the seeds 0-1,5" in capsys.readouterr().out


def test_a_checkpoint_of_a_member_is_no_larger_than_that_of_a_run(tmp_path):
    fleet(tmp_path, "all").train()
    alone = train(config_of(tmp_path, "alone", seed=5))
    sizes = [run.newest_checkpoint() / "trainer.pt" for run in (RunDir(tmp_path / "all-s5"), alone.directory)]
    assert sizes[0].stat().st_size < 1.05 * sizes[1].stat().st_size


def die_in_step(steps: int) -> None:
    """Has this process kill itself in a step of a group."""
    left, step = iter(range(steps, 0, -1)), FleetTrainer.step

    def dying(trainer: FleetTrainer) -> None:
        step(trainer)
        if next(left, 0) == 1:
            die()

    FleetTrainer.step = dying  # type: ignore[method-assign]


def in_child(work: Callable[[], int]) -> int:
    """The exit code of a forked process; this one never starts torch's threads, which a fork does not survive."""
    if (child := os.fork()) == 0:
        gc.freeze()
        os._exit(work())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize(
    "options", [{"plasticity": ("redo:period=3", "c-chain:after=9,window=20"), "nap": True, "threads": 2}], ids=str
)
def test_nothing_is_lost_however_often_a_fleet_is_killed(options, tmp_path, capfd):
    deaths, draws = 6, random.Random(1)
    options = options | {"steps": 160, "checkpoint_interval": 10}
    assert in_child(lambda: fleet(tmp_path, "whole", **options).train()) == 0

    def broken(death: int) -> int:
        saves, flushes, steps = draws.random() < 0.6, draws.randint(3, 30), draws.randint(10, 60)
        run = fleet(tmp_path, "broken", resume="auto" if death else None, **options)
        if death < deaths:
            die_amid_a_save(flushes) if saves else die_in_step(steps)
        return run.train()

    for death in range(deaths + 1):
        draws.seed(death)
        code = in_child(lambda death=death: broken(death))  # type: ignore[misc]
        assert code == (-signal.SIGKILL if death < deaths else 0), capfd.readouterr().err
    assert "Traceback" not in capfd.readouterr().err
    for one, whole in zip(directories(tmp_path, "broken"), directories(tmp_path, "whole"), strict=True):
        assert_equal(one, whole)


def test_a_member_goes_on_alone_and_says_that_its_bits_may_differ(tmp_path, monkeypatch, capsys):
    killed(tmp_path, monkeypatch)
    run = AgentRun(config_of(tmp_path, "all-s1", seed=1, resume=str(tmp_path / "all-s1")))
    said = capsys.readouterr().out
    assert "trained alone, was in a fleet of 3): the run goes on, but its bits may differ" in said
    assert run.train() == 0
    assert run.step == QUICK.budget


def test_a_finished_or_stopped_member_keeps_its_place(tmp_path, monkeypatch, capsys):
    killed(tmp_path, monkeypatch)
    done = AgentRun(config_of(tmp_path, "all-s1", seed=1, resume=str(tmp_path / "all-s1")))
    assert done.train() == 0
    assert fleet(tmp_path, "all", resume=str(tmp_path / "all-s0")).train() == 0
    assert "seed 1 is finished" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="finished"):
        fleet(tmp_path, "all", resume=str(tmp_path / "all-s0"))


def test_a_run_that_is_of_no_fleet_or_of_another_is_refused(tmp_path, monkeypatch):
    killed(tmp_path, monkeypatch)
    config = config_of(tmp_path, "all", resume=str(tmp_path / "all-s0"))
    with pytest.raises(ConfigError, match="has the seeds 0-1,5: give --seeds 0-1,5"):
        FleetRun(config, (0, 1))
    train(config_of(tmp_path, "alone"))
    with pytest.raises(ConfigError, match="is no run of a fleet"):
        fleet(tmp_path, "all", resume=str(tmp_path / "alone"))


@pytest.mark.parametrize(
    ("place", "options"),
    [
        (0, {"nap": True, "plasticity": ("reset:period=7", "c-chain:after=10,window=20"), "schedule": "constant"}),
        (0, {"nap": True, "nap_every": 3, "schedule": "constant"}),
        (1, {"plasticity": ("redo:period=7,tau=0.5,samples=8",), "schedule": "cosine"}),
    ],
    ids=["c-chain", "constant", "cosine"],
)
def test_a_place_without_a_member_changes_no_bit_of_the_others(place, options, tmp_path, monkeypatch):
    assert fleet(tmp_path, "whole", **options).train() == 0
    killed(tmp_path, monkeypatch, **options)
    (tmp_path / f"all-s{SEEDS[place]}" / "result.json").write_text("{}")
    assert fleet(tmp_path, "all", resume="auto", **options).train() == 0
    pairs = zip(directories(tmp_path, "all"), directories(tmp_path, "whole"), strict=True)
    for one, whole in (pair for number, pair in enumerate(pairs) if number != place):
        assert_equal(one, whole)


def killed(root: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    """A fleet that ended at step 100, with checkpoints of step 40 and 80."""
    with monkeypatch.context() as patch:
        step = FleetTrainer.step

        def ending(trainer: FleetTrainer) -> None:
            if trainer.first.agent_step == 100:
                raise KeyboardInterrupt
            step(trainer)

        patch.setattr(FleetTrainer, "step", ending)
        with pytest.raises(KeyboardInterrupt):
            fleet(root, "all", **options).train()
    for directory in directories(root, "all"):
        directory.unlock()


@pytest.mark.parametrize("sick", [(1,), (0,)])
def test_a_member_that_diverges_stops_alone(sick, tmp_path, monkeypatch, capsys):
    assert fleet(tmp_path, "whole", schedule="cosine").train() == 0
    error = diverging(sick, tmp_path, monkeypatch, capsys, schedule="cosine")
    (place,) = sick
    assert f"all-s{SEEDS[place]}" in error
    assert error.splitlines()[-1].startswith(f"error: seed {SEEDS[place]}: stopped at agent step ")
    pairs = [*zip(directories(tmp_path, "all"), directories(tmp_path, "whole"), strict=True)]
    stopped, _ = pairs.pop(place)
    assert not stopped.finished
    for own, whole in pairs:
        assert_equal(own, whole)


def test_members_that_all_diverge_end_in_a_line_each(tmp_path, monkeypatch, capsys):
    error = diverging((0, 1, 2), tmp_path, monkeypatch, capsys, threads=2)
    assert [line.partition("stopped")[0] for line in error.splitlines()] == ["error: "] * 3 + ["error: seed 0: "]
    assert not any(run.finished for run in directories(tmp_path, "all"))


def diverging(sick: tuple[int, ...], root: Path, monkeypatch, capsys, **options: Any) -> str:
    """Trains a fleet of which these members diverge; what it says of that."""
    run, report = fleet(root, "all", **options), Monitor.report
    monitors = [run.members[place].trainer.monitor for place in sick]

    def spoiling(monitor: Monitor) -> dict[str, float]:
        if monitor in monitors and monitor.agent.updates > 20:
            with torch.no_grad():
                next(monitor.agent.network.parameters()).fill_(torch.nan)
        return report(monitor)

    monkeypatch.setattr(Monitor, "report", spoiling)
    capsys.readouterr()
    assert run.train() == 1
    error = capsys.readouterr().err
    assert "not finite" in error
    assert "Traceback" not in error
    return str(error)


@pytest.mark.parametrize(
    ("steps", "common"),
    [
        ([[40, 20], [40, 20], [20]], 20),  # killed amid the second save
        ([[20], [], []], 0),  # amid the first
        ([[40, 20], [200, 180], [200, 180]], 200),  # the first diverged
        ([[40, 20], [40, 20], [200, 180]], 200),  # most diverged
        ([[], [], [200, 180]], 200),  # so early
        ([[40, 20], [80, 60, 40, 20], [100, 80, 60, 40, 20]], 80),  # it kept all, and one is behind by a crash
        ([[], [], []], 0),
    ],
)
def test_the_step_to_go_on_from_is_the_newest_that_those_in_front_have(steps, common, tmp_path):
    runs = []
    for number, own in enumerate(steps):
        runs.append(RunDir(tmp_path / str(number)))
        for step in reversed(own):
            checkpoint.save(runs[-1].checkpoints, step, {"run": {}})
    assert common_step(runs) == common


@pytest.mark.parametrize("options", [{"plasticity": ("spectral",)}, {"keep_checkpoints": 1}, {}], ids=str)
def test_nothing_is_left_of_a_fleet_that_cannot_begin(options, tmp_path):
    if not options:
        (tmp_path / "all-s1").mkdir()
    before = list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match=r"^(--seeds: |run '.*all-s1' exists)"):
        fleet(tmp_path, "all", **options)
    assert list(tmp_path.iterdir()) == before


def test_a_fleet_that_was_killed_while_it_made_its_directories_begins_again(tmp_path):
    fleet(tmp_path, "all")
    for run in directories(tmp_path, "all"):
        run.fleet.unlink()
    shutil.rmtree(tmp_path / "all-s5")
    assert fleet(tmp_path, "all", resume="auto").train() == 0
    assert [run.finished for run in directories(tmp_path, "all")] == [True] * 3


def test_a_damaged_checkpoint_takes_the_fleet_to_the_one_before(tmp_path, monkeypatch, capsys):
    assert fleet(tmp_path, "whole").train() == 0
    killed(tmp_path, monkeypatch)
    damaged = tmp_path / "all-s1" / "checkpoints" / f"{80:012d}" / "trainer.pt"
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    with pytest.warns(UserWarning, match="is damaged"):
        run = fleet(tmp_path, "all", resume="auto")
    assert [member.step for member in run.living] == [40] * 3
    assert run.train() == 0
    for one, whole in zip(directories(tmp_path, "all"), directories(tmp_path, "whole"), strict=True):
        assert_equal(one, whole)


def test_a_fleet_without_one_of_its_directories_says_how_the_others_go_on(tmp_path, monkeypatch):
    killed(tmp_path, monkeypatch)
    shutil.rmtree(tmp_path / "all-s5")
    with pytest.raises(ConfigError, match=r"all-s5.*is gone: resume the others one by one, without --seeds"):
        fleet(tmp_path, "all", resume="auto")


def test_a_member_that_went_on_alone_is_of_the_fleet_no_more(tmp_path, monkeypatch, capsys):
    killed(tmp_path, monkeypatch)
    alone = AgentRun(config_of(tmp_path, "all-s1", seed=1, resume=str(tmp_path / "all-s1")))
    alone.trainer.step()
    alone.save()
    run = fleet(tmp_path, "all", resume="auto")
    assert [member.step for member in run.living] == [80, 80]
    assert "seed 1 goes on alone, as it has before" in capsys.readouterr().out
    assert "--seeds 0-1,5 --resume" in run.living[0].resume_command()
    with pytest.raises(ConfigError, match="is no run of a fleet"):
        fleet(tmp_path, "all", resume=str(tmp_path / "all-s1"))


def test_groups_wait_for_one_another_at_every_checkpoint_that_is_asked_for(tmp_path):
    assert fleet(tmp_path, "none", checkpoint_interval=0)._stop_after(1_000) == 120  # the end of the run
    run = fleet(tmp_path, "all", threads=2, checkpoint_at=("44", "46"))
    for group in run.groups:
        group.open()
    for stop in (40, 44, 46, 80):
        assert run._stop_after(1_000) == stop
        for group in run.groups:
            group.run_until(lambda trainer, stop=stop: trainer.agent_step < stop)  # type: ignore[misc]


def test_a_fleet_of_forks_is_refused_in_one_line(tmp_path, capsys):
    run = train(config_of(tmp_path, "alone"))
    with pytest.raises(SystemExit, match="2"):
        main("dqn", ["--fork", f"{run.directory.path}@80", "--seeds", "0-1", "--steps", "400"])
    assert capsys.readouterr().err == (
        "error: --seeds and --fork: a fork has the seed of its run; fork each by itself\n"
    )
