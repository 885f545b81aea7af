"""What both Atari backends share: checks, and the accounting of lives, returns and episode lengths."""

from abc import abstractmethod
from typing import NamedTuple

import numpy as np

from envs.games import resolve_game
from envs.protocol import Protocol
from envs.vector_env import Step, VectorEnv


def episode_seed(seed: int, env: int, episode: int) -> int:
    """The emulator's seed in 0..2**31-1, a function of run seed, environment and episode alone."""
    # ALE takes a negative seed as "draw one"; a plain entropy list would let (2**32, 0, 0) collide with (0, 1, 0).
    return int(np.random.SeedSequence(seed, spawn_key=(env, episode)).generate_state(1)[0] >> 1)


class Emulated(NamedTuple):
    """One agent step as a backend reports it: frames, int or float rewards, flags and lives, arrays [N]."""

    frame: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    lives: np.ndarray


class AtariVectorEnv(VectorEnv):
    """One Atari game in N emulators: 84 x 84 grey frames, raw rewards. A backend fills in four methods."""

    frame_shape = (84, 84)

    def __init__(self, game: str, protocol: Protocol, num_envs: int, seed: int, num_threads: int) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        if num_threads < 1:
            raise ValueError(f"num_threads must be at least 1, got {num_threads}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        self.game = resolve_game(game)
        self.protocol = protocol
        self.num_envs = num_envs
        self.seed = seed
        self.time_limit = protocol.time_limit
        self._lives = np.zeros(num_envs, np.int32)
        self._returns = np.zeros(num_envs)
        self._steps = np.zeros(num_envs, np.int64)
        self._running = False
        self._sent = False

    @abstractmethod
    def _begin(self, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Begins the next episode where `mask`; frames and lives of those rows. Never called with an empty mask."""

    @abstractmethod
    def _send(self, actions: np.ndarray) -> None:
        """Starts one agent step with int64 actions [N]."""

    @abstractmethod
    def _recv(self) -> Emulated:
        """Waits for the step that `_send` started."""

    def reset(self) -> np.ndarray:
        self._idle("reset")
        self._running = True
        return self._start(np.ones(self.num_envs, bool))

    def send(self, actions: np.ndarray) -> None:
        self._ready("send")
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs,) or actions.dtype.kind not in "iu":
            raise ValueError(f"actions must be {self.num_envs} integers, got {actions.dtype} {list(actions.shape)}")
        if actions.min() < 0 or actions.max() >= self.num_actions:
            raise ValueError(f"actions of {self.game} must be in 0..{self.num_actions - 1}, got {actions.tolist()}")
        self._send(actions.astype(np.int64))
        self._sent = True

    def recv(self) -> Step:
        if not self._sent:
            raise RuntimeError("send() must come before recv()")
        self._sent = False
        new = self._recv()
        terminated = new.terminated.astype(bool)
        truncated = new.truncated.astype(bool) & ~terminated
        life_lost = new.lives < self._lives
        self._tally(new)
        returns, steps = self._returns.copy(), self._steps.copy()
        first_frame, ended = new.frame, terminated | truncated
        if ended.any():
            first_frame = new.frame.copy()
            first_frame[ended] = self._start(ended)
        reward = new.reward.astype(np.float32)
        return Step(new.frame, reward, terminated, truncated, life_lost, returns, steps, first_frame)

    def _tally(self, new: Emulated) -> None:
        self._lives = new.lives.copy()
        self._returns += new.reward
        self._steps += 1

    def _start(self, mask: np.ndarray) -> np.ndarray:
        """Begins episodes where `mask` and clears their accounts; the frames of those rows."""
        if not mask.any():
            return np.zeros((0, *self.frame_shape), np.uint8)
        frames, self._lives[mask] = self._begin(mask)
        self._returns[mask] = 0
        self._steps[mask] = 0
        return frames

    def _idle(self, what: str) -> None:
        if self._sent:
            raise RuntimeError(f"{what}() while a step is under way; call recv() first")

    def _ready(self, what: str) -> None:
        self._idle(what)
        if not self._running:
            raise RuntimeError(f"reset() must come before {what}()")

    def _describe(self, backend: str) -> str:
        environments = f"{self.num_envs} environment{'s' if self.num_envs > 1 else ''}"
        return f"{backend}, {self.game}, {environments}, seed {self.seed}, {self.protocol.summary()}"
