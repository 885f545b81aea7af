"""Lives, returns and lengths over every history of ends that a backend could report, against a loop."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from envs.atari import AtariVectorEnv, Emulated
from envs.protocol import PROTOCOLS

START_LIVES = 3


class Scripted(AtariVectorEnv):
    """One environment that reports what it is told: (reward, terminated, truncated, lives) per step."""

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
