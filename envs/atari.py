"""What both Atari backends share: checks, and the accounting of lives, returns and episode lengths."""

from abc import abstractmethod
from typing import Any, NamedTuple

import numpy as np

from envs.protocol import Protocol
from envs.vector_env import Progress, Step, VectorEnv


def episode_seed(seed: int, env: int, episode: int) -> int:
    """The emulator's seed in 0..2**31-1, a function of run seed, environment and episode alone."""
    # ALE takes a negative seed as "draw one"; a plain entropy list would let (2**32, 0, 0) collide with (0, 1, 0).
    return int(np.random.SeedSequence(seed, spawn_key=(env, episode)).generate_state(1)[0] >> 1)


def wrapped(score: np.ndarray, reward: np.ndarray) -> np.ndarray:
    """bool [N]: whether a game's score counter wrapped in a step, judged by the score before it.

    After 999,999 the counter of most games is 0 again, and ale-py and envpool report the difference as a reward. The
    rule: the score is at least 9,000, since the shortest counter that was seen to wrap is Tutankham's of 9,999, and one
    reward takes more than 90% of it. No game takes so much of such a score for a mistake: JourneyEscape takes 2,000,
    and Skiing's scores are below 0.
    """
    return (score >= 9_000) & (reward < -0.9 * score)


class Emulated(NamedTuple):
    """One agent step as a backend reports it: frames, int or float rewards, flags and lives, arrays [N]."""

    frame: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    lives: np.ndarray


class AtariVectorEnv(VectorEnv):
    """One Atari game in N emulators: 84 x 84 grey frames, raw rewards. A backend fills in four methods."""

    frame_shape: tuple[int, ...] = (84, 84)

    def __init__(self, game: str, protocol: Protocol, num_envs: int, seed: int, num_threads: int) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        if num_threads < 1:
            raise ValueError(f"num_threads must be at least 1, got {num_threads}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        self.game = game
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
        self._send(self.checked(actions, f" of {self.game}"))
        self._sent = True

    def recv(self) -> Step:
        if not self._sent:
            raise RuntimeError("send() must come before recv()")
        self._sent = False
        new = self._recv()
        terminated = new.terminated.astype(bool)
        truncated = new.truncated.astype(bool) & ~terminated
        life_lost = new.lives < self._lives
        score_wrapped = wrapped(self._returns, new.reward)
        self._tally(new)
        returns, steps = self._returns.copy(), self._steps.copy()
        first_frame, ended = new.frame, terminated | truncated
        if ended.any():
            first_frame = new.frame.copy()
            first_frame[ended] = self._start(ended)
        reward = new.reward.astype(np.float32)
        return Step(new.frame, reward, terminated, truncated, life_lost, returns, steps, first_frame, score_wrapped)

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


class SeededVectorEnv(AtariVectorEnv):
    """Games whose state is a function of how their episode began and the actions since.

    `state_dict` holds these, and `load_state_dict` replays them. A backend fills in three methods, and saves what an
    episode began from in addition to its seed.
    """

    exact_resume = True

    def __init__(self, game: str, protocol: Protocol, num_envs: int, seed: int, num_threads: int) -> None:
        super().__init__(game, protocol, num_envs, seed, num_threads)
        self._episodes = np.full(num_envs, -1, np.int64)
        self._actions = [bytearray() for _ in range(num_envs)]

    @abstractmethod
    def _begin_seeded(self, mask: np.ndarray, seeds: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Begins episodes with these seeds where `mask`; frames and lives of those rows."""

    @abstractmethod
    def _act(self, actions: np.ndarray) -> None:
        """Starts one agent step with int64 actions [N]."""

    def _begin(self, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self._episodes[mask] += 1
        envs = np.flatnonzero(mask).tolist()
        for env in envs:
            self._actions[env].clear()
        return self._begin_seeded(mask, [episode_seed(self.seed, env, int(self._episodes[env])) for env in envs])

    def _send(self, actions: np.ndarray) -> None:
        for taken, action in zip(self._actions, actions.tolist(), strict=True):
            taken.append(action)
        self._act(actions)

    def state_dict(self) -> dict[str, Any]:
        """Per environment: episode index, its length so far, and its actions (bytes, end to end in `actions`)."""
        self._ready("state_dict")
        return {
            "identity": self._identity(),
            "episode": self._episodes.tolist(),
            "length": [len(taken) for taken in self._actions],
            "actions": b"".join(self._actions),
        }

    def load_state_dict(self, state: dict[str, Any], progress: Progress = lambda done, total: None) -> np.ndarray:
        """Plays the current episodes again; the frames shown, uint8 [N, *frame_shape].

        Raises ValueError if `state` is of another game, protocol, seed or number of environments. Takes as long as
        the longest of the episodes took.
        """
        self._idle("load_state_dict")
        for key, value in self._identity().items():
            if (saved := state["identity"].get(key)) != value:
                raise ValueError(f"the saved environments have {key} {saved!r}, these have {value!r}")
        taken = np.split(np.frombuffer(state["actions"], np.uint8), np.cumsum(state["length"])[:-1])
        self._episodes = np.array(state["episode"], np.int64) - 1  # each replayed episode is begun once more
        frames = self._replay(state, taken, progress)
        self._running = True
        return frames

    def _replay(self, state: dict[str, Any], taken: list[np.ndarray], progress: Progress) -> np.ndarray:
        """Starts the shorter episodes later, so that all of them reach their last action together."""
        lengths = np.array([len(actions) for actions in taken])
        longest = int(lengths.max())
        rows = np.zeros((longest, self.num_envs), np.int64)  # before its episode begins, an environment idles
        for env, actions in enumerate(taken):
            rows[longest - len(actions) :, env] = actions
        frames = np.zeros((self.num_envs, *self.frame_shape), np.uint8)
        for time, row in enumerate(rows):
            self._start(lengths == longest - time)
            self._send(row)
            new = self._recv()
            self._tally(new)
            frames = new.frame
            progress(time + 1, longest)
        frames[lengths == 0] = self._start(lengths == 0)
        return frames

    def _identity(self) -> dict[str, Any]:
        return {
            "game": self.game,
            "protocol": self.protocol.summary(),
            "seed": self.seed,
            "num_envs": self.num_envs,
        }
