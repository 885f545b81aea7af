"""Gymnasium environments with pixels, registered when this module is imported: one made singly, one by each reset."""

from functools import partial

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv


class Dot(gymnasium.Env):
    """A grey value that each action lifts by 1 or 2; 9 or more ends the episode with that many points.

    The picture is of `shape`; episode k begins at the value k % 3, whatever the seed.
    """

    action_space = spaces.Discrete(2, start=1)

    def __init__(self, shape=(96, 100, 3)):
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)
        self.episode = -1

    def _picture(self):
        picture = np.zeros(self.observation_space.shape, np.uint8)
        picture[: self.value] = 20 * self.value
        return picture

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode += 1
        self.value, self.steps = self.episode % 3, 0
        return self._picture(), {}

    def step(self, action):
        self.value += int(action)
        self.steps += 1
        over = self.value >= 9
        return self._picture(), float(self.value) if over else 0.0, over, False, {}


class Raising(Dot):
    def __init__(self, *args, **options):
        raise KeyError("no such level")


class Floats(Dot):
    """Shows no pixels."""

    def __init__(self):
        self.observation_space = spaces.Box(0, 1, (4,), np.float32)


class Steered(Dot):
    """Wants an angle."""

    action_space = spaces.Box(-1, 1, (1,), np.float32)


def vector(num_envs, mode, max_episode_steps=None, **options):
    """A vector that resets by `mode`, as an environment with a vector entry point alone has it."""
    limited = partial(gymnasium.wrappers.TimeLimit, max_episode_steps=max_episode_steps)
    return SyncVectorEnv([lambda: limited(Dot(**options))] * num_envs, autoreset_mode=mode)


gymnasium.register("Dot-v0", Dot, max_episode_steps=6)
gymnasium.register("Little-v0", Dot, kwargs={"shape": (30, 32)})
gymnasium.register("Floats-v0", Floats)
gymnasium.register("Steered-v0", Steered)
gymnasium.register("Raising-v0", Raising)
for _mode in AutoresetMode:
    _entry = partial(vector, mode=_mode)
    gymnasium.register(f"{_mode.value}Dot-v0", vector_entry_point=_entry, max_episode_steps=6)
