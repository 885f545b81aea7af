"""Milliseconds per update against what its matrix products alone would take: `python -m studies.grokking.speed`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING

from experiment.config import ConfigError, exit_on_bad_input, parse_cli
from experiment.interrupt import cli_session
from studies.grokking.config import GrokkingConfig

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class SpeedConfig:
    """What to time."""

    rounds: int = 7
    """Rounds; in each the variants take turns."""
    updates: int = 10
    """Updates of each variant in a round."""
    batch_size: int = 512
    """Training pairs in a batch."""
    compile: bool = True
    """Time the compiled variants too."""
    device: str = "cpu"
    """Device to time: cpu, cuda, cuda:1, ..."""
    threads: int = 1
    """CPU threads of torch."""

    def resolved(self) -> SpeedConfig:
        """These settings; a fault raises ConfigError."""
        for name in ("rounds", "updates", "batch_size", "threads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} is {getattr(self, name)}: it has to be at least 1")
        return self


def multiply_adds(config: GrokkingConfig, size: int) -> float:
    """FLOP of the matrix products of one update of the transformer, forward and twice that backward.

    Width 128, 512 hidden units: queries aside, keys and values of 2 size + 3 rows, and for each example the output
    projection, the MLP and the head.
    """
    width, hidden = 128, 512
    table = (2 * size + 3) * 2 * width * width
    example = width * width + 2 * width * hidden + width * size
    return 3 * 2 * (table + config.batch_size * example)


def matmul_rate(precision: str, device: torch.device) -> float:
    """FLOP/s of products of the shape of the MLP's first, the best of 20."""
    import torch

    from studies.run import synchronize

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(*shape, dtype=dtype, device=device) for shape in ((512, 128), (128, 512)))
    times = []
    for _ in range(20):
        synchronize(device)
        began = time.perf_counter()
        a @ b
        synchronize(device)
        times.append(time.perf_counter() - began)
    return 2 * 512 * 128 * 512 / min(times)


@cli_session()
def main(argv: Sequence[str] | None = None) -> int:
    with exit_on_bad_input():
        speed = parse_cli(
            SpeedConfig, argv, prog="python -m studies.grokking.speed", description="Time one update.", presets={}
        ).resolved()

        from experiment.compiler import check_compiler
        from experiment.determinism import configure, device_of

        device = device_of(speed.device)
        if speed.compile:
            check_compiler(device)
    configure(speed.threads, seed=0)
    variants = make_variants(speed, device)
    best = {precision: matmul_rate(precision, device) for precision in ("fp32", "bf16")}
    times = alternate({name: run for name, (run, _, _) in variants.items()}, speed, device)
    for name, (_, precision, flop) in variants.items():
        middle, limit = median(times[name]), 1e3 * flop / best[precision]
        print(
            f"{name:<22}{middle:7.2f} ms ({min(times[name]):.2f}-{max(times[name]):.2f}), matmul limit {limit:5.2f} ms "
            f"at {best[precision] / 1e9:.0f} GFLOP/s, ratio {middle / limit:.2f}"
        )
    return 0


Variant = tuple[Callable[[], None], str, float]


def make_variants(speed: SpeedConfig, device: torch.device) -> dict[str, Variant]:
    """What is timed, its precision and FLOP; `plain` computes every position, and its limit is that of the fast way."""
    from studies.grokking.data import make_task
    from studies.grokking.learner import Learner
    from studies.grokking.model import Transformer, make_model

    task = make_task("add", 117, 0.2, 0).to(device)
    base = replace(GrokkingConfig(), batch_size=speed.batch_size).resolved()
    flop = multiply_adds(base, task.size)
    found: dict[str, Variant] = {}
    for precision in ("fp32", "bf16"):
        for compiled in (False, True)[: 1 + speed.compile]:
            config = replace(base, precision=precision, compile=compiled)
            learner = Learner(config, task, make_model(config, task.size, 0).to(device), 0)
            learner.prepare()
            found[f"{precision} {'compiled' if compiled else 'eager'}"] = (learner.update, precision, flop)
    plain = Learner(base, task, make_model(base, task.size, 0).to(device), 0)
    assert isinstance(plain.model, Transformer)
    plain.model.forward = plain.model.plain  # type: ignore[method-assign]
    return found | {"fp32 eager, plain": (plain.update, "fp32", flop)}


def alternate(runs: dict[str, Callable[[], None]], speed: SpeedConfig, device: torch.device) -> dict[str, list[float]]:
    """Milliseconds per update in each round, after one round that is not counted."""
    from studies.run import synchronize

    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(speed.rounds + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            for _ in range(speed.updates):
                run()
            synchronize(device)
            times[name].append(1e3 * (time.perf_counter() - began) / speed.updates)
    return {name: values[1:] for name, values in times.items()}


if __name__ == "__main__":
    raise SystemExit(main())
