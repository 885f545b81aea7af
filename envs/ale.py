"""The default backend: ale-py's emulators, reset as in published set-ups, and resumed exactly."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import ale_py
import numpy as np

from envs.atari import Emulated, SeededVectorEnv, episode_seed
from envs.emulator import Emulators
from envs.protocol import Protocol
from envs.vector_env import Progress
from envs.workers import Here, Worker

STRETCH = 500
"""Agent steps of each environment that are replayed between two reports of progress."""


class AleVectorEnv(SeededVectorEnv):
    """Atari on ale-py. An environment's games follow from the run's seed, its number and its actions.

    A reset carries the console's memory over, so `state_dict` has a clone of the console from before the running
    episode, and the actions since. With `num_threads` above 1 some environments play in other processes. In the
    `background` all of them do, which leaves this process free between `send` and `recv`.
    """

    def __init__(
        self,
        game: str,
        protocol: Protocol,
        num_envs: int = 1,
        seed: int = 0,
        num_threads: int = 1,
        background: bool = False,
        color: bool = False,
    ) -> None:
        super().__init__(game, protocol, num_envs, seed, num_threads)
        self._clones = [b""] * num_envs
        seeds = [episode_seed(seed, env, 0) for env in range(num_envs)]
        shares = np.array_split(np.arange(num_envs), min(num_threads, num_envs))
        self._shares: list[list[int]] = [share.tolist() for share in shares]
        self._players: list[Here | Worker] = []
        for share in self._shares:
            place = Worker if background or self._players else Here
            self._players.append(place(Emulators, self.game, protocol, [seeds[env] for env in share], color))
        self.num_actions, self.frame_shape = self._call("facts")[0]

    def _begin_seeded(self, mask: np.ndarray, seeds: list[int]) -> tuple[np.ndarray, np.ndarray]:
        most = self.protocol.noop_max
        drawn = iter(int(np.random.default_rng(seed).integers(most, endpoint=True)) for seed in seeds)
        clones, frames, lives = zip(
            *self._call("begin", [next(drawn) if begins else None for begins in mask]), strict=True
        )
        for env, clone in zip(np.flatnonzero(mask).tolist(), chain(*clones), strict=True):
            self._clones[env] = clone
        return np.concatenate(frames), np.concatenate(lives)

    def _act(self, actions: np.ndarray) -> None:
        self._start_call("act", actions.tolist())

    def _recv(self) -> Emulated:
        played = self._finish_call()
        return played[0] if len(played) == 1 else Emulated(*map(np.concatenate, zip(*played, strict=True)))

    def _call(self, method: str, *columns: Sequence[Any]) -> list[Any]:
        """What every player returns to a call, given its share of each column. A column has a value per environment."""
        self._start_call(method, *columns)
        return self._finish_call()

    def _start_call(self, method: str, *columns: Sequence[Any]) -> None:
        for player, share in zip(self._players, self._shares, strict=True):
            player.send(method, *([column[env] for env in share] for column in columns))

    def _finish_call(self) -> list[Any]:
        return [player.recv() for player in self._players]

    def state_dict(self) -> dict[str, Any]:
        """The state of every seeded environment, and the clones of the consoles from before the running episodes."""
        return super().state_dict() | {"clones": list(self._clones)}

    def _replay(self, state: dict[str, Any], taken: list[np.ndarray], progress: Progress) -> np.ndarray:
        """Begins every episode on the console that it began on, and plays its actions."""
        if "clones" not in state:
            raise ValueError("its games began on a freshly loaded console, as none does in this version: begin again")
        self._call("restore", state["clones"])
        frames = self._start(np.ones(self.num_envs, bool))
        self._clones = list(state["clones"])
        lengths = np.array([len(actions) for actions in taken])
        for begun in range(0, int(lengths.max()), STRETCH):
            answers = self._call("replay", [actions[begun : begun + STRETCH].tolist() for actions in taken])
            rewards, frames, self._lives = map(np.concatenate, zip(*answers, strict=True))
            self._returns += rewards
            progress(min(begun + STRETCH, int(lengths.max())), int(lengths.max()))
        self._steps[:] = lengths
        for env, actions in enumerate(taken):
            self._actions[env][:] = actions.tobytes()
        return frames

    def _identity(self) -> dict[str, Any]:
        return {"ale-py": ale_py.__version__} | super()._identity()

    def close(self) -> None:
        for player in self._players:
            player.close()

    def describe(self) -> str:
        return self._describe(f"ale-py {ale_py.__version__}")
