"""Images per second of a training step against what its matrix products alone allow.

`python -m studies.warm_start.speed`
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product as pairs
from statistics import median
from typing import TYPE_CHECKING, Literal

from experiment.config import ConfigError, exit_on_bad_input, parse_cli
from experiment.interrupt import cli_session
from studies.warm_start.config import WarmStartConfig

if TYPE_CHECKING:
    from studies.warm_start.learner import Learner

SHAPE = (3, 32, 32)
CLASSES = 10
PRECISIONS: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
SIZE = 1024
PRODUCTS = 5


@dataclass(frozen=True)
class SpeedConfig:
    """What to time."""

    rounds: int = 5
    """Rounds of the small CNN; in each the variants take turns."""
    updates: int = 10
    """Updates of the small CNN in a round."""
    batch_size: int = 250
    """Images in a batch of the small CNN."""
    resnet_batch_size: int = 50
    """Images in a batch of the ResNet-18 at full width, of which one update is measured; 0: leave it out."""
    compile: bool = True
    """Time the compiled variants too."""
    threads: int = 1
    """CPU threads of torch, for the updates as for the matrix products."""

    def resolved(self) -> SpeedConfig:
        """These settings; a fault raises ConfigError."""
        for name, least in {"rounds": 1, "updates": 1, "batch_size": 1, "resnet_batch_size": 0, "threads": 1}.items():
            if getattr(self, name) < least:
                given = f"--{name.replace('_', '-')} is {getattr(self, name)}"
                raise ConfigError(f"{given}: it has to be at least {least}")
        return self


@dataclass(frozen=True)
class Variant:
    """What is timed against a product: a learner, its updates in a round, its rounds, the FLOP of an update."""

    learner: Learner
    updates: int
    rounds: int
    flop: float
    product: Callable[[], object]

    @property
    def name(self) -> str:
        config = self.learner.config
        return f"{config.network} {config.precision} {'compiled' if config.compile else 'eager'}"

    def time(self) -> tuple[float, float]:
        """Seconds of an update, and of the product."""
        began = time.perf_counter()
        for _ in range(self.updates):
            self.learner.update()
        middle = time.perf_counter()
        for _ in range(PRODUCTS):
            self.product()
        return (middle - began) / self.updates, (time.perf_counter() - middle) / PRODUCTS


def make_learner(config: WarmStartConfig) -> Learner:
    """A learner of the settings on random images of the size of CIFAR-10's."""
    import torch

    from studies.warm_start.data import Dataset
    from studies.warm_start.learner import Learner
    from studies.warm_start.networks import make_network
    from studies.warm_start.protocols import make_protocol
    from studies.warm_start.run import make_methods

    torch.manual_seed(0)
    count = 2 * config.batch_size
    images, labels = torch.randint(256, (count, *SHAPE), dtype=torch.uint8), torch.arange(count) % CLASSES
    data = Dataset("random images", images, labels, images[:1], labels[:1], CLASSES)
    network = make_network(config, SHAPE, CLASSES)
    return Learner(config, data, make_protocol(config, labels, CLASSES, 0), network, make_methods(config), 0)


def flop_per_image(config: WarmStartConfig) -> float:
    """FLOP of the convolutions and matrix products of an update, forward and backward, for each image."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    learner = make_learner(replace(config, batch_size=1, compile=False, precision="fp32"))
    with FlopCounterMode(display=False) as counter:
        learner.loss(torch.zeros(1, *SHAPE, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))[0].backward()
    return float(counter.get_total_flops())


def product(precision: str) -> Callable[[], object]:
    """A matrix product of `SIZE`³ in the precision."""
    import torch

    a, b = torch.randn(2, SIZE, SIZE, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    return lambda: a @ b


def make_variants(speed: SpeedConfig) -> list[Variant]:
    """The small CNN and ResNet-18, projected, in both precisions, eager and compiled."""
    cnn = replace(WarmStartConfig(), batch_size=speed.batch_size, nap=True).resolved()
    chosen = [(cnn, speed.updates, speed.rounds)]
    if speed.resnet_batch_size:
        resnet = replace(WarmStartConfig(), network="resnet18", batch_size=speed.resnet_batch_size, nap=True)
        chosen.append((resnet.resolved(), 1, 1))
    found = []
    for base, updates, rounds in chosen:
        flop = base.batch_size * flop_per_image(base)
        for precision, compiled in pairs(PRECISIONS, (False, True)[: 1 + speed.compile]):
            config = replace(base, precision=precision, compile=compiled)
            found.append(Variant(make_learner(config), updates, rounds, flop, product(precision)))
    return found


def alternate(variants: Sequence[Variant]) -> dict[str, list[tuple[float, float]]]:
    """The times of each variant in each of its rounds, after one update that is not counted."""
    for variant in variants:
        print(f"preparing: {variant.name}", flush=True)
        if variant.learner.config.compile:
            variant.learner.prepare()
        variant.learner.update()
        variant.product()
    times: dict[str, list[tuple[float, float]]] = {variant.name: [] for variant in variants}
    for i in range(max(variant.rounds for variant in variants)):
        for variant in variants:
            if i < variant.rounds:
                times[variant.name].append(variant.time())
    return times


def line(variant: Variant, times: Sequence[tuple[float, float]]) -> str:
    """A line of the table: medians."""
    images = variant.learner.config.batch_size
    seconds, of_product = (median(column) for column in zip(*times, strict=True))
    rate = 2 * SIZE**3 / of_product
    limit = variant.flop / rate
    shown = f"{variant.name:<24}{1e3 * seconds:>10.1f}{images / seconds:>10,.0f}{images / limit:>10,.0f}"
    return f"{shown}{seconds / limit:>8.2f}{rate / 1e9:>11.0f}"


@cli_session()
def main(argv: Sequence[str] | None = None) -> int:
    """Parse, time and print; the exit code."""
    with exit_on_bad_input():
        speed = parse_cli(
            SpeedConfig,
            argv,
            prog="python -m studies.warm_start.speed",
            description="Time a training step, and matrix products of as many FLOP.",
            presets={},
        ).resolved()
        if speed.compile:
            from experiment.compiler import check_compiler

            check_compiler("cpu")
    from experiment.determinism import configure

    configure(speed.threads, seed=0)
    variants = make_variants(speed)
    times = alternate(variants)
    print("images/s, and those that the matrix products alone would allow at the rate of a large one")
    print(f"{'':<24}{'ms/update':>10}{'images/s':>10}{'allowed':>10}{'ratio':>8}{'GFLOP/s':>11}")
    for variant in variants:
        print(line(variant, times[variant.name]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
