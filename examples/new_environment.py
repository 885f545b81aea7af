"""A new environment is a VectorEnv: python -m agents.dqn --env examples.new_environment:Reach:size=8 --steps 3000"""

import numpy as np

from envs.vector_env import Step, VectorEnv


class Reach(VectorEnv):
    """A dot goes left or right on a line of `size` cells until it is below a goal, which gives 1."""

    network, stack, num_actions, exact_resume = "minatar", 1, 2, True

    def __init__(self, num_envs: int, seed: int, size: int = 10):
        self.num_envs, self.frame_shape, self.rng = num_envs, (size, size), np.random.default_rng(seed)

    def reset(self):
        self.dot, self.goal, self.steps = np.zeros((3, self.num_envs), int)
        return self._begin(np.ones(self.num_envs, bool))

    def _begin(self, mask):
        self.dot[mask], self.goal[mask] = self.rng.integers(self.frame_shape[0], size=(2, mask.sum()))
        self.steps[mask] = 0
        return self._draw()

    def _draw(self):
        frame = np.zeros((self.num_envs, *self.frame_shape), np.uint8)
        frame[np.arange(self.num_envs), [[3], [5]], [self.goal, self.dot]] = 255
        return frame

    def recv(self):
        self.dot, self.steps = np.clip(self.dot + 2 * self.actions - 1, 0, self.frame_shape[0] - 1), self.steps + 1
        reached, steps, frame = self.dot == self.goal, self.steps.copy(), self._draw()
        reward, never = reached.astype(np.float32), np.zeros(self.num_envs, bool)
        return Step(frame, reward, reached, never, never, reward.astype(float), steps, self._begin(reached))

    def state_dict(self):
        return {"places": np.stack([self.dot, self.goal, self.steps]).tolist(), "rng": self.rng.bit_generator.state}

    def load_state_dict(self, state, progress=None):
        (self.dot, self.goal, self.steps), self.rng.bit_generator.state = np.array(state["places"]), state["rng"]
        return self._draw()
