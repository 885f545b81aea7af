"""What only the ale-py backend promises: sticky play equal to the emulator's, no-ops, seeds, and exact resume."""

import dataclasses
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from slow_atari import SlowAtari, is_area_average

import envs
from envs.atari import episode_seed
from envs.vector_env import Step, VectorEnv

SHORT = dataclasses.replace(envs.PROTOCOLS["machado"], noop_max=5, max_frames=4 * 10)


def assert_same(left: Step, right: Step) -> None:
    for name, a, b in zip(Step._fields, left, right, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


def advance(env: VectorEnv, steps: int, seed: int = 0) -> np.ndarray:
    frames = env.reset()
    for row in np.random.default_rng(seed).integers(env.num_actions, size=(steps, env.num_envs)):
        frames = env.step(row).first_frame
    return frames


def assert_continues(env: VectorEnv, fresh: VectorEnv, frames: np.ndarray, steps: int) -> None:
    shown = fresh.load_state_dict(pickle.loads(pickle.dumps(env.state_dict())))
    np.testing.assert_array_equal(shown, frames)
    for row in np.random.default_rng(9).integers(env.num_actions, size=(steps, env.num_envs)):
        assert_same(env.step(row), fresh.step(row))


def agrees(env: VectorEnv, slow: SlowAtari, steps: int) -> bool:
    """Whether one environment shows what the emulator shows, for that many random actions."""
    same = is_area_average(env.reset()[0], slow.reset())
    for action in np.random.default_rng(2).integers(env.num_actions, size=steps):
        expected = slow.step(action)
        same &= is_area_average(env.step(np.array([action])).frame[0], expected.screen)
    return same


@pytest.mark.parametrize("game", ["breakout", "ms_pacman"])
def test_sticky_play_equals_the_emulators(game):
    slow = SlowAtari(game, episode_seed(4, 0, 0), sticky=0.25, full_action_set=True, noops=0)
    assert agrees(envs.make(game, "machado", seed=4), slow, 60)


def test_no_ops_are_drawn_up_to_the_stated_number_and_then_both_backends_agree():
    pytest.importorskip("envpool", reason="envpool is an extra and is not installed")
    one = dataclasses.replace(envs.PROTOCOLS["atari100k"], noop_max=1)
    drawn = {}
    for seed in range(8):
        if len(drawn) == 2:
            break
        slow = SlowAtari("pong", episode_seed(seed, 0, 0), sticky=0.0, full_action_set=False, noops=1)
        drawn.setdefault(agrees(envs.make("Pong", one, seed=seed), slow, 60), seed)
    assert set(drawn) == {False, True}
    ale, pool = (envs.make("Pong", one, seed=drawn[True], backend=backend) for backend in envs.BACKENDS)
    np.testing.assert_array_equal(ale.reset(), pool.reset())
    for action in np.random.default_rng(3).integers(6, size=150):
        assert_same(ale.step(np.array([action])), pool.step(np.array([action])))


@pytest.mark.parametrize("steps", [0, 9, 10, 14])
def test_a_resume_replays_across_episode_ends(steps):
    env, fresh = (envs.make("MsPacman", SHORT, num_envs=2, seed=3, num_threads=t) for t in (1, 2))
    assert_continues(env, fresh, advance(env, steps), 8)


def test_a_resume_when_episodes_are_of_different_ages():
    env, fresh = (envs.make("Breakout", "machado", num_envs=2, seed=11) for _ in range(2))
    env.reset()
    rng = np.random.default_rng(0)
    while not (step := env.step(rng.integers(env.num_actions, size=2))).ended.any():
        pass
    assert not step.ended.all()
    advance(fresh, 3)  # a used environment forgets what it did
    assert_continues(env, fresh, step.first_frame, 60)
    assert_continues(env, fresh, env.step(np.zeros(2, np.int64)).first_frame, 20)


@pytest.mark.parametrize("change", [{"seed": 1}, {"game": "Pong"}, {"protocol": "atari100k"}, {"num_envs": 2}])
def test_a_state_of_other_environments_is_refused(change):
    arguments = {"game": "Breakout", "protocol": "machado", "num_envs": 1, "seed": 0}
    env = envs.make(**arguments)
    env.reset()
    with pytest.raises(ValueError, match=next(iter(change))):
        envs.make(**(arguments | change)).load_state_dict(env.state_dict())


def test_a_step_under_way_has_no_state():
    env = envs.make("Breakout", "machado")
    with pytest.raises(RuntimeError, match="reset"):
        env.state_dict()
    env.reset()
    env.send(np.zeros(1, np.int64))
    with pytest.raises(RuntimeError, match="under way"):
        env.state_dict()


@given(st.integers(0, 2**70), st.integers(0, 10_000), st.integers(0, 10_000))
def test_seeds_are_what_the_emulator_takes(seed, env, episode):
    value = episode_seed(seed, env, episode)
    assert 0 <= value < 2**31
    assert value == episode_seed(seed, env, episode)


def test_seeds_of_near_runs_environments_and_episodes_differ():
    seeds = (0, 1, 2, 2**32, 2**32 + 1)
    keys = [(seed, env, episode) for seed in seeds for env in range(8) for episode in range(20)]
    assert len({episode_seed(*key) for key in keys}) == len(keys)
