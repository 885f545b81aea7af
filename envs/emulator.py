"""Games of Atari in ale-py's emulators. The console's memory survives from one episode to the next."""

import math
from collections.abc import Sequence

import numpy as np
from ale_py import Action, ALEInterface, ALEState, LoggerMode, roms

from envs.area import AreaResize
from envs.atari import Emulated
from envs.games import rom_id
from envs.protocol import Protocol

SIZE = 84


class Emulator:
    """One game: the ROM is loaded once, and every episode begins with the console's reset.

    The reset leaves the memory as the previous episode left it, and the start of many games depends on it. A `clone`
    taken before the reset, and the actions after it, decide everything that follows. A clone misses the last action,
    which sticky actions repeat, and the unfinished frame; the reset clears both.
    """

    def __init__(self, game: str, protocol: Protocol, seed: int, color: bool = False) -> None:
        ALEInterface.setLoggerMode(LoggerMode.Error)
        self._game, self._protocol, self._seed, self._color = game, protocol, seed, color
        self._limit = protocol.max_frames or math.inf
        self._load()
        self.actions = self._ale.getLegalActionSet() if protocol.full_action_set else self._ale.getMinimalActionSet()
        size = self._ale.getScreenDims()
        self._screens = np.zeros((2, *size, 3) if color else (2, *size), np.uint8)
        self._shrink = AreaResize(size, SIZE, SIZE)
        self._show()

    def _load(self) -> None:
        self._ale, rom = ALEInterface(), roms.get_rom_path(rom_id(self._game))
        assert rom is not None, "resolve_game knows only games that ale-py ships"
        self._ale.setInt("random_seed", self._seed)
        self._ale.setFloat("repeat_action_probability", self._protocol.sticky_actions)
        self._ale.loadROM(rom)
        self._used = False

    @property
    def lives(self) -> int:
        return self._ale.lives()

    def clone(self) -> bytes:
        """The console and its random numbers; nothing before the first episode."""
        return self._ale.cloneState(include_rng=True).serialize() if self._used else b""

    def restore(self, clone: bytes) -> None:
        """Restores the console from a clone. Begin an episode then: only new episodes continue exactly."""
        self._load()
        if clone:
            self._ale.restoreState(ALEState(clone))
        self._used = bool(clone)

    def begin(self, noops: int) -> None:
        """Resets the console and plays the no-ops, of which the protocol's FIRE is the first."""
        self._used = True
        self._ale.reset_game()
        if self._protocol.fire_reset and Action.FIRE in self.actions:
            self._ale.act(Action.FIRE)
            noops -= 1
        for _ in range(noops):
            self._ale.act(Action.NOOP)
            if self._ale.game_over():
                self._ale.reset_game()
        self._frames = 0
        self._screens.fill(0)
        self._look(0)
        self._show()

    def act(self, action: int) -> tuple[int, bool, bool]:
        """Reward of one agent step, whether the game is over, and whether the time limit is reached."""
        played = self._play(action, look=True)
        self._show()
        return played

    def replay(self, actions: Sequence[int]) -> int:
        """The sum of the rewards of agent steps, without reading the frames of any but the last."""
        unseen = sum(self._play(action, look=False)[0] for action in actions[:-1])
        return unseen + sum(self.act(action)[0] for action in actions[-1:])

    def _play(self, action: int, look: bool) -> tuple[int, bool, bool]:
        act, reward = self.actions[action], 0
        for left in reversed(range(self._protocol.frame_skip)):
            reward += self._ale.act(act)
            self._frames += 1
            if self._ale.game_over():
                return reward, True, False
            if look and left < 2:
                self._look(left)
        return reward, False, self._frames >= self._limit

    def _look(self, screen: int) -> None:
        if self._color:
            self._ale.getScreenRGB(self._screens[screen])
        else:
            self._ale.getScreenGrayscale(self._screens[screen])

    def _show(self) -> None:
        """The maximum of the last two screens; if the game is over earlier, of the screens that exist."""
        last, before = self._screens
        np.maximum(last, before, out=last)
        self.frame = last.copy() if self._color else self._shrink(last)


class Emulators:
    """Several environments' emulators, one after the other in this process."""

    def __init__(self, game: str, protocol: Protocol, seeds: Sequence[int], color: bool = False) -> None:
        self._all = [Emulator(game, protocol, seed, color) for seed in seeds]

    def facts(self) -> tuple[int, tuple[int, ...]]:
        """The number of actions, and the shape of a frame."""
        return len(self._all[0].actions), self._all[0].frame.shape

    def begin(self, noops: Sequence[int | None]) -> tuple[list[bytes], np.ndarray, np.ndarray]:
        """Begins an episode where there is a number of no-ops; clones from before it, frames and lives of those."""
        begun = [(emulator, count) for emulator, count in zip(self._all, noops, strict=True) if count is not None]
        clones = [emulator.clone() for emulator, _ in begun]
        for emulator, count in begun:
            emulator.begin(count)
        return clones, *self._seen([emulator for emulator, _ in begun])

    def restore(self, clones: Sequence[bytes]) -> None:
        for emulator, clone in zip(self._all, clones, strict=True):
            emulator.restore(clone)

    def act(self, actions: Sequence[int]) -> Emulated:
        played = [emulator.act(action) for emulator, action in zip(self._all, actions, strict=True)]
        reward, terminated, truncated = map(np.array, zip(*played, strict=True))
        frames, lives = self._seen(self._all)
        return Emulated(frames, reward, terminated, truncated, lives)

    def replay(self, actions: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sums of the rewards of some actions in each environment; then frames and lives."""
        rewards = [emulator.replay(taken) for emulator, taken in zip(self._all, actions, strict=True)]
        return np.array(rewards), *self._seen(self._all)

    def _seen(self, emulators: list[Emulator]) -> tuple[np.ndarray, np.ndarray]:
        frames = np.zeros((len(emulators), *self._all[0].frame.shape), np.uint8)
        for i, emulator in enumerate(emulators):
            frames[i] = emulator.frame
        return frames, np.array([emulator.lives for emulator in emulators], np.int32)
