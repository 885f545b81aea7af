"""Video of an evaluation: the scored games at real speed, in colour where the environment has colour."""

from __future__ import annotations

import colorsys
import importlib
import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from envs.ale import AleVectorEnv
from envs.vector_env import Step, VectorEnv
from experiment.config import ConfigError

FRAMES_PER_SECOND = 60
"""Of Atari's television."""
STEPS_PER_SECOND = 15
"""Of games that have no emulator: as many as Atari's with a frame skip of 4."""


def color_twin(env: AleVectorEnv) -> AleVectorEnv:
    """An emulator that plays the games of environment 0, given its actions, and shows its screen in colour."""
    return AleVectorEnv(env.game, env.protocol, seed=env.seed, color=True)


class Film:
    """An H.264 file of pictures, uint8 [H, W] or [H, W, 3], each enlarged by a whole even number to 320 lines or more.

    Raises ConfigError, before anything is played, if PyAV is missing or the file cannot be written.
    """

    def __init__(self, path: Path):
        try:
            self._av = importlib.import_module("av")
            path.open("wb").close()
        except ImportError:
            raise ConfigError("--video needs PyAV, which is not installed: pip install 'rewarm[video]'") from None
        except OSError as error:
            raise ConfigError(f"--video {path} cannot be written: {error.strerror}") from None
        self._container = self._av.open(str(path), "w")
        self._stream: Any = None

    def show(self, picture: np.ndarray, rate: Fraction) -> None:
        """Writes one picture. The first sets the size and the frame rate of the video."""
        factor = 2 * -(-160 // len(picture))  # even: H.264 has one colour for 2×2 pixels
        colors = picture if picture.ndim == 3 else picture[..., None].repeat(3, -1)
        pixels = colors.repeat(factor, 0).repeat(factor, 1)
        if self._stream is None:
            self._stream = self._container.add_stream("h264", rate=rate, options={"crf": "18"})
            self._stream.height, self._stream.width = pixels.shape[:2]
            self._stream.pix_fmt, self._stream.thread_count = "yuv420p", 1
        self._container.mux(self._stream.encode(self._av.VideoFrame.from_ndarray(pixels, format="rgb24")))

    def close(self) -> None:
        """Writes what is left, and the index that players need."""
        if self._stream is not None:
            self._container.mux(self._stream.encode())
        self._container.close()


class Recorder:
    """Films the first `episodes` games of environment 0 while an evaluation plays them.

    Games of ale are filmed by a second emulator that repeats the actions; RuntimeError if its game differs. Other
    games, and envpool's, are filmed as the agent sees them. A full disk ends the film with a warning.
    """

    def __init__(self, path: Path, episodes: int = 1):
        self.path, self.left = path, episodes
        self.film = Film(path)
        self.returns: list[float] = []
        self.steps = 0

    def begin(self, env: VectorEnv, frames: np.ndarray) -> None:
        """The first frames [N, ...] of the environments that will be played."""
        self._twin, self._rate = None, Fraction(STEPS_PER_SECOND)
        if isinstance(env, AleVectorEnv):
            self._twin = color_twin(env)
            self._rate = Fraction(FRAMES_PER_SECOND, env.protocol.frame_skip)
            frames = self._twin.reset()
        self._show(frames[0])

    def follow(self, actions: np.ndarray, step: Step) -> None:
        """One agent step of all environments: the actions [N] and what they led to."""
        if not self.left:
            return
        seen = step
        if self._twin is not None:
            seen = self._twin.step(actions[:1])
            check_same(step, seen)
        self.steps += 1
        self._show(seen.frame[0])
        if step.ended[0]:
            self.left -= 1
            self.returns.append(float(step.episode_return[0]))
            if self.left:
                self._show(seen.first_frame[0])

    def _show(self, frame: np.ndarray) -> None:
        picture = frame if self._twin is not None or frame.ndim == 2 else colored(frame)
        try:
            self.film.show(picture, self._rate)
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        warnings.warn(f"the video ends early, the evaluation goes on: {error}", stacklevel=4)
        self.left = 0

    def close(self) -> None:
        """End the film. A film that ended early can be played too."""
        try:
            self.film.close()
        except OSError as error:
            self._failed(error)

    def summary(self) -> str:
        """One line: where the video is, and the games on it."""
        returns = ", ".join(f"{value:g}" for value in self.returns) or "none to its end"
        return f"video: {self.path} ({self.steps:,} agent steps; returns of its games: {returns})"


def check_same(played: Step, seen: Step) -> None:
    """RuntimeError if the filmed game differs from the scored game of environment 0."""
    for name in ("reward", "terminated", "truncated", "life_lost", "episode_return", "episode_steps"):
        one, two = getattr(played, name)[0], getattr(seen, name)[0]
        if one != two:
            raise RuntimeError(f"the filmed game is not the one that is scored: {name} is {two}, not {one}")


def colored(frame: np.ndarray) -> np.ndarray:
    """Channels uint8 [C, H, W] as one picture [H, W, 3], each channel in its own hue.

    Where channels overlap, the channel with fewer cells is on top (the ball over the bricks); the first of equal ones.
    """
    picture = np.zeros((*frame.shape[1:], 3), np.uint8)
    cells = np.count_nonzero(frame, axis=(1, 2))
    for i in np.lexsort((np.arange(len(frame)), cells))[::-1]:
        lit = frame[i] > 0
        hue = np.array(colorsys.hsv_to_rgb(i / len(frame), 1, 1))
        picture[lit] = np.round(frame[i][lit, None] * hue)
    return picture


def video_file(video: str, name: str) -> Path:
    """The file that is meant by --video: itself, or `name`.mp4 in a folder. Raises ConfigError for neither."""
    path = Path(video)
    if path.is_dir():
        return path / f"{name}.mp4"
    if path.suffix != ".mp4":
        raise ConfigError(f"--video {video}: name a file that ends in .mp4, or a folder that is there")
    return path
