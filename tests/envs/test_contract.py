"""What every backend keeps, game by game."""

import dataclasses
import sys
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import envs
from envs.atari import episode_seed
from envs.games import rom_id
from envs.registry import registered
from envs.testing import check_env, play, random_actions
from envs.vector_env import Step, VectorEnv

sys.path.insert(0, str(Path(__file__).parent))
from slow_atari import SlowAtari, is_area_average

GAMES = ("Breakout", "BankHeist", "MsPacman", "Pong")  # BankHeist plays on at zero lives; Pong counts none
PLAIN = dataclasses.replace(envs.PROTOCOLS["atari100k"], name="plain", noop_max=0)
STICKY = dataclasses.replace(envs.PROTOCOLS["machado"], name="short", max_frames=4 * 15)
BOTH = pytest.mark.parametrize("game", ["Breakout", "MinAtar/Freeway"])


def make(game: str, protocol: envs.Protocol, **options: Any) -> VectorEnv:
    """A game of Atari, or one of MinAtar under the same rules as far as it has them."""
    if registered(game).rules is None:
        return envs.make(game, protocol, **options)
    pytest.importorskip("minatar", reason="MinAtar is an extra and is not installed")
    rules = {"max_frames": protocol.time_limit, "sticky_actions": protocol.sticky_actions}
    return envs.make(game, dataclasses.replace(envs.PROTOCOLS["minatar"], **rules), **options)


@pytest.mark.parametrize("game", [*GAMES, "MinAtar/Breakout"])
def test_the_contract_holds(backend, game):
    short = dataclasses.replace(PLAIN, max_frames=4 * 30, sticky_actions=0.25, noop_max=4)
    check_env(partial(make, game, short, backend=backend), steps=70)


@cache
def walk(backend: str, game: str) -> tuple[np.ndarray, np.ndarray, list[Step]]:
    """First frames, actions and steps of two environments, until twenty steps after an episode's end."""
    env = make(game, PLAIN, num_envs=2, seed=7, backend=backend)
    first, steps, actions = env.reset(), [], random_actions(env, 2000)
    for row in actions:
        steps.append(env.step(row))
        if any(step.ended.any() for step in steps[-20:-19]):
            break
    env.close()
    return first, actions[: len(steps)], steps


def first_end(steps: list[Step]) -> tuple[int, int]:
    """Index of the first step at which an episode ended, and of its environment."""
    time = next(time for time, step in enumerate(steps) if step.ended.any())
    return time, int(steps[time].ended.argmax())


@pytest.mark.parametrize("game", GAMES)
def test_backends_equal_the_emulator_frame_by_frame(backend, game):
    """Frames, rewards, ends and lost lives, the next episode's first frame, and one agent step per vector step."""
    first, actions, steps = walk(backend, game)
    end, i = first_end(steps)
    noops = int(backend == "envpool")
    slow = SlowAtari(rom_id(game), episode_seed(7, i, 0), sticky=0.0, full_action_set=False, noops=noops)
    assert is_area_average(first[i], slow.reset())
    lives = slow.ale.lives()
    for time, (step, action) in enumerate(zip(steps, actions[:, i], strict=True)):
        expected = slow.step(action)
        seen = (step.reward[i], step.terminated[i], step.life_lost[i])
        assert seen == (expected.reward, expected.over, expected.lives < lives), time
        if time != end:  # how a last frame that is cut short looks is the backend's own: see the package's docstring
            assert is_area_average(step.frame[i], expected.screen), time
            assert (step.first_frame[i] == step.frame[i]).all(), time
        else:
            assert step.terminated[i]
            assert is_area_average(step.first_frame[i], slow.reset())
        lives = slow.ale.lives()


def test_zero_lives_is_not_the_end_in_bank_heist(backend):
    _, _, steps = walk(backend, "BankHeist")
    end, i = first_end(steps)
    assert sum(step.life_lost[i] for step in steps[:end]) == 4
    assert steps[end].terminated[i]
    assert not steps[end].life_lost[i]


@BOTH
def test_the_time_limit_truncates_and_the_next_episode_begins(backend, game):
    protocol = dataclasses.replace(envs.PROTOCOLS["atari100k"], max_frames=4 * 20)
    env = make(game, protocol, num_envs=2, seed=1, backend=backend)
    env.reset()
    assert env.time_limit == 20
    steps = play(env, random_actions(env, 41))
    for time, step in enumerate(steps, start=1):
        assert step.truncated.all() == step.truncated.any() == (time in (20, 40))
        assert not step.terminated.any()
        assert (step.episode_steps == (time - 1) % 20 + 1).all()
        assert (step.frame != step.first_frame).any() == (time in (20, 40))


def test_a_game_over_at_the_time_limit_is_terminated_not_truncated(backend):
    _, actions, steps = walk(backend, "Breakout")
    end, i = first_end(steps)
    protocol = dataclasses.replace(PLAIN, max_frames=4 * (end + 1))
    env = envs.make("Breakout", protocol, num_envs=2, seed=7, backend=backend)
    env.reset()
    step = play(env, actions[: end + 1])[-1]
    assert step.terminated[i]
    assert not step.truncated[i]
    assert step.truncated[1 - i]


@BOTH
def test_one_seed_one_trajectory_another_seed_another(backend, game):
    def frames(seed: int) -> np.ndarray:
        env = make(game, STICKY, seed=seed, backend=backend)
        return np.concatenate([env.reset(), *(step.first_frame for step in play(env, random_actions(env, 14)))])

    assert (frames(3) == frames(3)).all()
    assert (frames(3) != frames(4)).any()


@BOTH
def test_neighbours_and_threads_do_not_touch_a_trajectory(backend, game):
    def run(num_envs: int, num_threads: int) -> list[Step]:
        env = make(game, STICKY, num_envs=num_envs, seed=5, backend=backend, num_threads=num_threads)
        env.reset()
        return play(env, random_actions(env, 20))

    few, many = run(1, 1), run(3, 2)
    for a, b in zip(few, many, strict=True):
        for left, right in zip(a, b, strict=True):
            np.testing.assert_array_equal(left, right[:1])


@settings(deadline=None)
@given(st.lists(st.integers(-2, 20), max_size=4))
def test_only_right_actions_are_sent(actions):
    env = single()
    if len(actions) == 1 and 0 <= actions[0] < env.num_actions:
        env.step(np.array(actions))
    else:
        with pytest.raises(ValueError, match="actions"):
            env.send(np.array(actions, dtype=np.int64))


@cache
def single() -> VectorEnv:
    env = envs.make("Pong", PLAIN)
    env.reset()
    return env


@BOTH
def test_misuse_gives_one_clear_line(backend, game):
    env = make(game, PLAIN, backend=backend)
    with pytest.raises(RuntimeError, match="reset"):
        env.send(np.zeros(1, np.int64))
    env.reset()
    with pytest.raises(RuntimeError, match=r"send\(\)"):
        env.recv()
    with pytest.raises(ValueError, match="integers"):
        env.send(np.zeros(1))
    env.send(np.zeros(1, np.int64))
    for act in (env.reset, lambda: env.send(np.zeros(1, np.int64))):
        with pytest.raises(RuntimeError, match="under way"):
            act()
    env.recv()


@BOTH
@pytest.mark.parametrize("wrong", [{"num_envs": 0}, {"seed": -1}, {"num_threads": 0}])
def test_impossible_arguments_are_refused(backend, game, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        make(game, PLAIN, backend=backend, **wrong)


def test_unknown_backend_and_missing_envpool(monkeypatch):
    with pytest.raises(ValueError, match="did you mean 'envpool'"):
        envs.make("Pong", "machado", backend="envpol")
    monkeypatch.setitem(sys.modules, "envpool", None)
    monkeypatch.delitem(sys.modules, "envs.envpool_backend", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"\[envpool\]"):
        envs.make("Pong", "machado", backend="envpool")


def test_the_description_names_backend_game_and_protocol(backend):
    line = envs.make("pong", "machado", backend=backend).describe()
    assert "\n" not in line
    for part in ("envpool" if backend == "envpool" else "ale-py", "Pong", "machado", "sticky actions 0.25"):
        assert part in line


def test_action_sets_and_exactness(backend):
    assert envs.make("Breakout", "atari100k", backend=backend).num_actions == 4
    full = envs.make("Breakout", "machado", backend=backend)
    assert full.num_actions == 18
    assert full.exact_resume == (backend == "ale")
    if not full.exact_resume:
        with pytest.raises(RuntimeError, match="reset"):
            full.state_dict()
