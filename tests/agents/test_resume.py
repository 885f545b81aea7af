"""N + kill -9 + resume + N equals 2N, to the bit; and what becomes of damaged runs."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import io
import itertools
import json
import os
import random
import shutil
import signal
import tempfile
import threading
import warnings
from collections.abc import Collection
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import agents.run
from agents import cli
from agents.config import DQNConfig
from agents.run import AgentRun
from agents.training.saver import Saver
from agents.training.trainer import Trainer
from envs.catch import Catch
from envs.protocol import PROTOCOLS
from envs.vector_env import VectorEnv
from experiment.config import ConfigError, exit_on_bad_input, load_yaml
from experiment.interrupt import cli_session
from experiment.storage import checkpoint
from experiment.storage.run_dir import RunDir, find_resumed, load_settings
from plasticity.registry import METHODS
from tests.agents import toys
from tests.agents.test_dqn import RAINBOW
from tests.agents.toys import CATCH, catch_trainer
from tests.plasticity.test_every_method import ACTIVE

KILLED_AT, SAVE_EVERY = 100, 40
QUICK = dataclasses.replace(
    CATCH, env="Catch", steps=120, batch_size=8, update_start=60, target_period=20, epsilon_steps=100,
    replay_capacity=70, log_interval=7, probe_interval=50, checkpoint_interval=SAVE_EVERY, eval_episodes=0, block=3,
)  # fmt: skip
"""Saved at 40, 80 and 120, killed at 100: between two rows of metrics, in the middle of episodes."""

AGENTS = ("dqn",)
SPECS = ("", *(f"{name}{(ACTIVE | {'injection': ':at=20'})[name]}" for name in METHODS))
UTDS, NUM_ENVS, PROTOCOL, OVERLAP = ("1/4", "3/7", "8"), (1, 8), tuple(PROTOCOLS), (False, True)


def cell(agent: str, spec: str, column: int) -> dict[str, Any]:
    """A row of `SPECS` and a column of `UTDS`; the other settings so that all pairs of values occur."""
    row = SPECS.index(spec)
    return {
        "agent": agent,
        "plasticity": (spec,) if spec else (),
        "utd": UTDS[column],
        "num_envs": NUM_ENVS[(row + column) % 2],
        "protocol": PROTOCOL[row % 3 == column],
        "overlap": OVERLAP[(row // 3 + column // 2) % 2],
    }


CELLS = {(a, s, c): cell(a, s, c) for a, s, c in itertools.product(AGENTS, SPECS, range(len(UTDS)))}
OTHERS: list[dict[str, Any]] = [
    {"precision": "bf16", "plasticity": ("redo:period=3", "nap"), "utd": "3/7"},
    {"schedule": "cusum", "lr_floor": 1e-4, "rewarm_threshold": 0.5, "cycles": 4, "nap": True, "utd": "1"},
    {"on_nonfinite": "skip", "utd": "1/4", "log_interval": 3},
    {"replay_capacity": 10_000, "utd": "1/4", "num_envs": 8, "schedule": "one-cycle"},
    {"kill_at": 500, "steps": 640, "update_start": 300, "replay_capacity": 400, "num_envs": 8, "utd": "1/4"},
    {"agent": "rainbow", **RAINBOW, "max_grad_norm": 10.0, "utd": "3/7", "num_envs": 8, "overlap": True},
    {
        "agent": "der",
        **RAINBOW,
        "streams": "shared",
        "plasticity": ("redo:period=3", "nap"),
        "precision": "bf16",
        "utd": 1,
    },
    {"distribution": "quantile", "noisy": True, "prioritised": True, "augment": "drq", "utd": 1},
    {"checkpoint_interval": 7, "utd": "1/4", "num_envs": 8, "replay_capacity": 100},
    {
        "n_step_final": 1,
        "gamma_final": 0.999,
        "anneal_updates": 8,
        "plasticity": ("reset:period=12", "shrink-perturb:period=12"),
        "prioritised": True,
        "utd": 1,
    },
]


def test_the_table_has_every_pair_of_values():
    columns = list(zip(*(cell.values() for cell in CELLS.values()), strict=True))
    for one, two in itertools.combinations(columns, 2):
        assert set(zip(one, two, strict=True)) == set(itertools.product(set(one), set(two)))


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch):
    """A killed process, unlike a power cut, loses nothing that was written."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


class Killed(BaseException):
    """Stands for SIGKILL where a process cannot be spared: nothing is done after it."""


def build_toy(config: DQNConfig, agent_step: int = 0, joining: Collection[str] = ()) -> Trainer:
    return catch_trainer(joining=joining, **vars(config))


@pytest.fixture
def little(monkeypatch):
    """Runs are of little networks on little frames."""
    monkeypatch.setattr(agents.run, "build_trainer", build_toy)


def config_of(root: Path, name: str, base: DQNConfig = QUICK, **options: Any) -> DQNConfig:
    options["utd"] = Fraction(options.get("utd", 1))
    return dataclasses.replace(base, root=str(root), name=name, **options).resolved()


def train(config: DQNConfig, kill_at: int | None = None) -> AgentRun:
    """Trains to the end, or to an agent step where the process dies."""
    run = AgentRun(config)
    step = run.trainer.step

    def mortal():
        if kill_at is not None and run.trainer.agent_step >= kill_at:
            raise Killed
        return step()

    run.trainer.step = mortal  # type: ignore[method-assign]
    if kill_at is None:
        assert run.train() == 0
    else:
        with pytest.raises(Killed):
            run.train()
    return run


def resumed(config: DQNConfig, kill_at: int | None = None) -> AgentRun:
    return train(dataclasses.replace(config, resume=str(Path(config.root) / str(config.name))), kill_at)


def differences(one: Any, two: Any, where: str = "") -> list[str]:
    """Where two checkpoints differ, to the bit."""
    if isinstance(one, dict) and isinstance(two, dict) and one.keys() == two.keys():
        return [fault for key in one for fault in differences(one[key], two[key], f"{where}/{key}")]
    if isinstance(one, list | tuple) and isinstance(two, list | tuple) and len(one) == len(two):
        return [
            fault for i, (a, b) in enumerate(zip(one, two, strict=True)) for fault in differences(a, b, f"{where}/{i}")
        ]
    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        same = one.dtype == two.dtype and one.shape == two.shape
        same = same and one.reshape(-1).view(torch.uint8).tolist() == two.reshape(-1).view(torch.uint8).tolist()
    else:
        same = type(one) is type(two) and one == two
    return [] if same else [where]


def state_of(saved: checkpoint.Checkpoint) -> dict[str, Any]:
    """All that a checkpoint holds, but what may differ: names, wall time, and the generator that rich draws from."""
    run, trainer = saved.state["run"], saved.state["trainer"] | {"seconds": None}
    rng = run["rng"] | {"python": None}
    return saved.state | {"trainer": trainer, "run": {"env": run["env"], "rng": rng}}


def rows(run: AgentRun | RunDir) -> list[dict]:
    path = run.directory.metrics if isinstance(run, AgentRun) else run.metrics
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in path.read_text().splitlines()]


def final(run: RunDir) -> checkpoint.Checkpoint:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return checkpoint.load_latest(run.checkpoints)


def stored(saved: checkpoint.Checkpoint) -> bytes:
    """The newest rows of the replay, as the files hold them."""
    assert saved.rows is not None
    files = [(saved.path / f"rows-{segment['first']:012d}.bin").read_bytes() for segment in saved.rows["segments"]]
    return b"".join(files)


def assert_equal(broken: RunDir, whole: RunDir) -> None:
    one, two = final(broken), final(whole)
    assert one.step == two.step
    assert differences(state_of(one), state_of(two)) == []
    shorter = min(len(stored(one)), len(stored(two)))
    assert stored(one)[-shorter:] == stored(two)[-shorter:]
    assert rows(broken) == rows(whole)


def check_cell(tmp_path: Path, kill_at: int = KILLED_AT, **options: Any) -> None:
    if options["utd"] == "8":
        kill_at, options = 88, {"steps": 96, "update_start": 76} | options
    whole = train(config_of(tmp_path, "whole", **options))
    config = config_of(tmp_path, "broken", **options)
    killed = train(config, kill_at)
    ahead = len(rows(killed))
    broken_at = kill_at // config.checkpoint_interval * config.checkpoint_interval
    broken = resumed(config)
    assert broken.trainer.agent.updates > killed.trainer.agent.updates
    assert ahead > sum(row["agent_step"] <= broken_at for row in rows(whole))  # rows were cut back
    broken.trainer.replay.check()
    assert np.array_equal(*(run.trainer.replay.read_rows(*run.trainer.replay.stored_rows) for run in (whole, broken)))
    assert_equal(broken.directory, whole.directory)


def table() -> list[Any]:
    """All cells; for every day one for each method, with few updates, and the last of all."""
    quick = [key for key in CELLS if key[2] == SPECS.index(key[1]) % 2] + [max(CELLS)]
    return [
        pytest.param(key, id="-".join(map(str, key)), marks=() if key in quick else pytest.mark.slow) for key in CELLS
    ]


@pytest.mark.parametrize("key", table())
def test_killed_and_resumed_equals_undisturbed(key, little, tmp_path):
    check_cell(tmp_path, **CELLS[key])


@pytest.mark.parametrize("options", OTHERS, ids=lambda options: "-".join(options))
def test_other_settings_too(options, little, tmp_path):
    check_cell(tmp_path, **options)


@pytest.mark.slow
def test_compiled_too(little, tmp_path):
    check_cell(tmp_path, compile="true", nap=True, plasticity=("redo:period=3",), utd="3/7", schedule="one-cycle")


@pytest.mark.parametrize(
    ("protocol", "num_envs", "utd", "overlap"),
    [
        pytest.param("machado", 1, "3/7", False),
        pytest.param("atari100k", 8, "1/4", True, marks=pytest.mark.slow),
        pytest.param("machado", 8, "8", False, marks=pytest.mark.slow),
        pytest.param("atari100k", 1, "8", True, marks=pytest.mark.slow),
    ],
)
def test_real_games_too(protocol, num_envs, utd, overlap, tmp_path, monkeypatch):
    """With episodes so short that some end, and are truncated, before and after the kill."""
    short = dataclasses.replace(PROTOCOLS[protocol], max_frames=4 * 48 // num_envs)
    monkeypatch.setitem(PROTOCOLS, protocol, short)
    limits = {"update_start": 76, "batch_size": 4, "replay_capacity": 80, "cycles": 5}
    options = {"env": "Breakout", "nap": True, "protocol": protocol, "num_envs": num_envs, "overlap": overlap}
    check_cell(tmp_path, **options, **limits, utd=utd)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_amid_a_save(flushes: int) -> None:
    """Has this process kill itself when it is to flush the next file but so many to the disk."""
    left, flush = iter(range(flushes, 0, -1)), os.fsync

    def dying(file: int) -> None:
        if next(left, 0) == 0:
            die()
        flush(file)

    os.fsync = dying


def die_in_training(steps: int, seconds: float) -> None:
    """Has this process kill itself so long after so many steps of the trainer."""
    left, step = iter(range(steps, 0, -1)), Trainer.step

    def dying(trainer: Trainer) -> list:
        if next(left, 0) == 1:
            threading.Timer(seconds, die).start()
        return step(trainer)

    Trainer.step = dying


def die_often(root: Path, deaths: int, seed: int) -> tuple[int, int]:
    """Runs it again and again, and kills it at random moments or amid a save; the last exit code, how many died so.

    Each run is forked, since importing torch takes longer than it does, and chooses its end by what it does: by the
    clock alone a run on a quick machine would be over before it is killed.
    """
    amid, draws = 0, random.Random(seed)
    for death in range(deaths + 1):
        saves, flushes = draws.random() < 0.7, draws.randint(0, 8)
        steps, seconds = draws.randint(1, 12), draws.uniform(0, 0.005)
        if (child := os.fork()) == 0:
            gc.freeze()  # what other tests have left behind is not this process's to destroy
            if death < deaths:
                die_amid_a_save(flushes) if saves else die_in_training(steps, seconds)
            os._exit(cli.main("dqn", ["--resume", f"{root}/broken"]))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if death < deaths:
            assert code == -signal.SIGKILL, f"it was over before death {death}"
        amid += any(root.glob("broken/checkpoints/.tmp-*"))
    return code, amid


@pytest.mark.parametrize("deaths", [6, pytest.param(40, marks=pytest.mark.slow)])
def test_nothing_is_lost_however_often_a_process_is_killed(deaths, little, tmp_path, capfd):
    options = {"plasticity": ("redo:period=3",), "nap": True, "steps": 80 + 30 * deaths, "checkpoint_interval": 10}
    whole = train(config_of(tmp_path, "whole", **options))
    train(config_of(tmp_path, "broken", **options), kill_at=15)
    RunDir(tmp_path / "broken").unlock()
    code, amid = die_often(tmp_path, deaths, seed=0)
    said = capfd.readouterr().err
    assert code == 0, said
    assert "Traceback" not in said
    assert amid >= deaths // 6
    assert_equal(RunDir(tmp_path / "broken"), whole.directory)


class Forgetful(Catch):
    """A game that cannot be brought back, as envpool's cannot."""

    exact_resume = False
    state_dict = VectorEnv.state_dict
    load_state_dict = VectorEnv.load_state_dict


@pytest.mark.parametrize(("num_envs", "capacity"), [(1, 70), (3, 70), (1, 300), (3, 300)])
def test_without_exact_emulators_new_episodes_begin_and_the_old_ones_are_cut(
    num_envs, capacity, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(toys, "Catch", Forgetful)
    monkeypatch.setattr(agents.run, "build_trainer", build_toy)
    config = config_of(tmp_path, "a", num_envs=num_envs, n_step=1, steps=160, replay_capacity=capacity)
    killed = train(config, KILLED_AT)
    seen = killed.trainer.replay
    assert "a resume begins new episodes" in capsys.readouterr().out
    replay = resumed(config, 90).trainer.replay
    saved_at = -(-2 * SAVE_EVERY // num_envs) * num_envs
    last = torch.arange(saved_at - num_envs, saved_at).unsqueeze(0)
    batch, before = replay.gather(last), seen.gather(last)
    assert torch.equal(batch["obs"], before["obs"])
    assert torch.equal(batch["next_obs"], before["next_obs"])  # the true last observation
    assert torch.equal(batch["discount"], before["discount"])
    following = replay.gather(last + num_envs)["obs"]
    assert not following[0, :, :-1].any()  # a new episode
    for kill_at in (110, 130, None):  # a second cut at 80, and one at the save before each kill
        run = resumed(config, kill_at)
        run.trainer.replay.check()
        if capacity == 300:  # the first cut is still stored, and kept
            assert torch.equal(run.trainer.replay.gather(last)["next_obs"], before["next_obs"])
    assert "with new episodes" in capsys.readouterr().out
    assert run.trainer.agent.updates == run.trainer.agent_step - 60


@pytest.mark.parametrize("kind", [Catch, Forgetful])
def test_games_that_begin_anew_are_others_and_exact_ones_the_same(kind, monkeypatch):
    monkeypatch.setattr("envs.catch.Catch", kind)
    first, later = (agents.run.build_trainer(QUICK.resolved(), step).env for step in (0, 80))
    assert (first.rng.random() == later.rng.random()) == kind.exact_resume


def test_a_run_of_minatar_resumes_exactly_and_is_scored_under_its_protocol(tmp_path):
    pytest.importorskip("minatar", reason="MinAtar is an extra and is not installed")
    check_cell(tmp_path, env="MinAtar/Seaquest", utd="1/4", num_envs=2, nap=True, eval_episodes=2)
    result = json.loads((tmp_path / "whole" / "result.json").read_text())
    assert (result["protocol"]["name"], result["score"]["human_normalized"]) == ("minatar", None)
    assert (result["frames"], result["score"]["episodes"]) == (120, 2)


@pytest.fixture(scope="module")
def killed_run(tmp_path_factory):
    """A run with checkpoints at 40 and 80, killed at 100."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agents.run, "build_trainer", build_toy)
        run = train(config_of(tmp_path_factory.mktemp("killed"), "a", utd="1/4"), KILLED_AT)
    run.directory.unlock()
    return run.directory.path


def contents(run: Path) -> dict[str, bytes]:
    return {str(p.relative_to(run)): p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != ".lock"}


def resume_outcome(path: Path) -> tuple[int | None, list[str]]:
    """The step that a run goes on from, or None if it was refused with code 2; and the lines of stderr."""
    said = io.StringIO()
    config = dataclasses.replace(load_yaml(DQNConfig, path / "config.yaml"), resume=str(path))
    step, codes = None, []
    with contextlib.redirect_stderr(said), cli_session():
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", ResourceWarning)  # of what other tests have left open
        try:
            with exit_on_bad_input():
                run = AgentRun(config)
                run.tracker.close()
                run.trainer.replay.check()
                step = run.trainer.agent_step
        except SystemExit as stop:
            codes.append(stop.code)
    RunDir(path).unlock()
    assert codes == ([2] if step is None else [])
    return step, said.getvalue().splitlines()


def future(manifest: Path) -> None:
    try:
        read = json.loads(manifest.read_bytes())
    except (OSError, ValueError):  # an earlier damage had it
        return
    body = {key: value for key, value in read.items() if key != "sha256"} | {"layout": 99}
    manifest.write_text(json.dumps({"sha256": checkpoint._digest(body), **body}))


def damage(data: st.DataObject, run: Path) -> None:
    """Spoils one file of a checkpoint, or all of it."""
    place = data.draw(st.sampled_from(sorted((run / "checkpoints").iterdir())), "checkpoint")
    files = sorted(path for path in place.iterdir() if path.is_file() and path.stat().st_size)
    if not files:
        return
    victim, other = data.draw(st.sampled_from(files), "victim"), data.draw(st.sampled_from(files), "other")
    content = victim.read_bytes()
    at = data.draw(st.integers(0, len(content) - 1), "at")
    kind = data.draw(
        st.sampled_from(["flip", "cut", "empty", "longer", "remove", "swap", "directory", "future", "gone"])
    )
    if kind == "flip":
        victim.write_bytes(content[:at] + bytes([content[at] ^ (1 << at % 8)]) + content[at + 1 :])
    elif kind in ("cut", "empty"):
        victim.write_bytes(content[: at if kind == "cut" else 0])
    elif kind == "longer":
        victim.write_bytes(content + b"x")
    elif kind == "swap":
        victim.write_bytes(other.read_bytes())
        other.write_bytes(content)
    elif kind in ("remove", "directory"):
        victim.unlink()
        _ = kind == "directory" and victim.mkdir()
    elif kind == "future":
        future(place / "manifest.json")
    else:
        shutil.rmtree(place)


@given(data=st.data())
@settings(
    deadline=None,
    max_examples=40,
    phases=(Phase.generate,),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_damaged_run_goes_on_from_the_checkpoint_before_or_is_refused_in_one_line(data, killed_run, little):
    with tempfile.TemporaryDirectory() as name:
        run = Path(shutil.copytree(killed_run, Path(name) / "a"))
        for _ in range(data.draw(st.integers(1, 2), "damages")):
            if any((run / "checkpoints").iterdir()):
                damage(data, run)
        before = contents(run)
        left = RunDir(run).has_checkpoint()
        step, lines = resume_outcome(run)
        if step is None:
            assert lines[-1].startswith("error: ")
            assert contents(run) == before
        assert all(line.startswith("warning: ") for line in lines[: -1 if step is None else None])
        assert step in (None, 40, 80) if left else step == 0
        assert step != 40 or "damaged" in str(lines) or not (run / "checkpoints" / f"{80:012d}").exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("num_envs: 1", "num_envs: 2"),
        ("replay_capacity: 70", "replay_capacity: 71"),
        ("steps: 120", "steps: 130"),
        ("env: Catch", "env: Pong"),
        ("utd: 1/4", "utd: 1/2"),
        ("plasticity: []", "plasticity: [redo]"),
    ],
)
def test_settings_that_were_edited_are_refused(old, new, killed_run, little, tmp_path):
    run = Path(shutil.copytree(killed_run, tmp_path / "a"))
    text = (run / "config.yaml").read_text()
    assert old in text
    (run / "config.yaml").write_text(text.replace(old, new))
    before = contents(run)
    step, (line,) = resume_outcome(run)
    assert step is None
    changed = f"was changed since the checkpoint: {new.partition(':')[0]}"
    assert changed in line or "protocol 'catch' is not for Pong" in line
    assert contents(run) == before


def test_other_threads_and_another_torch_are_told(killed_run, little, tmp_path, capsys, monkeypatch):
    run = Path(shutil.copytree(killed_run, tmp_path / "a"))
    text = (run / "config.yaml").read_text()
    monkeypatch.setattr(torch, "__version__", "9.9")
    (run / "config.yaml").write_text(text.replace("threads: 1", "threads: 2"))
    assert resume_outcome(run) == (80, [])
    shown = capsys.readouterr().out
    assert f"torch 9.9, was {torch.version.__version__}, threads 2, was 1" in shown
    torch.set_num_threads(1)


@pytest.mark.parametrize("options", [{"num_envs": 2}, {"replay_capacity": 71}, {"nap": True}])
def test_what_does_not_fit_is_refused_by_what_holds_it(options, killed_run):
    config = dataclasses.replace(load_yaml(DQNConfig, killed_run / "config.yaml"), **options)
    saved = checkpoint.load_latest(killed_run / "checkpoints")
    with pytest.raises(ConfigError, match="does not fit this run") as error, checkpoint.checked_restore(saved):
        Saver(config, build_toy(config)).restore(saved)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("protocol", "refused"), [("machado", True), ("dopamine", False), ("atari100k", False)])
def test_a_protocol_that_had_other_rules_when_the_run_was_saved_is_refused(protocol, refused, killed_run):
    """Checkpoints that state no rules are of versions in which every protocol's limit was 108,000 frames."""
    stored = load_yaml(DQNConfig, killed_run / "config.yaml")
    config = dataclasses.replace(stored, protocol=protocol, env="Breakout")
    earlier = dataclasses.replace(PROTOCOLS[protocol], max_frames=108_000).summary()
    for rules in (None, earlier):
        saved = checkpoint.load_latest(killed_run / "checkpoints")
        saved.state["run"]["protocol"] = rules
        if rules is None:
            del saved.state["run"]["protocol"]
        saver = Saver(config, build_toy(config))
        if refused:
            with pytest.raises(ValueError, match=r"its rules were machado.* 108000 frames.*they are.* 18000"):
                saver.restore(saved)
        else:
            assert saver.restore(saved)


@pytest.mark.parametrize("states_rules", [True, False])
def test_catch_goes_on_where_it_was_recorded_under_one_of_ataris_protocols(states_rules, killed_run, tmp_path):
    run = RunDir(Path(shutil.copytree(killed_run, tmp_path / "a")))
    text = run.config.read_text()
    assert "protocol: catch" in text
    run.config.write_text(text.replace("protocol: catch", "protocol: atari100k"))
    saved = checkpoint.load_latest(run.checkpoints)
    saved.state["run"]["settings"]["protocol"] = "atari100k"
    saved.state["run"]["protocol"] = PROTOCOLS["atari100k"].summary()
    if not states_rules:
        del saved.state["run"]["protocol"]
    config = load_settings(DQNConfig, run)
    assert (config.protocol, config.rules.frame_skip) == ("catch", 1)
    for name in (None, "a"):
        found = find_resumed(dataclasses.replace(config, resume="auto", root=str(tmp_path), name=name))
        assert found is not None
        assert found.path == run.path
    checkpoint.check_settings(saved, config, run.config)
    assert Saver(config, build_toy(config)).restore(saved)
    with pytest.raises(ConfigError, match=r"changed since the checkpoint: lr 0.5, was 0.001"):
        checkpoint.check_settings(saved, dataclasses.replace(config, lr=0.5), run.config)


def test_evaluation_needs_no_replay(killed_run, tmp_path):
    run = Path(shutil.copytree(killed_run, tmp_path / "a"))
    for path in run.glob("checkpoints/*/*"):
        if path.name.startswith(("rows-", "replay")):
            path.unlink()
    saved = checkpoint.load_latest(run / "checkpoints", only=("trainer",))
    assert (saved.step, list(saved.state)) == (80, ["trainer"])
