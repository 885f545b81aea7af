"""The emulators of the ale backend: pictures equal to ale-py's own, memory that lives on, and exact clones."""

import dataclasses
import hashlib
import pickle
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from ale_py import Action
from ale_py.vector_env import AtariVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from slow_atari import SlowAtari, is_area_average

import envs
from envs.ale import AleVectorEnv
from envs.area import AreaResize
from envs.atari import episode_seed
from envs.emulator import Emulator
from envs.games import MULTIPLAYER_ONLY, _roms_by_key, rom_id
from envs.vector_env import Step

PLAIN = dataclasses.replace(envs.PROTOCOLS["atari100k"], name="plain", noop_max=0)
STICKY = dataclasses.replace(envs.PROTOCOLS["machado"], name="sticky", noop_max=4, max_frames=4 * 12)


def ale_pys_own(game: str, protocol: envs.Protocol) -> AtariVectorEnv:
    """ale-py's vector environment without no-ops and limit: where it cuts an episode it shows no whole last frame."""
    return AtariVectorEnv(
        rom_id(game),
        1,
        num_threads=1,
        repeat_action_probability=protocol.sticky_actions,
        full_action_space=protocol.full_action_set,
        stack_num=1,
        frameskip=protocol.frame_skip,
        noop_max=1,
        reward_clipping=False,
        use_fire_reset=protocol.fire_reset,
    )


@pytest.mark.parametrize(
    ("game", "changes"),
    [
        ("Breakout", {}),
        ("Breakout", {"fire_reset": True}),
        ("MsPacman", {"sticky_actions": 0.25, "full_action_set": True}),
        ("Pong", {"frame_skip": 1}),
        ("Qbert", {"frame_skip": 3, "max_frames": 3 * 50}),
        ("Assault", {"sticky_actions": 0.5}),
        ("Pacman", {}),  # 250 lines
        ("JourneyEscape", {}),  # 230
    ],
    ids=str,
)
def test_a_first_episode_is_ale_pys_own_to_the_bit(game, changes):
    rules = dataclasses.replace(PLAIN, **({"max_frames": 4 * 150} | changes))
    theirs, ours = ale_pys_own(game, rules), AleVectorEnv(game, rules, 1, seed=3)
    frames, info = theirs.reset(seed=np.array([episode_seed(3, 0, 0)]))
    np.testing.assert_array_equal(ours.reset(), frames[:, 0])
    lives = info["lives"]
    for time, action in enumerate(np.random.default_rng(5).integers(ours.num_actions, size=(rules.time_limit, 1)), 1):
        frames, reward, terminated, _, info = theirs.step(action)
        step = ours.step(action)
        np.testing.assert_array_equal(step.frame, frames[:, 0])  # that of an end, too
        assert (step.reward, step.terminated) == (reward, terminated)
        assert step.truncated == (time == rules.time_limit and not terminated)
        assert step.life_lost == (info["lives"] < lives)
        lives = info["lives"]
        if terminated:
            break
    assert step.ended


@given(st.integers(84, 250), st.integers(0, 2**32), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_small_picture_has_the_mean_of_every_area(lines, seed, coarse):
    rng = np.random.default_rng(seed)
    grey = rng.integers(0, 256, (lines, 40 if coarse else 160), dtype=np.uint8).repeat(4 if coarse else 1, axis=1)
    assert is_area_average(AreaResize(grey.shape, 84, 84)(grey), grey)


def games_of(begin: Callable[[], np.ndarray], step: Callable[[int], tuple], steps: int, actions: int) -> list[str]:
    """Fifteen episodes of the same actions as hashes of all that was seen but the last frame of a game that is over."""
    taken, games = np.random.default_rng(0).integers(actions, size=steps), []
    for _ in range(15):
        seen = [begin()]
        for action in taken:
            frame, *rest, ended = step(int(action))
            seen += rest if ended else [*rest, frame]
            if ended:
                break
        games.append(hashlib.sha256(pickle.dumps(seen)).hexdigest())
    return games


@pytest.mark.parametrize(
    ("game", "steps", "different"),
    [("Assault", 100, 14), ("Solaris", 100, 14), ("Surround", 100, 11), ("Seaquest", 40, 2), ("Breakout", 40, 1)],
)
def test_memory_lives_on_as_in_envpool(game, steps, different):
    """Fifteen games of the same actions, after one no-op each, since envpool plays at least one."""
    rules = dataclasses.replace(PLAIN, max_frames=4 * steps)
    emulator = Emulator(game, rules, seed=5)

    def begin() -> np.ndarray:
        emulator.begin(noops=1)
        return emulator.frame

    def step(action: int) -> tuple[np.ndarray, float, bool]:
        reward, over, cut = emulator.act(action)
        return emulator.frame, float(reward), over or cut

    games = games_of(begin, step, steps, len(emulator.actions))
    assert len(set(games)) == different
    pytest.importorskip("envpool", reason="envpool is an extra and is not installed")
    pool = envs.make(game, rules, 1, seed=5, backend="envpool")
    begun = pool.reset()

    def pool_step(action: int) -> tuple[np.ndarray, float, bool]:
        nonlocal begun
        seen = pool.step(np.array([action]))
        begun = seen.first_frame
        return seen.frame[0], float(seen.reward[0]), bool(seen.ended[0])

    assert games_of(lambda: begun[0], pool_step, steps, pool.num_actions) == games


@pytest.mark.parametrize("press", [False, True])
@pytest.mark.parametrize("noops", [0, 1, 6])
def test_no_ops_are_played_and_fire_is_the_first(noops, press):
    slow = SlowAtari("breakout", 8, sticky=0.0, full_action_set=False, noops=0)
    slow.reset()
    for i in range(max(noops, press)):
        slow.ale.act(Action.FIRE if press and i == 0 else Action.NOOP)
    emulator = Emulator("Breakout", dataclasses.replace(PLAIN, fire_reset=press), seed=8)
    emulator.begin(noops)
    assert is_area_average(emulator.frame, slow.ale.getScreenGrayscale())
    for action in (2, 3, 3, 2, 2):
        expected = slow.step(action)
        assert emulator.act(action)[0] == expected.reward
        assert is_area_average(emulator.frame, expected.screen)


def test_the_number_of_no_ops_follows_from_seed_environment_and_episode():
    def drawn(seed: int, num_envs: int, steps: int) -> list[list[int]]:
        rules = dataclasses.replace(PLAIN, noop_max=3, max_frames=4)
        env = AleVectorEnv("Pong", rules, num_envs, seed)
        counts: list[list[int]] = []
        begin = env._players[0]._object.begin
        env._players[0]._object.begin = lambda noops: counts.append(noops) or begin(noops)
        env.reset()
        for _ in range(steps):
            env.step(np.zeros(num_envs, np.int64))
        return counts

    few, many = drawn(1, 1, 30), drawn(1, 2, 30)
    assert [row[:1] for row in many] == few
    assert {count for row in many for count in row} == {0, 1, 2, 3}
    assert [row[0] for row in many] != [row[1] for row in many]
    assert drawn(2, 1, 30) != few


def trace(env: AleVectorEnv, moves: np.ndarray) -> list[bytes]:
    return [pickle.dumps([field.tolist() for field in env.step(row)]) for row in moves]


def moves(steps: int, seed: int, num_envs: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).integers(18, size=(steps, num_envs))


@cache
def uninterrupted(game: str) -> tuple[list[bytes], list[bytes]]:
    """The states before each of 50 steps of two environments, of which an episode has 12, and all that they led to."""
    env = AleVectorEnv(game, STICKY, 2, seed=9)
    env.reset()
    states, seen = [], []
    for row in moves(50, 3):
        states.append(pickle.dumps(env.state_dict()))
        seen += trace(env, row[None])
    return states, seen


@settings(deadline=None, max_examples=12)
@given(st.sampled_from(["Assault", "Qbert"]), st.integers(0, 49))
def test_a_resume_at_any_moment_goes_on_to_the_bit(game, moment):
    states, seen = uninterrupted(game)
    env = AleVectorEnv(game, STICKY, 2, seed=9)
    shown = env.load_state_dict(pickle.loads(states[moment]))
    if moment:
        assert shown.tolist() == pickle.loads(seen[moment - 1])[Step._fields.index("first_frame")]
    assert pickle.loads(pickle.dumps(env.state_dict())) == pickle.loads(states[moment])
    assert trace(env, moves(50, 3)[moment:]) == seen[moment:]


def test_nothing_depends_on_when_a_state_is_taken():
    env = AleVectorEnv("Assault", STICKY, 2, seed=9)
    env.reset()
    assert trace(env, moves(50, 3)) == uninterrupted("Assault")[1]


def test_a_resume_goes_on_in_a_fresh_process():
    states, seen = uninterrupted("Assault")
    code = (
        "import sys, pickle; sys.path[:0] = [sys.argv[1], sys.argv[2]]; import test_emulator as here;"
        "env = here.AleVectorEnv('Assault', here.STICKY, 2, seed=9);"
        "env.load_state_dict(pickle.load(sys.stdin.buffer));"
        "sys.stdout.buffer.write(pickle.dumps(here.trace(env, here.moves(50, 3)[31:])))"
    )
    folders = [str(Path(__file__).parent), str(Path(envs.__file__).parents[1])]
    done = subprocess.run([sys.executable, "-c", code, *folders], input=states[31], capture_output=True, check=True)
    assert pickle.loads(done.stdout) == seen[31:]


@pytest.mark.parametrize("game", ["Qbert", "YarsRevenge"])
def test_a_resumed_run_can_be_resumed(game):
    env = AleVectorEnv(game, STICKY, 1, seed=2)
    env.reset()
    one = trace(env, moves(70, 1, 1))
    env = AleVectorEnv(game, STICKY, 1, seed=2)
    env.reset()
    other: list[bytes] = []
    for begun in range(0, 70, 14):
        state, env = pickle.dumps(env.state_dict()), AleVectorEnv(game, STICKY, 1, seed=2)
        env.load_state_dict(pickle.loads(state))
        other += trace(env, moves(70, 1, 1)[begun : begun + 14])
    assert one == other


def test_long_episodes_are_replayed_in_stretches(monkeypatch):
    monkeypatch.setattr("envs.ale.STRETCH", 10)
    rules = dataclasses.replace(PLAIN, sticky_actions=0.3, full_action_set=True)
    env, fresh = (AleVectorEnv("Breakout", rules, 2, seed=1) for _ in range(2))
    env.reset()
    ages = set()
    for row in moves(500, 1):
        step = env.step(row)
        ages = set(step.episode_steps.tolist())
        if len(ages) == 2 and min(ages) > 25 and not step.ended.any():
            break
    assert len(ages) == 2
    reports: list[tuple[int, int]] = []
    shown = fresh.load_state_dict(env.state_dict(), lambda done, total: reports.append((done, total)))
    np.testing.assert_array_equal(shown, step.first_frame)
    assert reports == [(min(done, max(ages)), max(ages)) for done in range(10, max(ages) + 10, 10)]
    assert trace(env, moves(60, 2)) == trace(fresh, moves(60, 2))


def test_a_state_of_an_earlier_version_is_refused_in_a_line():
    env = AleVectorEnv("Pong", STICKY, 1, seed=2)
    env.reset()
    state = env.state_dict()
    del state["clones"]
    with pytest.raises(ValueError, match="begin again") as refused:
        AleVectorEnv("Pong", STICKY, 1, seed=2).load_state_dict(state)
    assert "\n" not in str(refused.value)


@pytest.mark.slow
@pytest.mark.parametrize("rom", sorted(set(_roms_by_key().values()) - set(MULTIPLAYER_ONLY)))
def test_every_game_goes_on_from_its_clone(rom):
    """Two more episodes after two of 60 and 200 agent steps, in an emulator that has played something else before."""

    def episode(emulator: Emulator, number: int) -> list:
        emulator.begin(number)
        seen = [emulator.frame.tobytes(), emulator.lives]
        for action in np.random.default_rng(number).integers(len(emulator.actions), size=(60, 200)[number % 2]):
            played = emulator.act(int(action))
            seen += [played, emulator.lives, emulator.frame.tobytes()]
            if played[1]:
                break
        return seen

    rules = dataclasses.replace(PLAIN, sticky_actions=0.25)
    emulator, fresh = Emulator(rom, rules, seed=1), Emulator(rom, rules, seed=1)
    for number in range(2):
        episode(emulator, number)
    clone = emulator.clone()
    episode(fresh, 3)
    fresh.restore(clone)
    for number in range(2, 4):
        assert episode(emulator, number) == episode(fresh, number)
