"""A slow Atari environment written straight on the emulator, to hold both backends against."""

from functools import cache
from typing import NamedTuple

import numpy as np
from ale_py import ALEInterface, LoggerMode, roms


class Slow(NamedTuple):
    screen: np.ndarray
    reward: int
    over: bool
    lives: int


class SlowAtari:
    """One game, four frames an action, the maximum of the last two grey screens, in the emulator's own pixels."""

    def __init__(self, rom: str, seed: int, sticky: float, full_action_set: bool, noops: int) -> None:
        ALEInterface.setLoggerMode(LoggerMode.Error)
        self.ale = ALEInterface()
        self.ale.setInt("random_seed", seed)
        self.ale.setFloat("repeat_action_probability", sticky)
        self.ale.loadROM(roms.get_rom_path(rom))
        self.actions = self.ale.getLegalActionSet() if full_action_set else self.ale.getMinimalActionSet()
        self.noops = noops

    def reset(self) -> np.ndarray:
        self.ale.reset_game()
        for _ in range(self.noops):
            self.ale.act(0)
        return self.ale.getScreenGrayscale()

    def step(self, action: int) -> Slow:
        reward, screens = 0, [self.ale.getScreenGrayscale()]
        for _ in range(4):
            reward += self.ale.act(self.actions[action])
            screens.append(self.ale.getScreenGrayscale())
            if self.ale.game_over():
                break
        return Slow(np.maximum(*screens[-2:]), reward, self.ale.game_over(), self.ale.lives())


@cache
def overlaps(cells: int, pixels: int) -> np.ndarray:
    """float64 [cells, pixels]: how much of each pixel lies in each cell, in units of 1 / cells of a pixel."""
    cell, pixel = np.arange(cells)[:, None], np.arange(pixels)[None]
    shared = np.minimum((cell + 1) * pixels, (pixel + 1) * cells) - np.maximum(cell * pixels, pixel * cells)
    return np.maximum(shared, 0).astype(np.float64)


def is_area_average(frame: np.ndarray, screen: np.ndarray) -> bool:
    """Whether every pixel of `frame` [84, 84] is an integer nearest to the exact mean of its part of `screen`."""
    lines, columns = screen.shape
    exact = overlaps(84, lines) @ screen @ overlaps(84, columns).T  # whole numbers below 2**53
    return bool((abs(frame.astype(np.float64) * screen.size - exact) * 2 <= screen.size).all())
