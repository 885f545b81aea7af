"""Replay contestants: this project's replay against the bare gather of the same frames."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from agents.names import STACK
from benchmarks.speed.alternate import Contestant, Run, repeated
from benchmarks.speed.settings import Settings
from replay import FrameReplay

FRAME_SHAPE = (84, 84)
EPISODE = 200
POOL = 64  # distinct frames, or drawn indices, to go through: more than caches hold
GATHER = "bare index_select of the same 1,280 frames"


def random_frames(num_envs: int, seed: int = 0) -> np.ndarray:
    """A pool of noise to store: uint8 [POOL, N, H, W]."""
    return np.random.default_rng(seed).integers(0, 256, (POOL, num_envs, *FRAME_SHAPE), np.uint8)


def add_run(replay: FrameReplay) -> Run:
    """Rows of one step of every environment, with an end every so many."""
    envs = replay.num_envs
    frames = random_frames(envs)
    no, yes = np.zeros(envs, bool), np.ones(envs, bool)
    action, reward = np.zeros(envs, np.int64), np.zeros(envs, np.float32)
    row = 0
    if not replay.started:
        replay.start(frames[0])

    def run(count: int) -> None:
        nonlocal row
        for _ in range(count):
            row += 1
            frame = frames[row % POOL]
            replay.add(action, reward, no if row % EPISODE else yes, no, no, frame, frame)

    return run


def filled_replay(capacity: int, num_envs: int, device: str) -> FrameReplay:
    """A full replay of noise in episodes of EPISODE steps."""
    replay = FrameReplay(capacity, num_envs, FRAME_SHAPE, STACK, device=device)
    add_run(replay)(replay.max_rows)
    return replay


def contestants(settings: Settings) -> list[Contestant]:
    """Sampling K = 8 minibatches of 32 in one call, the gather that bounds it, and adding for 1 and 8 environments."""
    replay = cache(lambda envs: filled_replay(settings.capacity, envs, settings.device))
    return [
        Contestant("replay sample 32", GATHER, "batches/s", lambda: gather_run(replay(1)), "limit", work=8),
        Contestant("replay sample 32", "ours, 8 in one call", "batches/s", lambda: sample_run(replay(1), 8), work=8),
        Contestant("replay sample 32", "ours, 1 in one call", "batches/s", lambda: sample_run(replay(1), 1)),
        Contestant("replay add", "ours, 1 environment", "steps/s", lambda: add_run(replay(1))),
        Contestant("replay add", "ours, 8 environments", "steps/s", lambda: add_run(replay(8)), work=8),
    ]


def sample_run(replay: FrameReplay, num_batches: int) -> Run:
    return repeated(lambda: replay.sample(32, num_batches))


def gather_run(replay: FrameReplay) -> Run:
    """The frames of 8 times 32 windows of stack + 1, at random places, into one buffer: no index arithmetic at all."""
    first = torch.randint(replay.capacity - STACK, (POOL, 256, 1), device=replay.device)
    indices = (first + torch.arange(STACK + 1, device=replay.device)).flatten(1)
    out = replay.frames.new_empty(indices.shape[1], replay.frames.shape[1])
    turn = 0

    def run(count: int) -> None:
        nonlocal turn
        for _ in range(count):
            turn = (turn + 1) % POOL
            torch.index_select(replay.frames, 0, indices[turn], out=out)

    return run


def bytes_per_step() -> dict[str, str]:
    """Storage per agent step at a capacity of 100,000, which is not touched for this."""
    replay = FrameReplay(100_000, 1, FRAME_SHAPE, STACK, time_limit=27_000)
    return {"replay, bytes per agent step": f"{replay.nbytes / replay.capacity:,.0f}"}
