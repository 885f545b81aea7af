"""A new environment is a VectorEnv: python -m agents.dqn --env examples.new_environment:Reach:size=8 --steps 3000"""

import numpy as np

from envs.vector_env import Step, VectorEnv


class Reach(VectorEnv):
    """A dot moves left or right on a line of `size` cells. Below the goal it gets reward 1. 20 steps at most."""

    network, stack, num_actions, time_limit, exact_resume = "minatar", 1, 2, 20, True

    def __init__(self, num_envs: int, seed: int, size: int = 10):
        self.num_envs, self.frame_shape, self.rng = num_envs, (size, size), np.random.default_rng(seed)
        self.places, self.none = np.zeros((3, num_envs), int), np.zeros(num_envs, bool)

    def reset(self):
        return self._show(begun=~self.none)

    def _show(self, begun):
        """The frames; where an episode has begun, with a new goal and dot and the step count at 0."""
        self.places[:, begun] = self.rng.integers(self.frame_shape[0], size=(3, begun.sum())) * [[1], [1], [0]]
        frame = np.zeros((self.num_envs, *self.frame_shape), np.uint8)
        frame[np.arange(self.num_envs), [[3], [5]], self.places[:2]] = 255
        return frame

    def recv(self):
        self.places += [self.none, 2 * self.actions - 1, ~self.none]
        self.places[1] = self.places[1].clip(0, self.frame_shape[0] - 1)
        (goal, dot, steps), frame = self.places.copy(), self._show(self.none)
        reached, late, reward = dot == goal, steps == 20, (dot == goal).astype(np.float32)
        first = self._show(reached | late)
        return Step(frame, reward, reached, late & ~reached, self.none, reward.astype(float), steps, first)

    def state_dict(self):
        return {"places": self.places.tolist(), "rng": self.rng.bit_generator.state}

    def load_state_dict(self, state, progress=None):
        self.places, self.rng.bit_generator.state = np.array(state["places"]), state["rng"]
        return self._show(self.none)
