"""What docs/environments.md says of the emulators, where we rely on it."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from slow_atari import SlowAtari, is_area_average

import envs
from envs.atari import episode_seed
from envs.games import rom_id

PLAIN = dataclasses.replace(envs.PROTOCOLS["atari100k"], name="plain", noop_max=0)


def ending(backend: str, game: str, seed: int) -> tuple[int, np.ndarray, np.ndarray, list[np.ndarray]]:
    """The frame of the skip in which a random game ends, the last frame that is shown, and the screens it may show.

    Those are what was shown before, and the screens of the last skip, in the emulator's own size.
    """
    env = envs.make(game, PLAIN, seed=seed, backend=backend)
    noops = int(backend == "envpool")
    slow = SlowAtari(rom_id(game), episode_seed(seed, 0, 0), sticky=0.0, full_action_set=False, noops=noops)
    env.reset()
    before, random = slow.reset(), np.random.default_rng(seed)
    while True:
        action, screens = int(random.integers(env.num_actions)), []
        while len(screens) < 4 and not slow.ale.game_over():
            slow.ale.act(slow.actions[action])
            screens.append(slow.ale.getScreenGrayscale())
        step = env.step(np.array([action]))
        if slow.ale.game_over():
            assert step.terminated[0]
            env.close()
            return len(screens), step.frame[0], before, screens
        before = np.maximum(screens[2], screens[3])


def test_the_last_frame_of_a_game_that_ends_within_a_skip(backend):
    """ale: what was shown before, at most with the third screen; envpool: the third screen alone, or as always."""
    seen = set()
    for game, seed in [("Breakout", 0), ("Qbert", 0), ("Breakout", 1), *(("Qbert", seed) for seed in range(1, 9))]:
        end, frame, before, screens = ending(backend, game, seed)
        expected = before
        if end == 4:
            expected = np.maximum(screens[2], before if backend == "ale" else screens[3])
        elif end == 3 and backend == "envpool":
            expected = screens[2]
        assert is_area_average(frame, expected), (game, seed, end)
        seen.add(end)
        if seen >= {1, 3, 4}:
            return
    raise AssertionError(f"no game ended in other frames than {seen}")


@pytest.mark.parametrize("fire", [False, True])
def test_envpool_draws_one_to_n_no_ops_and_with_fire_one_fewer(fire):
    pytest.importorskip("envpool", reason="envpool is an extra and is not installed")
    memories, slow = [], SlowAtari("breakout", 1, sticky=0.0, full_action_set=False, noops=0)
    for frames in range(5):
        slow.reset()
        for frame in range(frames):
            slow.ale.act(int(fire and frame == frames - 1))
        memories.append(slow.ale.getRAM().tobytes())
    drawn = set()
    rules = dataclasses.replace(PLAIN, noop_max=3, fire_reset=fire)
    env = envs.make("Breakout", rules, backend="envpool")
    for _ in range(20):
        _, info = env._env.reset()
        drawn.add(memories.index(np.asarray(info["ram"][0], np.uint8).tobytes()) - fire)
    env.close()
    assert drawn == ({0, 1, 2} if fire else {1, 2, 3})


def test_amidar_begins_with_no_lives_and_loses_none_by_it(backend):
    env = envs.make("Amidar", PLAIN, seed=1, backend=backend)
    env.reset()
    for _ in range(20):
        step = env.step(np.zeros(1, np.int64))
        assert not (step.life_lost | step.ended).any()
    assert env._lives[0] == 11
