"""The backend on envpool, for machines with many cores."""

import envpool
import numpy as np

from envs.atari import AtariVectorEnv, Emulated, episode_seed
from envs.games import check_envpool, rom_id
from envs.protocol import Protocol


class EnvpoolVectorEnv(AtariVectorEnv):
    """Atari on envpool: seeded once per run, so an episode depends on all before it and cannot be replayed.

    envpool spends one call on each reset, during which an action is ignored. Only the environments that ended get that
    call, so the others lose no action.
    """

    exact_resume = False

    def __init__(self, game: str, protocol: Protocol, num_envs: int = 1, seed: int = 0, num_threads: int = 1) -> None:
        super().__init__(game, protocol, num_envs, seed, num_threads)
        check_envpool(self.game)
        self._noop_max = max(protocol.noop_max, 1)  # 0 ends the process; 1 is always one no-op
        self._env = envpool.make_gymnasium(
            envpool_id(self.game),
            num_envs=num_envs,
            num_threads=min(num_threads, num_envs),
            seed=[episode_seed(seed, env, 0) for env in range(num_envs)],
            max_episode_steps=protocol.time_limit or 2**31 - 1,
            repeat_action_probability=protocol.sticky_actions,
            full_action_space=protocol.full_action_set,
            img_height=self.frame_shape[0],
            img_width=self.frame_shape[1],
            stack_num=1,
            frame_skip=protocol.frame_skip,
            noop_max=self._noop_max,
            reward_clip=False,
            episodic_life=False,
            use_fire_reset=protocol.fire_reset,
        )
        self.num_actions = int(self._env.action_space.n)

    def _begin(self, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ended = np.flatnonzero(mask)
        frames, info = self._env.reset(ended)
        rows = np.argsort(info["env_id"])
        return frames[rows, 0], info["lives"][rows]

    def _send(self, actions: np.ndarray) -> None:
        self._env.send(actions)

    def _recv(self) -> Emulated:
        frames, reward, _, truncated, info = self._env.recv()
        # A game that is over at its last allowed step is reported only as truncated; info says so.
        rows = np.argsort(info["env_id"])
        over = info["terminated"].astype(bool)
        return Emulated(frames[rows, 0], reward[rows], over[rows], truncated[rows], info["lives"][rows])

    def close(self) -> None:
        self._env.close()

    def describe(self) -> str:
        one = "one no-op, or FIRE" if self.protocol.fire_reset else "one no-op"
        spare = "" if self._noop_max == self.protocol.noop_max else f", always {one} (envpool needs one)"
        return self._describe(f"envpool {envpool.__version__}") + spare


def envpool_id(game: str) -> str:
    """envpool's name of a game: ALE's, each word capitalised by itself, so that 3D is 3d."""
    return "".join(word.capitalize() for word in rom_id(game).split("_")) + "-v5"
