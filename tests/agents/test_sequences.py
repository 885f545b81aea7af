"""Games in sequence: what is played when, what crosses a change, and the same bits after a kill near one."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import envs
from agents import cli
from agents.build import build_env, common_channels
from agents.config import DQNConfig
from agents.fleet.run import FleetRun
from agents.run import AgentRun, build_trainer
from agents.tasks import Tasks
from agents.training.trainer import Trainer
from agents.training.update_scheduler import UpdateScheduler
from envs.protocol import PROTOCOLS
from envs.sequences import SEQUENCES
from envs.vector_env import Step, VectorEnv
from experiment.config import ConfigError
from experiment.storage import checkpoint
from experiment.storage.run_dir import RunDir
from plasticity.registry import METHODS
from plasticity.reset import Reset
from plasticity.timing import Timing
from tests.agents.test_dqn import RAINBOW
from tests.agents.test_resume import differences, final, rows, state_of, stored
from tests.plasticity.test_every_method import ACTIVE

TWO = "MinAtar/SpaceInvaders,MinAtar/Breakout"
"""A game with 6 channels, and one with 4."""
SEQUENCE = DQNConfig(
    env=TWO, task_steps=60, visits=2, network="minatar", utd=Fraction(1, 2), batch_size=8, n_step=3, update_start=20,
    target_period=15, epsilon_steps=30, replay_capacity=100, lr=1e-3, log_interval=7, probe_interval=25,
    compile="false", threads=1, eval_episodes=1, eval_epsilon=1.0, checkpoint_interval=0,
)  # fmt: skip
CHANGES = {
    "task_replay": ("keep", "clear"),
    "task_schedule": ("continue", "restart"),
    "task_optimizer": ("keep", "fresh"),
    "task_epsilon": ("restart", "continue"),
}


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


def config_of(**options: Any) -> DQNConfig:
    return dataclasses.replace(SEQUENCE, **options).resolved()


def settings(*words: str) -> DQNConfig:
    return cli.settings("dqn", ["--config", "minatar", *words])


# --- what is played when


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 50))
def test_visits_follow_one_another_and_fill_the_run(games: int, visits: int, steps: int) -> None:
    tasks = Tasks(tuple(map(str, range(games))), steps, visits)
    found = [tasks[number] for number in range(len(tasks))]
    assert [visit.game for visit in found] == [*map(str, range(games))] * visits
    assert [visit.visit for visit in found] == [number + 1 for number in range(visits) for _ in range(games)]
    ends = [0, *(visit.stop for visit in found)]
    assert [visit.start for visit in found] == ends[:-1]
    assert ends[-1] == tasks.steps
    with pytest.raises(IndexError):
        tasks[len(tasks)]


def test_a_run_of_one_game_is_one_visit() -> None:
    tasks = DQNConfig(env="Catch", steps=500, update_start=9).resolved().tasks
    assert len(tasks) == 1
    assert (tasks[0].game, tasks[0].start, tasks[0].stop) == ("Catch", 0, 500)


def test_names_and_lists() -> None:
    config = settings("--sequence", "minatar3", "--task-steps", "20000", "--visits", "2")
    assert config.games == SEQUENCES["minatar3"]
    assert config.budget == 6 * 20_000
    assert config.sequence is None
    again = settings("--env", "space_invaders-minatar, MinAtar/Asterix-v1,minatar/seaquest", "--task-steps", "20000")
    assert again.env == config.env
    shared = settings("--sequence", "minatar3", "--steps", "60000")
    assert shared.task_steps == 20_000
    assert shared.budget == 60_000
    atari = cli.settings("dqn", ["--sequence", "atari10", "--task-steps", "5000"])
    assert len(atari.games) == 10
    assert atari.rules.full_action_set


@given(st.fractions(Fraction(1, 8), 8), st.integers(0, 9), st.integers(10, 20), st.integers(0, 90), st.integers(0, 90))
def test_updates_wait_in_each_period_and_none_is_lost(utd, start, period, since, further) -> None:
    made = 7
    scheduler = UpdateScheduler(utd, start, since, made, period)
    earning = sum(step % period >= start for step in range(since, since + further))
    assert scheduler.total(since + further) == made + int(utd * earning)


@pytest.mark.parametrize("restart", [False, True])
def test_epsilon_and_rate_of_a_visit_are_those_of_a_run_of_its_length(restart: bool) -> None:
    how = "restart" if restart else "continue"
    options = {"task_epsilon": how, "task_schedule": how, "schedule": "cosine", "lr_floor": 1e-5}
    trainer = build_trainer(config_of(**options))
    own = {"env": "MinAtar/Breakout", "task_steps": None, "visits": 1, "steps": 60 if restart else 240}
    single = build_trainer(config_of(**own | {"schedule": "cosine", "lr_floor": 1e-5}))
    for each in (trainer, single):
        each.open()
    found, wanted = [], []
    for step in range(240):
        if restart and step % 60 == 0:
            single.agent_step = 0
        for each, rates in ((trainer, found), (single, wanted)):
            _, epsilon = each.begin_step()
            rates.append((epsilon, float(each.agent.optimizer.param_groups[0]["lr"])))
    assert found == wanted


# --- what crosses a change


class Colour(VectorEnv):
    """Frames of one colour, which is the game's; an episode lasts `length` steps; the reward is the colour."""

    stack, exact_resume, num_actions, frame_shape = 4, True, 2, (10, 10)

    def __init__(self, num_envs: int, colour: int, length: int) -> None:
        self.num_envs, self.colour, self.length, self.time = num_envs, colour, length, 0

    def reset(self) -> np.ndarray:
        self.time = 0
        return np.full((self.num_envs, 10, 10), self.colour, np.uint8)

    def recv(self) -> Step:
        self.time += 1
        frame, none = np.full((self.num_envs, 10, 10), self.colour, np.uint8), np.zeros(self.num_envs, bool)
        over = np.full(self.num_envs, self.time == self.length)
        returns = np.full(self.num_envs, float(self.colour * self.time))
        steps = np.full(self.num_envs, self.time)
        self.time %= self.length
        return Step(frame, np.full(self.num_envs, self.colour, np.float32), over, none, none, returns, steps, frame)


def coloured(monkeypatch: pytest.MonkeyPatch, length: int = 7, **options: Any) -> Trainer:
    """A trainer whose first game is of colour 100 and whose second is of colour 200."""

    def make(game: str, rules: Any, num_envs: int, *_: Any, **__: Any) -> VectorEnv:
        return Colour(num_envs, 100 + 100 * TWO.split(",").index(game), length)

    monkeypatch.setattr(envs, "make", make)
    common_channels.cache_clear()
    monkeypatch.setattr("agents.build.common_channels", lambda *_: None)
    network = "tests.agents.toys:Little"
    return build_trainer(config_of(network=network, probe_interval=0, **options))


def colours(transitions: Any) -> np.ndarray:
    """The colours of obs and next_obs of each transition, without the zeros before an episode and after its end."""
    pixels = torch.stack([transitions["obs"][0, :, :, 0, 0], transitions["next_obs"][0, :, :, 0, 0]], 1).flatten(1)
    return np.array([sorted(set(row.tolist()) - {0}) for row in pixels], dtype=object)


@pytest.mark.parametrize("prioritised", [False, True])
@pytest.mark.parametrize("replay", ["keep", "clear"])
@pytest.mark.parametrize("num_envs", [1, 3])
def test_no_transition_crosses_a_change(
    monkeypatch: pytest.MonkeyPatch, replay: str, num_envs: int, prioritised: bool
) -> None:
    trainer = coloured(monkeypatch, task_replay=replay, num_envs=num_envs, prioritised=prioritised, visits=3)
    trainer.open()
    held = set()
    while not trainer.done:
        trainer.step()
        trainer.replay.check()
        low, high = (row * num_envs for row in trainer.replay._legal_rows(3))
        if high <= low:
            continue
        found = trainer.replay.gather(torch.arange(low, high).unsqueeze(0), n_step=3, gamma=0.5)
        seen = [set(row) for row in colours(found)]
        assert all(len(colour) == 1 for colour in seen)
        games = np.array([colour.pop() for colour in seen])
        held.add(len(set(games)))
        rewards, discounts = found["reward"][0].numpy(), found["discount"][0].numpy()
        assert set((rewards / games).tolist()) <= {1.0, 1.5, 1.75}  # sums of 1 to 3 rewards, all of one game
        assert set(discounts.tolist()) <= {0.0, 0.5, 0.25, 0.125}
        if replay == "clear":
            assert set(games) == {100 + 100 * (trainer.visits.now.number % 2)}
            assert len(trainer.replay) == trainer.visits.account.steps
        if prioritised:
            trainer.replay.draw(1, 1, 3)
            priority = trainer.replay.priorities.get(torch.arange(low, high))
            assert (priority > 0).all()
            assert trainer.replay.priorities.low == low
    assert held == ({1} if replay == "clear" else {1, 2})


def test_a_cut_game_bootstraps_from_its_last_frame_and_is_no_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = coloured(monkeypatch, length=50, visits=1)
    trainer.open()
    while not trainer.done:
        trainer.step()
    last = trainer.replay.gather(torch.tensor([[59]]), n_step=3, gamma=0.5)  # the tenth step of the second episode
    assert last["discount"].item() == 0.5
    assert last["reward"].item() == 100
    assert set(last["next_obs"].flatten().tolist()) == {100}
    assert [account.episodes for account in trainer.visits.accounts] == [1, 1]
    assert trainer.episodes == 2


def test_channels_behind_a_games_own_are_zero() -> None:
    config = config_of(env="MinAtar/Breakout,MinAtar/Seaquest,MinAtar/Asterix")
    for game in config.games:
        env, bare = build_env(config, 2, 3, game), envs.make(game, config.rules, 2, 3)
        own, actions = bare.frame_shape[0], np.random.default_rng(0)
        assert env.frame_shape == (10, 10, 10)
        assert env.num_actions == bare.num_actions == 6
        padded, frames = env.reset(), bare.reset()
        for _ in range(80):
            assert np.array_equal(padded[:, :own], frames)
            assert not padded[:, own:].any()
            taken = actions.integers(6, size=2)
            step, other = env.step(taken), bare.step(taken)
            assert np.array_equal(step.frame[:, :own], other.frame)
            assert not step.frame[:, own:].any()
            assert np.array_equal(step.reward, other.reward)
            padded, frames = step.first_frame, other.first_frame


def test_atari_has_all_actions_and_is_not_padded() -> None:
    config = dataclasses.replace(SEQUENCE, env="Pong,Breakout", network="small").resolved()
    assert config.protocol == "atari100k"
    assert "full action set" in config.rules.summary()
    for game in config.games:
        env = build_env(config, 1, 0, game)
        assert env.num_actions == 18
        assert env.frame_shape == (84, 84)


# --- what a visit brings


def test_accounts_add_up_to_the_run(tmp_path: Path) -> None:
    run = AgentRun(config_of(root=str(tmp_path), name="run", steps=None, eval_all=True, task_steps=150))
    assert run.train() == 0
    result, found = json.loads(run.directory.result.read_text()), rows(run)
    visits = result["visits"]
    assert [visit["number"] for visit in visits] == [1, 2, 3, 4]
    assert [v["visit"] for v in visits] == [1, 1, 2, 2]
    assert [visit["game"] for visit in visits] == TWO.split(",") * 2
    assert sum(visit["steps"] for visit in visits) == result["agent_steps"] == 600
    assert sum(visit["updates"] for visit in visits) == result["updates"] == 290
    assert sum(visit["episodes"] for visit in visits) == sum("episode_return" in row for row in found) > 4
    assert sum(visit["seconds"] for visit in visits) == pytest.approx(result["seconds"]["training"])
    assert all(set(visit["scores"]) == set(TWO.split(",")) for visit in visits)
    for visit in visits:
        stop = visit["start"] + visit["steps"]
        own = [row for row in found if visit["start"] < row["agent_step"] <= stop]
        assert {row["task"] for row in own} == {visit["game"]}
        assert {row["visit"] for row in own} == {visit["visit"]}
        games = [(row["episode_return"], row["episode_steps"]) for row in own if "episode_return" in row]
        area = sum(score * length for score, length in games) / sum(length for _, length in games)
        assert visit["area"] == pytest.approx(area)
        assert visit["episodes"] == len(games)
        last = [row["episode_return"] for row in own if "episode_return" in row and row["agent_step"] > stop - 15]
        assert visit["last_tenth"] == (pytest.approx(np.mean(last)) if last else None)
        scores = [row for row in own if f"score/{visit['game']}" in row]
        assert len(scores) == 1
        assert scores[0]["agent_step"] == stop
        assert scores[0][f"score/{visit['game']}"] == visit["score"]["mean"]
    assert result["score"] is None
    assert result["game"] == TWO


def test_an_evaluation_between_visits_changes_nothing(tmp_path: Path) -> None:
    options = {"root": str(tmp_path), "noisy": True, "eval_noise": True}
    hashes = set()
    for episodes in (0, 2):
        run = AgentRun(config_of(name=f"run{episodes}", eval_episodes=episodes, **options))
        assert run.train() == 0
        hashes.add(json.loads(run.directory.result.read_text())["parameter_hash"])
    assert len(hashes) == 1


def test_the_probe_draws_states_of_the_present_game(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = coloured(monkeypatch, task_steps=600, replay_capacity=2000, visits=1)
    trainer.probe = type(trainer.probe)(trainer.agent, 0)
    trainer.open()
    while not trainer.done:
        trainer.step()
        if trainer.probe.actions is not None:
            assert set(trainer.probe.probe.batch[0].unique().tolist()) - {0} == {100 + 100 * trainer.visits.now.number}
        if trainer.agent_step in (1, 255, 601, 855):
            assert trainer.probe.actions is None


# --- methods are told


def test_methods_that_act_at_a_change_of_task(monkeypatch: pytest.MonkeyPatch) -> None:
    acted: list[int] = []
    apply = Reset.apply
    monkeypatch.setattr(Reset, "apply", lambda self: (acted.append(trainer.agent_step), apply(self)))
    trainer = coloured(monkeypatch, plasticity=("reset:at=task",))
    trainer.open()
    while not trainer.done:
        trainer.step()
    assert acted == [60, 120, 180]
    assert trainer.agent.methods[0].last_reset(trainer.updates) == trainer.visits.accounts[-1].updates_before


@pytest.mark.parametrize(
    "spec", ["reset", "shrink-perturb", "dash", "fire", "optimizer-reset", "adam-rel"], ids=lambda spec: spec
)
def test_each_method_with_a_time_takes_at_task(tmp_path: Path, spec: str) -> None:
    hashes = []
    for at in ("at=task", "at=1000000"):
        config = config_of(root=str(tmp_path), name=at, plasticity=(f"{spec}:{at}",), visits=1)
        run = AgentRun(config)
        assert run.train() == 0
        hashes.append(json.loads(run.directory.result.read_text())["parameter_hash"])
    assert hashes[0] != hashes[1]


def test_a_fresh_optimiser_has_no_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = coloured(monkeypatch, task_optimizer="fresh")
    trainer.open()
    while trainer.agent_step < 60:
        trainer.step()
    moments = list(trainer.agent.optimizer.state.values())
    assert any(state["exp_avg"].any() for state in moments)
    assert all(state["step"] for state in moments)
    trainer.change_task()
    assert not any(state[name].any() for state in moments for name in ("exp_avg", "exp_avg_sq", "step"))


def test_timing_at_task_acts_only_when_told() -> None:
    timing = Timing("method", 3, "task")
    assert not any(timing.due(update) for update in range(1, 20))
    assert not timing.is_off
    assert not timing.is_over(50)
    assert timing.last(9) == 0
    assert timing.due_at_task(9)
    assert timing.last(12) == 9
    assert not Timing("method", 3).due_at_task(9)
    assert not Timing("method", 3, "now").due_at_task(9)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_method_plays_sequences(tmp_path: Path, name: str) -> None:
    spec = name + (ACTIVE | {"injection": ":at=20"})[name]
    run = AgentRun(config_of(root=str(tmp_path), name="run", plasticity=(spec,), task_replay="clear"))
    assert run.train() == 0
    assert [visit["updates"] for visit in json.loads(run.directory.result.read_text())["visits"]] == [20] * 4


@pytest.mark.parametrize("agent", ["rainbow", "der"])
def test_every_agent_plays_sequences(tmp_path: Path, agent: str) -> None:
    run = AgentRun(config_of(root=str(tmp_path), name="run", agent=agent, visits=1, **RAINBOW | {"n_step": 3}))
    assert run.train() == 0
    visits = json.loads(run.directory.result.read_text())["visits"]
    assert [visit["updates"] for visit in visits] == [20, 30]


# --- killed near a change


COMBINATIONS = [dict(zip(CHANGES, values, strict=True)) for values in itertools.product(*CHANGES.values())]
EVERY_DAY = [dict(zip(CHANGES, values, strict=True)) for values in (
    ("keep", "continue", "keep", "restart"), ("clear", "restart", "fresh", "continue"),
)]  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(each, id="-".join(each.values()), marks=() if each in EVERY_DAY else pytest.mark.slow)
        for each in COMBINATIONS
    ],
)
def test_a_kill_near_a_change_leaves_the_same_bits(tmp_path: Path, options: dict[str, str]) -> None:
    methods = ("shrink-perturb:at=task", "nap")
    common = {"schedule": "cyclic", "cycles": 2, "lr_floor": 1e-5, "prioritised": True, "num_envs": 2}
    steps = ("58", "60", "62", "120")  # of two environments: before a change, at it, after it; and at a later one
    root = tmp_path / "whole"
    config = config_of(root=str(root), name="run", plasticity=methods, checkpoint_at=steps, **common, **options)
    assert AgentRun(config).train() == 0
    whole = RunDir(root / "run")
    for step in map(int, steps):
        broken = RunDir(tmp_path / f"from{step}" / "run")
        shutil.copytree(whole.path, broken.path)
        broken.result.unlink()
        for saved in broken.checkpoints.iterdir():
            if saved.is_dir() and int(saved.name.rpartition("-")[2]) > step:
                shutil.rmtree(saved)
        resumed = AgentRun(dataclasses.replace(config, resume=str(broken.path)))
        assert resumed.step == step
        assert resumed.train() == 0
        resumed.trainer.replay.check()
        compare(broken, whole)


def compare(broken: RunDir, whole: RunDir) -> None:
    compare_states(broken, whole)
    assert rows(broken) == rows(whole)


def compare_states(broken: RunDir, whole: RunDir) -> None:
    one, two = final(broken), final(whole)
    assert differences(*(without_times(state_of(saved)) for saved in (one, two))) == []
    shorter = min(len(stored(one)), len(stored(two)))
    assert stored(one)[-shorter:] == stored(two)[-shorter:]
    results = [json.loads(run.result.read_text())["visits"] for run in (broken, whole)]
    for row in itertools.chain(*results):
        del row["seconds"]
    assert results[0] == results[1]


def without_times(state: dict[str, Any]) -> dict[str, Any]:
    visits = [account | {"seconds_before": None} for account in state["trainer"]["visits"]]
    return state | {"trainer": state["trainer"] | {"visits": visits}}


def test_ctrl_c_in_an_evaluation_between_visits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The visit is scored again when the run goes on."""
    config = config_of(root=str(tmp_path / "whole"), name="run")
    assert AgentRun(config).train() == 0
    stopped = AgentRun(dataclasses.replace(config, root=str(tmp_path / "stopped")))
    score = AgentRun.score_visit

    def pressed(self: AgentRun, interrupt: Any, show: bool = False) -> bool:
        interrupt.requested = True
        return score(self, interrupt, show)

    monkeypatch.setattr(AgentRun, "score_visit", pressed)
    assert stopped.train() == 130
    assert stopped.step == 60
    monkeypatch.undo()
    where = tmp_path / "stopped" / "run"
    assert AgentRun(dataclasses.replace(config, root=str(where.parent), resume=str(where))).train() == 0
    compare(RunDir(where), RunDir(tmp_path / "whole" / "run"))


# --- forks and fleets


def test_a_fork_goes_on_into_more_visits(tmp_path: Path) -> None:
    words = ["--env", TWO, "--task-steps", "60", "--update-start", "20", "--utd", "1/2", "--eval-episodes", "1"]
    words += ["--compile", "false", "--threads", "1", "--batch-size", "8", "--root", str(tmp_path)]
    trunk = settings(*words, "--visits", "2", "--name", "trunk", "--checkpoint-at", "60,130")
    assert AgentRun(trunk).train() == 0
    fork = cli.settings("dqn", ["--fork", f"{tmp_path / 'trunk'}@130", "--name", "fork"])
    assert AgentRun(fork).train() == 0
    compare_states(RunDir(tmp_path / "fork"), RunDir(tmp_path / "trunk"))
    more = ["--fork", f"{tmp_path / 'trunk'}@60", "--name", "more", "--visits", "3", "--task-replay", "clear"]
    run = AgentRun(cli.settings("dqn", more))
    assert run.train() == 0
    visits = json.loads(run.directory.result.read_text())["visits"]
    assert [visit["updates"] for visit in visits] == [20] * 6
    assert len(visits) == 6
    with pytest.raises(ConfigError, match="--task-steps"):
        cli.settings("dqn", ["--fork", f"{tmp_path / 'trunk'}@60", "--task-steps", "70"])


def test_a_fleet_plays_sequences_as_its_members_do_alone(tmp_path: Path) -> None:
    options = {"plasticity": ("reset:at=task",), "task_optimizer": "fresh", "task_replay": "clear", "threads": 2}
    config = config_of(root=str(tmp_path), name="fleet", checkpoint_at=("60", "130"), **options)
    assert FleetRun(config, [0, 1, 2]).train() == 0
    for seed in range(3):
        alone = AgentRun(config_of(root=str(tmp_path), name=f"alone{seed}", seed=seed, **options | {"threads": 1}))
        assert alone.train() == 0
        mine, own = (RunDir(tmp_path / name) for name in (f"fleet-s{seed}", f"alone{seed}"))
        pairs = zip(*(json.loads(run.result.read_text())["visits"] for run in (mine, own)), strict=True)
        for one, two in pairs:
            for name in ("number", "game", "steps", "updates"):
                assert one[name] == two[name]
        one, two = (final(run).state["trainer"]["agent"]["network"] for run in (mine, own))
        assert all(torch.allclose(one[name], two[name], atol=1e-4) for name in one)


def test_a_fleet_killed_at_a_change_goes_on(tmp_path: Path) -> None:
    config = config_of(root=str(tmp_path / "whole"), name="fleet", checkpoint_at=("60", "120"), task_replay="clear")
    assert FleetRun(config, [0, 1]).train() == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "broken")
    for seed in range(2):
        broken = RunDir(tmp_path / "broken" / f"fleet-s{seed}")
        broken.result.unlink()
        for saved in broken.checkpoints.iterdir():
            if saved.is_dir() and int(saved.name.rpartition("-")[2]) > 60:
                shutil.rmtree(saved)
    again = dataclasses.replace(config, root=str(tmp_path / "broken"), resume=str(tmp_path / "broken" / "fleet-s0"))
    assert FleetRun(again, [0, 1]).train() == 0
    for seed in range(2):
        compare(*(RunDir(tmp_path / where / f"fleet-s{seed}") for where in ("broken", "whole")))


def test_ctrl_c_between_visits_of_a_fleet_leaves_all_members_at_one_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(root=str(tmp_path / "whole"), name="fleet", threads=2)
    assert FleetRun(config, [0, 1]).train() == 0
    stopped = FleetRun(dataclasses.replace(config, root=str(tmp_path / "stopped")), [0, 1])
    score = AgentRun.score_visit

    def pressed(self: AgentRun, interrupt: Any, show: bool = False) -> bool:
        interrupt.requested = self.config.seed == 1
        return score(self, interrupt, show)

    monkeypatch.setattr(AgentRun, "score_visit", pressed)
    assert stopped.train() == 130
    assert [run.step for run in stopped.living] == [60, 60]
    monkeypatch.undo()
    monkeypatch.setattr(os, "fsync", lambda _: None)
    where = tmp_path / "stopped" / "fleet-s0"
    again = dataclasses.replace(config, root=str(where.parent), resume=str(where))
    assert FleetRun(again, [0, 1]).train() == 0
    for seed in range(2):
        compare(*(RunDir(tmp_path / name / f"fleet-s{seed}") for name in ("stopped", "whole")))


# --- bad input


REFUSED = {
    "--env MinAtar/Asterix,Pong --task-steps 20000": "--env: MinAtar/Asterix and Pong are of two families",
    "--sequence minatar2 --task-steps 20000": "--sequence: unknown sequence 'minatar2'; did you mean 'minatar",
    "--sequence Pong --task-steps 20000": "unknown sequence 'Pong'",
    "--env Pong, --task-steps 20000": "--env: a sequence has two games or more, and 'Pong,' names 1",
    "--sequence Pong, --task-steps 20000": "--sequence: a sequence has two games or more, and 'Pong,' names 1",
    "--env MinAtar/Asterix,MinAtar/Astrix --task-steps 20000": "unknown game 'MinAtar/Astrix'",
    "--env MinAtar/Asterix,minatar/asterix --task-steps 20000": "MinAtar/Asterix is twice in the sequence",
    "--sequence minatar3 --task-steps 4000": "--task-steps 4000: it has to be above --update-start 5000",
    "--sequence minatar3 --task-steps 20001 --num-envs 2": "it has to be a multiple of --num-envs 2",
    "--sequence minatar3": "--steps 5000000 cannot be divided by 3 games and --visits 1: give --task-steps",
    "--sequence minatar3 --task-steps 6000 --schedule cyclic --cycles 2000 --task-schedule restart":
        "--cycles is 2000, and there are 1000 agent steps of each visit for them",
    "--sequence minatar3 --task-steps 20000 --schedule cusum --task-schedule restart":
        "cusum finds by itself when to restart",
    "--sequence minatar3 --task-steps 20000 --steps 10": "--steps: games in sequence have --task-steps and --visits",
    "--sequence minatar3 --task-steps 20000 --frames 10": "--frames: games in sequence have --task-steps",
    "--sequence minatar3 --env Pong --task-steps 20000": "--env and --sequence both name what is played: give one",
    "--sequence minatar3 --task-steps 20000 --network nature": "--network nature is not for minatar3: leave it out",
    "--config minatar --sequence atari10 --task-steps 20000": "--protocol 'minatar' is not for atari10: it has to be",
    "--env Catch --task-steps 20000": "--task-steps is for games in sequence",
    "--env Catch --visits 2": "--visits is for games in sequence",
    "--env Catch --task-replay clear": "--task-replay does nothing without --sequence",
    "--sequence minatar3 --task-steps 20000 --backend envpool": "envpool is for Atari's games",
    "--env Pong,MrDo --task-steps 20000 --backend envpool": "envpool shows only the upper 210 lines of MrDo",
    "--env Pong,examples.new_environment:Reach --task-steps 20000": "is no game of a family",
}  # fmt: skip


@pytest.mark.parametrize("words", REFUSED)
def test_bad_input_is_refused_in_one_line(words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(*words.split())
    assert REFUSED[words] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_games_with_other_action_sets_are_refused() -> None:
    config = cli.settings("dqn", ["--env", "Pong,Skiing", "--task-steps", "20000"])
    with pytest.raises(ConfigError, match="Pong has 18 actions and Skiing 9: one network cannot play both"):
        build_trainer(config)


def test_a_method_that_waits_for_a_change_is_refused_where_there_is_none(tmp_path: Path) -> None:
    config = DQNConfig(env="Catch", steps=4000, plasticity=("reset:at=task",), root=str(tmp_path)).resolved()
    with pytest.raises(ConfigError, match="reset: at=task: the run has one game, and the method would never act"):
        AgentRun(config)
    assert not any(tmp_path.iterdir())


def test_the_rules_of_the_minatar_sequence_are_minatars() -> None:
    assert config_of().rules == PROTOCOLS["minatar"]


def test_a_checkpoint_of_before_sequences_goes_on(tmp_path: Path) -> None:
    """What it does not know is what a run of one game has."""
    config = dataclasses.replace(
        SEQUENCE, env="MinAtar/Breakout", task_steps=None, visits=1, steps=90, root=str(tmp_path), name="run"
    ).resolved()
    whole = AgentRun(dataclasses.replace(config, checkpoint_at=("50",)))
    assert whole.train() == 0
    saved = checkpoint.load_latest(whole.directory.checkpoints)
    del saved.state["trainer"]["visits"], saved.state["replay"]["cleared"]
    trainer = build_trainer(config)
    trainer.load_state_dict(saved.state["trainer"])
    trainer.replay.load_state_dict(saved.state["replay"])
    assert trainer.agent_step == 90
    assert trainer.visits.now.stop == 90
