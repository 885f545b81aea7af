"""torch's global generators, which belong to all threads: put back, or seeded, so that no thread disturbs another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import RLock

import torch

_lock = RLock()
"""Held while the generators are read, put back or seeded: no thread may take over the state of a seeded one."""


@contextmanager
def generators_kept(devices: Iterable[int | None] = ()) -> Iterator[None]:
    """`torch.random.fork_rng`, which another thread may be inside too."""
    fork = torch.random.fork_rng(devices)
    with _lock:
        fork.__enter__()
    try:
        yield
    finally:
        with _lock:
            fork.__exit__(None, None, None)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The CPU's generator begins at a seed inside, where one thread is at a time; it is put back afterwards."""
    with _lock, torch.random.fork_rng(()):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every GPU's too
        yield
