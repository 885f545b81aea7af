"""The contract that every environment of the project keeps: arrays over environments, single frames, raw rewards."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple

import numpy as np

from envs.protocol import PROTOCOLS, Protocol

Progress = Callable[[int, int], object]
NEVER = np.zeros((), bool)
MOST_ACTIONS = 256
"""As many as the replay can tell apart."""


class Step(NamedTuple):
    """What one agent step in each of N environments led to.

    Arrays are to be read, not written: `first_frame` shares memory with `frame` when no episode ended.
    """

    frame: np.ndarray
    """uint8 [N, *frame_shape]: what the action led to, the terminal frame included."""
    reward: np.ndarray
    """float32 [N], raw."""
    terminated: np.ndarray
    """bool [N]: the game is over. Wins over `truncated` when both happen at once."""
    truncated: np.ndarray
    """bool [N]: cut by the time limit."""
    life_lost: np.ndarray
    """bool [N]: the lives counter fell, also to 0."""
    episode_return: np.ndarray
    """float64 [N]: raw return of the whole game so far, this step included; final where ended."""
    episode_steps: np.ndarray
    """int64 [N]: agent steps of the episode so far, this one included."""
    first_frame: np.ndarray
    """uint8 [N, *frame_shape]: the next episode's first frame where ended, `frame` elsewhere."""
    score_wrapped: np.ndarray = NEVER
    """bool [N]: the score counter wrapped, and `reward` took the score away (envs.atari.wrapped). A single False if no
    counter can wrap."""

    @property
    def ended(self) -> np.ndarray:
        """bool [N]: terminated or truncated."""
        return self.terminated | self.truncated


class VectorEnv(ABC):
    """N environments stepped together; each step is exactly one agent step in each of them.

    An episode that ends is followed at once by the next one: `Step.frame` is its last frame, `Step.first_frame` the
    frame that the next action sees. A lost life starts no new episode.

    A subclass that is named by its import path is made with `num_envs`, `seed` and its options, all by name. It
    declares `rules`, `network`, `stack` and `exact_resume` on the class. `envs.testing.check_env` tests one.
    """

    rules: ClassVar[Protocol] = PROTOCOLS["own"]
    """The rules that are recorded with a score: frames per agent step (`frame_skip`), clipping, evaluation."""
    network: ClassVar[str | None] = None
    """The named network that the frames need; None where any will do."""

    num_envs: int
    num_actions: int
    frame_shape: tuple[int, ...]
    stack: int = 4
    """Frames that make an observation; 1 if a frame shows the whole state."""
    time_limit: int | None = None
    """Agent steps after which an episode is truncated; None if never, or if that is unknown."""
    exact_resume: bool = False
    """Whether `state_dict` and `load_state_dict` continue bit for bit."""

    @property
    def earliest_truncation(self) -> int | None:
        """No episode is truncated after fewer agent steps; None if none ever is. It sets the replay's size."""
        return self.time_limit

    @abstractmethod
    def reset(self) -> np.ndarray:
        """Starts a new episode in every environment; the first frames, uint8 [N, *frame_shape]."""

    def send(self, actions: np.ndarray) -> None:
        """Starts one agent step with integer actions [N]; `recv` waits for it. By default only stores `actions`."""
        self.actions = np.array(actions)

    @abstractmethod
    def recv(self) -> Step:
        """What the actions last sent led to."""

    def close(self) -> None:  # noqa: B027
        """Frees the environments and their threads, where there is something to free."""

    def describe(self) -> str:
        """One line: backend, versions, game, protocol."""
        return type(self).__name__

    def checked(self, actions: np.ndarray, of: str = "") -> np.ndarray:
        """The actions as int64 [N]; ValueError for another shape or type, or an action that is not there."""
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs,) or actions.dtype.kind not in "iu":
            raise ValueError(f"actions must be {self.num_envs} integers, got {actions.dtype} {list(actions.shape)}")
        if actions.min() < 0 or actions.max() >= self.num_actions:
            raise ValueError(f"actions{of} must be in 0..{self.num_actions - 1}, got {actions.tolist()}")
        return actions.astype(np.int64)

    def step(self, actions: np.ndarray) -> Step:
        """One agent step: `send`, then `recv`."""
        self.send(actions)
        return self.recv()

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs in a fresh environment: numbers, text, bytes, lists and dicts.

        RuntimeError where `exact_resume` is false.
        """
        raise RuntimeError(f"{type(self).__name__} cannot be resumed exactly; start new episodes with reset()")

    def load_state_dict(self, state: dict[str, Any], progress: Progress = lambda done, total: None) -> np.ndarray:
        """Continues where `state` was taken; the frames the environments show, uint8 [N, *frame_shape].

        `progress` receives how many of how many agent steps have been replayed. RuntimeError where `exact_resume` is
        false.
        """
        raise RuntimeError(f"{type(self).__name__} cannot be resumed exactly; start new episodes with reset()")


def nothing_returned(frames: np.ndarray | None) -> str:
    """The end of a message about the frames of `load_state_dict`: "" where it returned some."""
    return " (it returned None)" if frames is None else ""


def wrong_declarations(env: VectorEnv) -> Iterator[str]:
    """What an environment declares otherwise than the contract has it, a line each."""
    missing = [name for name in ("num_envs", "num_actions", "frame_shape") if getattr(env, name, None) is None]
    if missing:
        yield f"it declares no {', '.join(missing)}"
        return
    shape = env.frame_shape
    if not isinstance(env.num_actions, int | np.integer) or not 1 <= env.num_actions <= MOST_ACTIONS:
        yield f"num_actions is {env.num_actions!r}: it has to be a whole number from 1 to {MOST_ACTIONS}"
    if not isinstance(shape, tuple) or len(shape) not in (2, 3):
        yield f"frame_shape is {shape!r}: it has to be a tuple (H, W) or (C, H, W)"
    if env.stack < 1:
        yield f"stack is {env.stack}: it has to be at least 1"
    if env.time_limit is not None and env.time_limit < 1:
        yield f"time_limit is {env.time_limit}: it has to be at least 1, or None"
    if not isinstance(env.rules, Protocol):
        yield f"rules is {env.rules!r}: it has to be an envs.protocol.Protocol"
