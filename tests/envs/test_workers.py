"""Environments played by other processes: the same games, and what becomes of either side when the other ends."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import envs
from agents import cli
from envs.ale import AleVectorEnv
from envs.errors import WorkerLost
from envs.vector_env import Step
from envs.workers import Worker

RULES = dataclasses.replace(envs.PROTOCOLS["machado"], noop_max=7, max_frames=4 * 25)
WAYS = [{"num_threads": 2}, {"num_threads": 3}, {"background": True}, {"num_threads": 2, "background": True}]


def make(game: str = "Assault", num_envs: int = 3, **where) -> AleVectorEnv:
    return AleVectorEnv(game, RULES, num_envs, seed=6, **where)


def workers(env: AleVectorEnv) -> list[Worker]:
    return [player for player in env._players if isinstance(player, Worker)]


def played(env: AleVectorEnv, steps: int = 60) -> list[Step]:
    return [env.step(row) for row in np.random.default_rng(1).integers(env.num_actions, size=(steps, env.num_envs))]


def assert_same(left: list[Step], right: list[Step]) -> None:
    for one, two in zip(left, right, strict=True):
        for name, a, b in zip(Step._fields, one, two, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)
            assert a.dtype == b.dtype


@pytest.mark.parametrize("where", WAYS, ids=str)
def test_it_does_not_matter_who_plays(where):
    with closing(make()) as here, closing(make(**where)) as there:
        assert len(workers(there)) == where.get("num_threads", 1) - 1 + where.get("background", 0)
        assert (here.num_actions, here.frame_shape) == (there.num_actions, there.frame_shape)
        np.testing.assert_array_equal(here.reset(), there.reset())
        assert_same(played(here), played(there))
        with closing(make()) as resumed:  # by another number of processes
            resumed.load_state_dict(there.state_dict())
            assert_same(played(there, 30), played(resumed, 30))


def test_one_process_plays_what_one_thread_is_asked_for():
    with closing(make()) as env:
        assert not workers(env)
    with closing(make(num_envs=1, num_threads=8)) as env:
        assert not workers(env)


def test_in_the_background_a_step_is_played_before_it_is_asked_for():
    with closing(make(background=True)) as env:
        env.reset()
        env.send(np.zeros(3, np.int64))
        assert workers(env)[0]._pipe.poll(30)
        assert (env.recv().episode_steps == 1).all()


def test_what_ends_a_run_in_order_does_not_end_its_workers():
    with closing(make(num_threads=2)) as env:
        (worker,) = workers(env)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            worker._process.send_signal(number)
        env.reset()
        played(env, 3)
        assert worker._process.poll() is None
    assert worker._process.poll() == 0
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGINT, signal.SIGTERM} == set()


def test_a_lost_worker_is_named():
    with closing(make(num_threads=2)) as env:
        env.reset()
        workers(env)[0]._process.kill()
        with pytest.raises(WorkerLost, match=r"a process that plays the games has ended \(signal 9, Killed\)"):
            played(env, 3)


def test_a_run_without_its_worker_ends_in_one_line(tmp_path, monkeypatch, capsys):
    act, acted = AleVectorEnv._act, []

    def killed(self: AleVectorEnv, actions: np.ndarray) -> None:
        acted.append(actions)
        if len(acted) == 20:
            workers(self)[0]._process.kill()
            workers(self)[0]._process.wait()
        act(self, actions)

    monkeypatch.setattr(AleVectorEnv, "_act", killed)
    words = ["--env=Pong", "--num-envs=2", "--steps=100", "--update-start=90", "--overlap", "--compile=false"]
    words += ["--threads=1", "--probe-interval=0", "--eval-episodes=0", "--root", str(tmp_path), "--name=a"]
    assert cli.main("dqn", words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: a process that plays the games has ended (signal 9, Killed); go on from the last")
    assert line.endswith(f"--resume {tmp_path / 'a'}")


def test_workers_end_with_a_process_that_is_killed():
    code = (
        "import envs, sys, time; env = envs.make('Pong', 'machado', 2, num_threads=2); env.reset();"
        "print('playing', flush=True); time.sleep(600)"
    )
    root = Path(envs.__file__).parents[1]
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=root) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"playing\n"
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)  # until the last process that holds the other end of stdout, the worker, ends
    assert process.returncode == -signal.SIGKILL


def test_a_worker_is_found_from_any_folder_and_loads_no_torch(tmp_path, monkeypatch):
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "__init__.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    with closing(make(num_envs=1, background=True)) as env:
        env.reset()
        maps = Path(f"/proc/{workers(env)[0]._process.pid}/maps")
        assert not maps.exists() or "torch" not in maps.read_text()


def test_a_worker_is_found_in_a_folder_with_any_name(tmp_path):
    """Of a checkout, with a colon and a space in it; the name of the folder is no list of folders."""
    home = tmp_path / "check:out 1"
    for package in ("envs", "experiment"):
        shutil.copytree(Path(envs.__file__).parents[1] / package, home / package)
    code = (
        "import envs; env = envs.make('Pong', 'machado', 2, num_threads=2);"
        "print(envs.__file__, env.reset().shape); env.close()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=home, capture_output=True, text=True)
    assert done.stdout == f"{home / 'envs' / '__init__.py'} (2, 84, 84)\n", done.stderr
