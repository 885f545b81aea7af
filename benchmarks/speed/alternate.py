"""Contestants measured in strict alternation, so that a drift of the machine's speed affects all of them alike."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

T = TypeVar("T")
Run = Callable[[int], float | None]
Role = Literal["ours", "peer", "limit"]


@dataclass(frozen=True)
class Contestant:
    """One thing to measure: `setup()` builds it once and gives `run(count)`, which does `count` calls of it.

    Its value of a round is `work` · count / seconds in `unit`, unless `run` returns another value. Contestants with the
    same `task` are compared; `limit` names the series of that task that bounds this one. A round has at least `least`
    calls.
    """

    task: str
    name: str
    unit: str
    setup: Callable[[], Run]
    role: Role = "ours"
    work: float = 1.0
    limit: str = ""
    least: int = 1


@dataclass(frozen=True)
class Round:
    """One round of one contestant: its calls, their time, and the value in the contestant's unit."""

    count: int
    seconds: float
    value: float


@dataclass
class Series:
    """All rounds of one contestant, in order."""

    task: str
    name: str
    unit: str
    role: Role
    limit: str = ""
    setup_seconds: float = 0.0
    """Seconds of setup and of the first call, which compiles."""
    rounds: list[Round] = field(default_factory=list)

    @property
    def values(self) -> list[float]:
        return [r.value for r in self.rounds]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def range(self) -> tuple[float, float]:
        return min(self.values), max(self.values)


def repeated(call: Callable[[], object]) -> Run:
    """A run that makes so many calls."""

    def run(count: int) -> None:
        for _ in range(count):
            call()

    return run


def rotated(items: Sequence[T], round: int, rounds: int) -> list[T]:
    """The order of one round: every contestant once, with another first one in each round."""
    shift = round * max(1, len(items) // rounds) % max(1, len(items))
    return [*items[shift:], *items[:shift]]


def ratio(series: Series, other: Series) -> float:
    """The median over rounds of the ratio of two values in the same round. Drift hardly changes it."""
    return statistics.median(a / b for a, b in zip(series.values, other.values, strict=True))


def best_peer(series: Series, field: Iterable[Series]) -> Series | None:
    """The peer of the same task with the highest median."""
    peers = [other for other in field if other.role == "peer" and other.task == series.task]
    return max(peers, key=lambda peer: peer.median, default=None)


def limit_of(series: Series, field: Iterable[Series]) -> Series | None:
    """The series that bounds this one: the limit that it names, else its task's only one."""
    limits = [other for other in field if other.role == "limit" and other.task == series.task]
    if series.limit:
        limits = [other for other in limits if other.name == series.limit]
    return limits[0] if len(limits) == 1 and series.role != "limit" else None


def calls_for(seconds: float, run: Run, clock: Callable[[], float]) -> int:
    """The number of calls that take about `seconds`, found by increasing it."""
    count, took = 1, _timed(run, 1, clock).seconds
    while took < seconds / 10:
        count *= 4
        took = _timed(run, count, clock).seconds
    return max(1, math.ceil(count * seconds / took))


def _timed(run: Run, count: int, clock: Callable[[], float], work: float = 1.0) -> Round:
    began = clock()
    value = run(count)
    seconds = clock() - began
    return Round(count, seconds, work * count / seconds if value is None else value)


def alternate(
    contestants: Sequence[Contestant],
    rounds: int,
    seconds: float,
    report: Callable[[str], None] = lambda line: None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Series]:
    """Set every contestant up, then run each about `seconds` in each of `rounds`. Returns their series in order."""
    ready = []
    for contestant in contestants:
        report(f"setting up {contestant.task}: {contestant.name}")
        series = Series(contestant.task, contestant.name, contestant.unit, contestant.role, contestant.limit)
        began = clock()
        run = contestant.setup()
        run(1)
        series.setup_seconds = clock() - began
        ready.append((contestant, run, max(contestant.least, calls_for(seconds, run, clock)), series))
    for number in range(rounds):
        for contestant, run, count, series in rotated(ready, number, rounds):
            report(f"round {number + 1} of {rounds}, {contestant.task}: {contestant.name}")
            series.rounds.append(_timed(run, count, clock, contestant.work))
    return [series for *_, series in ready]
