"""What saving and loading a run costs: `python -m benchmarks.checkpoint`.

A replay of 84 x 84 frames is filled, then saved ten times with so many new agent steps between as a run has. Told are
the time that each save stops the loop, the bytes that it writes, the time of a load, memory beyond the replay's, and
the share of a run's time, from the rate of a short real one at UTD 1 (uncompiled, on one thread unless told otherwise).
"""

from __future__ import annotations

import os
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from agents.config import DQNConfig
from agents.run import build_trainer
from experiment.config import ConfigError, exit_on_bad_input, parse_cli
from experiment.determinism import configure
from experiment.interrupt import cli_session
from experiment.storage import checkpoint
from experiment.storage.segments import Segments
from experiment.values import every
from replay import FrameReplay

SAVES = 10


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    capacity: int = 100_000
    """Agent steps in the replay."""
    interval: int = 10_000
    """Agent steps between saves."""
    num_envs: int = 1
    """Environments of the replay."""
    threads: int = 1
    """CPU threads of the run whose rate is measured."""
    directory: str | None = None
    """Where to write; none: a temporary directory."""

    def check(self) -> None:
        """Raises ConfigError for what cannot be measured."""
        for name in ("interval", "num_envs", "threads"):
            if (value := getattr(self, name)) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} is {value}: it has to be at least 1")
        try:
            FrameReplay(self.capacity, self.num_envs, time_limit=27_000)
        except (ValueError, RuntimeError, MemoryError) as error:
            raise ConfigError(f"--capacity {self.capacity}: {str(error).partition(chr(10))[0]}") from None
        if self.directory is not None and not Path(self.directory).is_dir():
            raise ConfigError(f"--directory {self.directory!r} is no folder")


def fill(replay: FrameReplay, steps: int, frames: np.ndarray) -> None:
    """Adds agent steps, with frames in turn and an end now and then."""
    envs = replay.num_envs
    never = np.zeros(envs, bool)
    if not replay.started:
        replay.start(frames[0])
    for row in range(steps // envs):
        frame = frames[row % len(frames)]
        action, ended = np.full(envs, row % 4), np.full(envs, row % 900 == 899)
        replay.add(action, action.astype(np.float32), ended, never, never, frame, frame)


def resident() -> int:
    """Bytes of memory that this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class Peak:
    """The most memory within the block, in bytes, looked at every millisecond."""

    def __enter__(self) -> Peak:
        self.bytes, self._done = resident(), threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.001):
            self.bytes = max(self.bytes, resident())

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._watcher.join()


def new_bytes(directory: Path, saved: Path) -> int:
    """Bytes of a checkpoint that no other one shares."""
    others = {path.stat().st_ino for path in directory.glob("*/*") if path.parent != saved}
    return sum(path.stat().st_size for path in saved.iterdir() if path.stat().st_ino not in others)


def timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def measure(directory: Path, capacity: int, interval: int, num_envs: int) -> dict[str, list[float]]:
    """Seconds and bytes of each save, seconds of a load and the peaks of memory, in bytes beyond the replay's."""
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (64, num_envs, 84, 84), np.uint8)
    state = {"trainer": {"weights": torch.zeros(3_000_000), "moments": torch.zeros(6_000_000)}}
    replay = FrameReplay(capacity, num_envs, time_limit=27_000)
    rows = Segments(replay)
    found: dict[str, list[float]] = {"save_seconds": [], "bytes": [], "save_peak": []}
    fill(replay, capacity, frames)
    for number in range(SAVES):
        before = resident()
        with Peak() as peak:
            step = capacity + number * interval
            whole = state | {"replay": replay.state_dict()}
            found["save_seconds"].append(timed(lambda: checkpoint.save(directory, step, whole, rows=rows)))  # noqa: B023
        found["save_peak"].append(peak.bytes - before)
        found["bytes"].append(new_bytes(directory, directory / f"{step:012d}"))
        fill(replay, interval, frames)
    return found | load(directory, FrameReplay(capacity, num_envs, time_limit=27_000))


def load(directory: Path, replay: FrameReplay) -> dict[str, list[float]]:
    """Seconds of a load, and its peak of memory beyond the replay's own."""

    def bring_back() -> None:
        saved = checkpoint.load_latest(directory)
        replay.load_state_dict(saved.state["replay"])
        saved.load_rows(Segments(replay))

    replay.frames.fill_(0)  # memory that counts from here on, not from the first write
    before = resident()
    with Peak() as peak:
        seconds = timed(bring_back)
    return {"load_seconds": [seconds], "load_peak": [peak.bytes - before]}


def steps_per_second(threads: int, steps: int = 200) -> float:
    """Agent steps, each with its update, in a second of a real run."""
    config = DQNConfig(compile="false", threads=threads, update_start=64, n_step=3, probe_interval=0).resolved()
    configure(config.threads, config.seed)
    trainer = build_trainer(config)
    trainer.open()
    while trainer.agent_step < 100:
        trainer.step()
    return steps / timed(lambda: [trainer.step() for _ in range(steps)])


@cli_session()
def main(argv: Sequence[str] | None = None) -> int:
    """Parse, measure and print; the exit code."""
    with exit_on_bad_input():
        settings = parse_cli(
            Settings, argv, prog="python -m benchmarks.checkpoint", description="Measure checkpoints.", presets={}
        )
        settings.check()
    configure(settings.threads, seed=0)
    with tempfile.TemporaryDirectory(dir=settings.directory) as name:
        found = measure(Path(name), settings.capacity, settings.interval, settings.num_envs)
    for number, (seconds, written) in enumerate(zip(found["save_seconds"], found["bytes"], strict=True)):
        print(f"save {number}: {seconds:.2f} s, {written / 1e6:.0f} MB written")
    later, rate = float(np.median(found["save_seconds"][1:])), steps_per_second(settings.threads)
    share = later / (later + settings.interval / rate)
    save_peak, load_peak = (max(found[name]) / 1e6 for name in ("save_peak", "load_peak"))
    print(f"load: {found['load_seconds'][0]:.2f} s")
    print(f"memory beyond the replay's own: {save_peak:.0f} MB in a save, {load_peak:.0f} MB in a load")
    print(f"a save {every(settings.interval, 'agent step')} takes {share:.2%} of the time at {rate:.0f} steps a second")
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
