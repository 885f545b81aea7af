"""What prioritised sampling costs: drawing a minibatch of 32 and writing its priorities back, trees and weights alone.

`python -m benchmarks.prioritised` measures this project at K = 8 and K = 1 minibatches a call, a binary tree in numpy,
and Tianshou where it is installed, in strict alternation, and prints milliseconds per minibatch. Stable-Baselines3 2.9
has no prioritised replay, and TorchRL 0.14's does not load with torch 2.13.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from experiment.config import ConfigError, exit_on_bad_input, parse_cli
from experiment.interrupt import cli_session

if TYPE_CHECKING:
    from benchmarks.speed.alternate import Contestant, Run, Series

BATCH = 32
ALPHA, BETA, EPSILON = 0.5, 0.5, 1e-10


@dataclass(frozen=True)
class Settings:
    """What is measured, and for how long."""

    capacity: int = 1_000_000
    """Steps in the tree, all of them legal."""
    blocks: tuple[str, ...] = ("8", "1")
    """Minibatches drawn, and written back, in one call of ours."""
    rounds: int = 9
    """Rounds; in each everyone runs once."""
    seconds: float = 0.3
    """Time of one contestant in one round, about."""
    threads: int = 1
    """CPU threads of torch."""
    device: str = "cpu"
    """Device of our tree: cpu, cuda. The others are on the CPU."""
    clock: Literal["wall", "cpu"] = "wall"
    """cpu: processor time, a hint on a machine that others use too."""
    peers: bool = True
    """Measure Tianshou too, where it is installed."""

    def check(self) -> None:
        """Raise ConfigError for a number that is too small."""
        for field, value in {"capacity": self.capacity, "rounds": self.rounds, "threads": self.threads}.items():
            if value < 1:
                raise ConfigError(f"--{field} is {value}: it has to be at least 1")
        if not self.blocks or not all(block.isdecimal() and int(block) for block in self.blocks):
            raise ConfigError(f"--blocks is {' '.join(self.blocks)}: each has to be a number of at least 1")
        if self.seconds <= 0:
            raise ConfigError(f"--seconds is {self.seconds}: it has to be above 0")


def contestants(settings: Settings) -> list[Contestant]:
    """Everyone, with the minibatches of one call as its work."""
    from benchmarks.speed.alternate import Contestant

    task, unit = "sample and update", "batches/s"
    field = [
        Contestant(task, f"ours, K = {block}", unit, partial(ours, settings, block), work=block)
        for block in map(int, settings.blocks)
    ]
    field.append(Contestant(task, "binary tree in numpy", unit, partial(binary, settings), "peer"))
    if settings.peers and find_spec("tianshou") is not None:
        field.append(Contestant(task, "Tianshou 2, numba", unit, partial(tianshou, settings), "peer"))
    return field


def ours(settings: Settings, block: int) -> Run:
    import torch

    from replay.priorities import Priorities

    generator = torch.Generator(settings.device).manual_seed(0)
    priorities = Priorities(settings.capacity, generator, settings.device, ALPHA, EPSILON)
    priorities.set_legal(0, settings.capacity)
    every = torch.arange(settings.capacity, device=settings.device)
    priorities.update(every, torch.rand(settings.capacity, generator=generator, device=settings.device))
    errors = torch.rand(block, BATCH, generator=generator, device=settings.device)

    def run(count: int) -> None:
        for _ in range(count):
            steps, weights = priorities.sample(BATCH, block, beta=BETA)
            priorities.update(steps, weights * errors)
        if settings.device.startswith("cuda"):
            torch.cuda.synchronize()

    return run


def binary(settings: Settings) -> Run:
    """The textbook's binary heap of sums, every level in one numpy operation for the whole minibatch."""
    import numpy as np

    random = np.random.default_rng(0)
    leaves = 1 << (settings.capacity - 1).bit_length()
    sums = np.zeros(2 * leaves)
    sums[leaves : leaves + settings.capacity] = random.random(settings.capacity) ** ALPHA
    for node in (1 << level for level in reversed(range(leaves.bit_length() - 1))):
        sums[node : 2 * node] = sums[2 * node : 4 * node].reshape(-1, 2).sum(1)
    errors = random.random(BATCH)

    def run(count: int) -> None:
        for _ in range(count):
            mass = (np.arange(BATCH) + random.random(BATCH)) * (sums[1] / BATCH)
            node = np.ones(BATCH, np.int64)
            while node[0] < leaves:
                node *= 2
                right = mass >= sums[node]
                mass -= np.where(right, sums[node], 0.0)
                node += right
            weights = (sums[node].min() / sums[node]) ** BETA
            sums[node] = (np.abs(weights * errors) + EPSILON) ** ALPHA
            while node[0] > 1:
                node //= 2
                sums[node] = sums[2 * node] + sums[2 * node + 1]

    return run


def tianshou(settings: Settings) -> Run:
    """Its sampler without the data: it draws independently and looks for no stale step."""
    import numpy as np
    from tianshou.data import PrioritizedReplayBuffer

    random = np.random.default_rng(0)
    buffer = PrioritizedReplayBuffer(settings.capacity, alpha=ALPHA, beta=BETA)
    buffer._size = settings.capacity
    buffer.update_weight(np.arange(settings.capacity), random.random(settings.capacity))
    errors = random.random(BATCH)

    def run(count: int) -> None:
        for _ in range(count):
            index = buffer.sample_indices(BATCH)
            weights = buffer.get_weight(index)
            buffer.update_weight(index, weights / np.max(weights) * errors)

    return run


def lines(field: Sequence[Series]) -> list[str]:
    """A table: milliseconds per minibatch, the median and the best and the worst round."""
    rows = [f"{'ms per minibatch of 32':28}{'median':>9}{'best':>9}{'worst':>9}"]
    for series in field:
        times = (1e3 / rate for rate in (series.median, *reversed(series.range)))
        rows.append(f"{series.name:28}" + "".join(f"{each:9.3f}" for each in times))
    return rows


@cli_session()
def main(argv: Sequence[str] | None = None) -> int:
    """Parse, measure and print; the exit code."""
    with exit_on_bad_input():
        settings = parse_cli(
            Settings,
            argv,
            prog="python -m benchmarks.prioritised",
            description="Measure prioritised sampling against other sum trees.",
            presets={},
        )
        settings.check()

        from benchmarks.speed.alternate import alternate
        from experiment.determinism import configure, device_of

        device_of(settings.device)

    configure(settings.threads, seed=0)
    clock = time.perf_counter if settings.clock == "wall" else time.process_time
    field = alternate(contestants(settings), settings.rounds, settings.seconds, clock=clock)
    print("\n".join(lines(field)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
