"""One whole measurement: contestants, alternation, results."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.speed import learners, limits, memory, peers, playing, replays
from benchmarks.speed.alternate import Contestant, Run, Series, alternate
from benchmarks.speed.settings import Settings
from experiment.determinism import configure, environment


@dataclasses.dataclass
class Results:
    """The results: the series, counts and sizes by name, and the contestants that were left out."""

    settings: Settings
    environment: dict[str, Any]
    series: list[Series]
    facts: dict[str, str]
    missing: list[str]
    seconds: float

    @property
    def processor(self) -> str:
        """What it was measured on."""
        return self.environment["cpu" if self.settings.device == "cpu" else "gpu"]


def contestants(settings: Settings) -> tuple[list[Contestant], list[str]]:
    """All contestants, and a line for each that is not installed."""
    field: list[Contestant] = []
    missing: list[str] = []
    if "limits" in settings.only:
        field += limits.contestants(settings)
    if "learner" in settings.only:
        field += learners.contestants(settings)
    if "replay" in settings.only:
        field += replays.contestants(settings)
    if settings.peers:
        found, missing = peers.contestants(settings)
        field += found
    if "environment" in settings.only:
        found, lacking = playing.environments(settings)
        field, missing = field + found, missing + lacking
    if "loop" in settings.only:
        field += playing.loops(settings)
    if settings.device.startswith("cuda"):
        field = [dataclasses.replace(each, setup=finished(each.setup)) for each in field]
    return field, missing


def finished(setup: Callable[[], Run]) -> Callable[[], Run]:
    """The same, but a round ends only when the GPU has done its work."""

    def build() -> Run:
        run = setup()

        def finish(count: int) -> float | None:
            value = run(count)
            torch.cuda.synchronize()
            return value

        return finish

    return build


def measure(settings: Settings) -> Results:
    """Run everything that the settings ask for."""
    began = time.perf_counter()
    configure(settings.threads, seed=0)
    # one process compiles many agents, and each is a recompile of the same method
    torch._dynamo.config.recompile_limit = 64
    torch._dynamo.config.accumulated_recompile_limit = 1024
    field, missing = contestants(settings)
    facts: dict[str, str] = {}
    if "replay" in settings.only:
        facts |= replays.bytes_per_step()
    if "memory" in settings.only:
        facts |= memory.peaks(settings)
    series = alternate(field, settings.rounds, settings.seconds, _progress)
    facts |= learners.nap_costs(series)
    if "limits" in settings.only and "learner" in settings.only:
        series += limits.learner_limits(settings, series)
    return Results(settings, environment(), series, facts, missing, time.perf_counter() - began)


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
