"""Environments of Gymnasium with pixel observations and discrete actions, made by `gymnasium.make_vec`."""

import importlib
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

from envs.area import AreaResize
from envs.atari import episode_seed
from envs.vector_env import Step, VectorEnv
from experiment.part import described

SIDE = 84
"""The longest side of a frame; a longer one is resized to it."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Shares of red, green and blue in grey (ITU-R BT.601)."""


def check_id(env_id: str) -> None:
    """Raises ValueError, in one line, unless Gymnasium knows `Name-v0`, or `module:Name-v0` once it has the module."""
    module, colon, _ = env_id.rpartition(":")
    try:
        if colon:
            importlib.import_module(module)
        gymnasium.spec(env_id.rpartition(":")[2])
    except Exception as error:  # whatever the user's module raises
        raise ValueError(f"gym:{env_id}: {' '.join(str(error).split())}") from None


class GymnasiumVectorEnv(VectorEnv):
    """N environments of one id: uint8 frames [H, W], [H, W, 1] or [H, W, 3] in grey, a side above 84 resized to 84.

    An environment with an entry point is stepped in this process and reset when its episode ends. One that has only a
    vector entry point resets by its own autoreset mode, any of Gymnasium's three. Each step counts as one frame, even
    if the environment skips frames. The seed is given once, at the first reset, so an episode depends on all episodes
    before it. Raises ValueError, in one line, for other observations or actions.
    """

    exact_resume = False
    earliest_truncation = 1  # the environment may truncate by a rule of its own

    def __init__(self, env_id: str, num_envs: int = 1, seed: int = 0) -> None:
        if num_envs < 1 or seed < 0:
            raise ValueError(f"num_envs must be at least 1 and seed not negative, got {num_envs} and {seed}")
        self.env_id, self.num_envs, self.seed = env_id, num_envs, seed
        self._envs = self._make()
        first = self._envs[0]
        shape, actions = _check_spaces(env_id, first.single_observation_space, first.single_action_space)
        self._first_action, self.num_actions = int(actions.start), int(actions.n)
        height, width = shape
        self.frame_shape = (min(height, SIDE), min(width, SIDE))
        self._shrink = None if shape == self.frame_shape else AreaResize((height, width), *self.frame_shape)
        spec = first.spec
        self.time_limit = None if spec is None else spec.max_episode_steps
        self._returns, self._steps = np.zeros(num_envs), np.zeros(num_envs, np.int64)
        self._unseeded = True
        self._sent: np.ndarray | None = None

    def _make(self) -> list[gymnasium.vector.VectorEnv]:
        """One vector of all environments. If a reset takes a vector step: N vectors of one, to lose no action."""
        spec, made = gymnasium.spec(self.env_id.rpartition(":")[2]), gymnasium.make_vec
        try:
            self._single = spec.entry_point is not None
            if self._single:
                self._mode = AutoresetMode.DISABLED
                options = {"autoreset_mode": self._mode}
                return [made(self.env_id, self.num_envs, vectorization_mode="sync", vector_kwargs=options)]
            vector = made(self.env_id, self.num_envs)
        except (gymnasium.error.Error, ImportError) as error:
            raise ValueError(f"gym:{self.env_id}: {' '.join(str(error).split())}") from None
        except Exception as error:  # whatever the user's environment raises
            raise ValueError(f"gym:{self.env_id}: {described(error)}") from None
        mode = vector.metadata.get("autoreset_mode")
        if not isinstance(mode, AutoresetMode):
            raise ValueError(f"gym:{self.env_id}: its metadata state no autoreset_mode of gymnasium.vector")
        self._mode = mode
        if mode is not AutoresetMode.NEXT_STEP or self.num_envs == 1:
            return [vector]
        vector.close()
        return [made(self.env_id, 1) for _ in range(self.num_envs)]

    def reset(self) -> np.ndarray:
        self._returns[:], self._steps[:], self._sent = 0, 0, None
        seeds: list[Any] = [episode_seed(self.seed, env, 0) for env in range(self.num_envs)]
        if len(self._envs) == 1:  # a vector entry point need not take a list
            seeds = [seeds if self._mode is AutoresetMode.DISABLED and self._single else seeds[0]]
        if not self._unseeded:
            seeds = [None] * len(self._envs)
        self._unseeded = False
        shown = [env.reset(seed=seed)[0] for env, seed in zip(self._envs, seeds, strict=True)]
        return self._frames(np.concatenate(shown))

    def send(self, actions: np.ndarray) -> None:
        if self._unseeded or self._sent is not None:
            raise RuntimeError("reset() must come before send(), and recv() between two of them")
        self._sent = self.checked(actions) + self._first_action

    def recv(self) -> Step:
        if self._sent is None:
            raise RuntimeError("send() must come before recv()")
        sent, self._sent = self._sent, None
        shown, reward, terminated, truncated, last = self._step(sent)
        truncated = truncated & ~terminated
        ended = terminated | truncated
        self._returns += reward
        self._steps += 1
        frame = self._frames(shown)
        returns, steps, first = self._returns.copy(), self._steps.copy(), frame
        if ended.any():
            first = frame.copy()
            if last is not None:  # what is shown is the next episode's already
                frame = frame.copy()
                frame[ended] = self._frames(last)
            else:
                first[ended] = self._frames(self._begin(sent, ended)[ended])
            self._returns[ended], self._steps[ended] = 0, 0
        never = np.zeros(self.num_envs, bool)
        return Step(frame, reward.astype(np.float32), terminated, truncated, never, returns, steps, first)

    def _step(self, actions: np.ndarray) -> tuple[Any, ...]:
        """Observations, rewards, ends, and the last observations of ended episodes if the next episodes are shown."""
        if len(self._envs) > 1:
            each = [env.step(actions[i : i + 1])[:4] for i, env in enumerate(self._envs)]
            shown, reward, terminated, truncated = map(np.concatenate, zip(*each, strict=True))
            return shown, reward, terminated.astype(bool), truncated.astype(bool), None
        shown, reward, terminated, truncated, info = self._envs[0].step(actions)
        terminated, truncated = np.array(terminated, bool), np.array(truncated, bool)
        ended = terminated | truncated
        last = None
        if self._mode is AutoresetMode.SAME_STEP and ended.any():
            last = np.stack([info["final_obs"][env] for env in np.flatnonzero(ended)])
        return shown, np.array(reward, np.float64), terminated, truncated, last

    def _begin(self, actions: np.ndarray, ended: np.ndarray) -> Any:
        """Begins the next episode where one `ended`; what all environments show then."""
        if self._mode is AutoresetMode.DISABLED:
            return self._envs[0].reset(options={"reset_mask": ended.copy()})[0]
        shown = np.zeros((self.num_envs, *self._envs[0].single_observation_space.shape), np.uint8)  # type: ignore[misc]
        for env in np.flatnonzero(ended):
            shown[env] = self._envs[env].step(actions[env : env + 1])[0][0]  # the step that resets ignores its action
        return shown

    def _frames(self, shown: Any) -> np.ndarray:
        """Observations [N, ...] as new grey frames uint8 [N, *frame_shape]."""
        pictures = np.array(shown, np.uint8)
        if pictures.ndim == 4:
            grey = pictures.astype(np.float32) @ LUMA if pictures.shape[-1] == 3 else pictures[..., 0]
            pictures = np.rint(grey).astype(np.uint8)
        return pictures if self._shrink is None else np.stack([self._shrink(picture) for picture in pictures])

    def close(self) -> None:
        for env in self._envs:
            env.close()

    def describe(self) -> str:
        resized = "" if self._shrink is None else f", frames resized to {'×'.join(map(str, self.frame_shape))}"
        mode = self._mode.value.lower()
        return f"gymnasium {gymnasium.__version__}, {self.env_id}, {self.num_envs} of them, autoreset {mode}{resized}"


def _check_spaces(env_id: str, seen: gymnasium.Space, actions: gymnasium.Space) -> tuple[tuple[int, int], Any]:
    """Height and width of the observations, and the actions."""
    if not isinstance(actions, gymnasium.spaces.Discrete):
        raise ValueError(f"gym:{env_id} has actions {actions}: they have to be Discrete")
    shape = seen.shape or ()
    pixels = len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))
    if not (isinstance(seen, gymnasium.spaces.Box) and seen.dtype == np.uint8 and pixels):
        raise ValueError(f"gym:{env_id} shows {seen}: it has to be pixels, uint8 H×W, H×W×1 or H×W×3")
    return (shape[0], shape[1]), actions
