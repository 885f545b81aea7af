"""Lives, returns and lengths over every history of ends that a backend could report, against a loop."""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from slow_atari import SlowAtari

from envs.atari import AtariVectorEnv, Emulated, wrapped
from envs.protocol import PROTOCOLS

START_LIVES = 3


class Scripted(AtariVectorEnv):
    """One environment that reports what it is given: (reward, terminated, truncated, lives) per step."""

    num_actions = 2

    def __init__(self, script: list[tuple[int, bool, bool, int]]) -> None:
        super().__init__("Pong", PROTOCOLS["machado"], num_envs=1, seed=0, num_threads=1)
        self.script = iter(script)

    def _begin(self, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.full((1, 84, 84), 9, np.uint8), np.array([START_LIVES])

    def _send(self, actions: np.ndarray) -> None:
        self.told = next(self.script)

    def _recv(self) -> Emulated:
        reward, *flags, lives = (np.array([value]) for value in self.told)
        return Emulated(np.ones((1, 84, 84), np.uint8), reward, flags[0], flags[1], lives)

    def close(self) -> None:
        pass

    def describe(self) -> str:
        return "scripted"


@given(st.lists(st.tuples(st.integers(-5, 5), st.booleans(), st.booleans(), st.integers(0, 4)), max_size=20))
def test_accounts_equal_a_loop(script):
    env = Scripted(script)
    env.reset()
    lives, total, length = START_LIVES, 0, 0
    for reward, terminated, truncated, now in script:
        step = env.step(np.zeros(1, np.int64))
        total, length = total + reward, length + 1
        seen = (step.reward, step.episode_return, step.episode_steps, step.life_lost, step.terminated, step.truncated)
        assert seen == (reward, total, length, now < lives, terminated, truncated and not terminated)
        ended = terminated or truncated
        assert step.ended == ended
        assert (step.frame == 1).all()
        assert (step.first_frame == (9 if ended else 1)).all()
        lives = now
        if ended:
            lives, total, length = START_LIVES, 0, 0


def flags(rewards: list[float]) -> list[bool]:
    env = Scripted([(reward, False, False, START_LIVES) for reward in rewards])
    env.reset()
    return [bool(env.step(np.zeros(1, np.int64)).score_wrapped[0]) for _ in rewards]


def test_a_counter_that_wraps_is_flagged_each_time_and_the_score_stays_the_sum():
    rewards = [999_990, -999_970, 5, 999_960, -999_985]
    assert flags(rewards) == [False, True, False, False, True]
    assert flags([9_990, -9_970, 9_960, -9_900]) == [False, True, False, True]  # Tutankham's, the shortest
    env = Scripted([(reward, False, False, START_LIVES) for reward in rewards])
    env.reset()
    returns = [env.step(np.zeros(1, np.int64)).episode_return[0] for _ in rewards]
    assert returns == np.cumsum(rewards).tolist()


def test_a_score_of_the_game_before_is_no_score_of_this_one():
    env = Scripted([(50_000, True, False, 0), (-40_000, False, False, START_LIVES)])
    env.reset()
    assert not any(env.step(np.zeros(1, np.int64)).score_wrapped[0] for _ in range(2))


LEGITIMATE = {
    "Skiing": [-7] * 500 + [-15_000],
    "Pong": [-1] * 21 + [1] * 20 + [-1],
    "Tennis": [1, -1, -1],
    "Boxing": [1] * 99 + [-2],
    "DoubleDunk": [2, 3, -3, -3],
    "FishingDerby": [6, 4, -6, -6],
    "IceHockey": [1, -1, -1],
    "Enduro": [1] * 1_200 + [-1] * 40,
    "PrivateEye": [100, 2_000, -100, -1_000, 20_000, -1_000],
    "Pitfall": [2_000, -100, -1_600],
    "JourneyEscape": [9_900] + [-2_000] * 5,
}
"""Rewards as large as they may be and larger, but none that takes nearly all of a score of 9,000."""


@pytest.mark.parametrize("game", LEGITIMATE)
def test_what_a_game_takes_for_a_mistake_is_no_wrap(game):
    assert not any(flags(LEGITIMATE[game]))


@pytest.mark.parametrize(
    ("rom", "score", "lost"), [("wizard_of_wor", (6, 8), 199_900), ("frostbite", (74, 73, 72), 999_990)]
)
def test_the_emulators_own_counter_wraps_and_is_flagged(rom, score, lost):
    """The digits are written into the console's memory near their end; play does the rest."""
    slow = SlowAtari(rom, seed=1, sticky=0.0, full_action_set=False, noops=0)
    slow.reset()
    for _ in range(50):
        slow.step(0)
    for byte in score:
        slow.ale.setRAM(byte, 0x99)
    rng = np.random.default_rng(0)
    total, found = np.zeros(1), []
    for _ in range(3_000):
        reward = slow.step(int(rng.integers(len(slow.actions)))).reward
        if wrapped(total, np.array([reward])):
            found.append((total[0], reward))
        total += reward
        if found or slow.ale.game_over():
            break
    ((before, reward),) = found
    assert before == lost + (9 if rom == "frostbite" else 0)
    assert -lost <= reward <= -0.9 * before


def test_space_invaders_counter_wraps_unseen():
    slow = SlowAtari("space_invaders", seed=1, sticky=0.0, full_action_set=False, noops=0)
    slow.reset()
    for byte in (0xE8 - 0x80, 0xE6 - 0x80):
        slow.ale.setRAM(byte, 0x99)
    rng = np.random.default_rng(0)
    rewards = [slow.step(int(rng.integers(6))).reward for _ in range(200)]
    assert rewards[0] == 9_999
    assert min(rewards) == 0
    assert sum(rewards) > 9_999
