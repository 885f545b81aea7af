"""One sweep trains a run to some step and forks it for each other arm: what it plans, waits for, and goes on with."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.atari import main
from benchmarks.report.runs import read_runs
from benchmarks.sweep.command import AgentSweep, Settings, parse
from benchmarks.sweep.runs import KIND
from experiment.config import ConfigError, load_yaml
from experiment.storage.run_dir import RunDir
from experiment.sweeps.manifest import Manifest
from experiment.sweeps.status import SweepStatus

TINY = "--steps 130 --update-start 60 --checkpoint-interval 50 --eval-episodes 1 --compile false --batch-size 8"
ARMS = [
    "--arm", "trunk:--n-step 3", "--arm", "plain:--fork trunk@90",
    "--arm", "reset:--fork=trunk@90 --plasticity reset:period=9", "--arm", "longer:--fork trunk --steps 150",
]  # fmt: skip


def words(root: Path, *more: str, arms: list[str] = ARMS, seeds: int = 1, options: str = TINY) -> list[str]:
    where = ["--suite", "Catch", "--seeds", str(seeds), "--root", str(root), "--processes", "2"]
    return [*where, *arms, *more, "--", *options.split(), "--probe-interval", "0"]


def planned(root: Path, *more: str, **options) -> AgentSweep:
    return AgentSweep(*parse(words(root, *more, **options), Settings))


def test_forks_come_after_what_they_fork_and_have_its_settings(tmp_path):
    ready = planned(tmp_path, seeds=2)
    runs = {entry.name: entry for entry in ready.runs}
    assert len(runs) == 8
    trunk, plain, longer = (runs[f"{arm}-Catch-s1"] for arm in ("trunk", "plain", "longer"))
    assert trunk.command[trunk.command.index("--checkpoint-at") + 1] == "90,130"
    assert (plain.source, plain.fork_step) == (trunk, 90)
    assert plain.command[plain.command.index("--fork") + 1] == f"{tmp_path}/trunk-Catch-s1@90"
    assert "--n-step" not in plain.command
    assert (longer.fork_step, KIND.settings(longer).budget, KIND.settings(longer).n_step) == (130, 150, 3)
    assert KIND.settings(plain) == load_like(KIND.settings(trunk), KIND.settings(plain))
    jobs = {job.name: job for job in ready.jobs}
    assert jobs[trunk.name].is_ready()
    assert not jobs[plain.name].is_ready()
    assert jobs[trunk.name].resume[-2:] == ("--checkpoint-at", "90,130")
    ready.write_manifest()
    assert Manifest.load(tmp_path).runs == ready.runs
    assert KIND.workload(KIND.settings(longer)).work(130) == 0
    assert planned(tmp_path, seeds=2).manifest() == Manifest.load(tmp_path)


def load_like(trunk, plain):
    """A fork's settings but for those that it has of its own: all are those of the trunk."""
    from dataclasses import replace

    own = ("fork", "fork_step", "fork_hash", "fork_changed", "name", "root", "checkpoint_at", "replay_capacity")
    return replace(trunk, **{name: getattr(plain, name) for name in own})


WRONG = {
    "plain:--fork trnk@90": "it has to name an arm that is given before, as ARM@STEP; did you mean 'trunk'?",
    "plain:--fork plain@90": "it has to name an arm that is given before",
    "plain:--fork": "it has to name an arm that is given before",
    "plain:--fork trunk@200": "arm 'plain': --fork trunk@200: trunk ends at 130",
    "plain:--fork trunk": "the fork begins at 130, and 130 is its budget in all",
    "plain:--fork trunk@90 --network nature": "arm 'plain': --network nature: the run to fork has small",
    "plain:--fork trunk@90 --seed 3": "arm 'plain': --seed is set by the sweep",
    "plain:--fork trunk@90 --fork-step 3": "--fork-step is what --fork RUN@STEP sets",
}


@pytest.mark.parametrize("arm", WRONG)
def test_bad_arms_are_one_line(arm, tmp_path):
    with pytest.raises(ConfigError) as error:
        planned(tmp_path, arms=["--arm", "trunk:", "--arm", arm])
    assert WRONG[arm] in str(error.value)
    assert "\n" not in str(error.value)


def test_where_the_sweep_saves_an_arm_may_not_say_it_too(tmp_path):
    arms = ["--arm", "trunk:--checkpoint-at 30", "--arm", "plain:--fork trunk@90"]
    with pytest.raises(ConfigError, match="arm 'trunk': --checkpoint-at is set by the sweep"):
        planned(tmp_path, arms=arms)
    with pytest.raises(ConfigError, match="the options after --: --fork is set by the sweep"):
        planned(tmp_path, options=f"{TINY} --fork x")
    with pytest.raises(ConfigError, match="trunk ends at 136, and makes 8 at once"):
        planned(tmp_path, options=f"{TINY} --num-envs 8")


def hashes(root: Path) -> dict[str, str]:
    return {path.parent.name: json.loads(path.read_text())["parameter_hash"] for path in root.glob("*/result.json")}


@pytest.mark.slow
def test_a_sweep_that_is_killed_again_and_again_ends_the_same(tmp_path, capsys):
    root, code = tmp_path / "root", []
    for seconds in (9, 6, None):  # the trunk, then some forks, are under way
        sweep = subprocess.Popen([sys.executable, "-m", "benchmarks.atari", *words(root)], start_new_session=True)
        if seconds is not None:
            time.sleep(seconds)
            os.killpg(sweep.pid, signal.SIGKILL)
        code.append(sweep.wait(300))
    assert code[-1] == 0
    found = hashes(root)
    assert found["plain-Catch-s0"] == found["trunk-Catch-s0"]
    assert len(set(found.values())) == 3
    assert RunDir(root / "trunk-Catch-s0").steps() == [90, 100, 130]
    assert main(words(root, "--dry-run")) == 0
    assert "4 runs: 4 done" in capsys.readouterr().out
    status = SweepStatus(KIND, root, Manifest.load(root).runs)
    status.look()
    assert [status.statuses[entry.name].state for entry in status.entries] == ["done"] * 4
    assert {run.arm for run in read_runs((str(root),))} == {"trunk", "plain", "reset", "longer"}
    config = load_yaml(KIND.config_class, root / "reset-Catch-s0" / "config.yaml")
    assert (config.fork_step, config.plasticity) == (90, ("reset:period=9",))

    recorded, again = tmp_path / "all.csv", tmp_path / "again"
    assert main(["--status", str(root), "--record", str(recorded)]) == 0
    have = ["--have", str(recorded)]
    assert planned(again, *have).runs == ()
    arms = [*ARMS, "--arm", "other:--fork trunk@90 --lr 1e-4"]
    ready = planned(again, *have, arms=arms)
    assert [entry.name for entry in ready.runs] == ["trunk-Catch-s0", "other-Catch-s0"]
    assert "1 run of them made again, for a checkpoint to fork" in ready.note
    shutil.copytree(root / "trunk-Catch-s0", again / "trunk-Catch-s0")
    assert [entry.name for entry in planned(again, *have, arms=arms).runs] == ["other-Catch-s0"]
    lr = KIND.settings(ready.runs[0]).lr
    elsewhere = [*ARMS[:2], "--arm", "low:--n-step 3 --lr 1e-5", "--arm", f"plain:--fork low@90 --lr {lr}"]
    with pytest.raises(
        ConfigError, match=r"plain-Catch-s0 has other settings, before the fork, nothing there and lr=1e-05 here"
    ):
        planned(again, *have, arms=elsewhere)
