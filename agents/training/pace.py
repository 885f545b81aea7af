"""Estimates the time left of a training run: steps of play are cheap, updates are not."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from experiment.progress import Rate, clock_time, per_second

SETTLED = 5.0
"""Seconds of updates before the time left is estimated from them."""


class Work(Protocol):
    """The work left, as `Trainer` counts it."""

    @property
    def agent_step(self) -> int: ...

    @property
    def updates(self) -> int: ...

    @property
    def steps_left(self) -> int: ...

    @property
    def updates_left(self) -> int: ...


class Pace:
    """Estimates the time left from the time that a step of play and an update take, each as measured.

    The time of a step is measured before the first update. The time of an update is the rest of the last `window`
    seconds. A resumed run has no steps before its first update: there an update's time includes its steps. The step of
    the first update compiles, and counts in neither.
    """

    def __init__(self, work: Work, window: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._work, self._window, self._clock = work, window, clock
        self._before = work.updates
        self._per_step = 0.0
        self._learns_since: float | None = None
        self._restart()
        self._began = self._clock(), work.agent_step

    def _restart(self) -> None:
        self._steps, self._updates = Rate(self._window), Rate(self._window)
        self._add(self._clock())

    def _add(self, now: float) -> None:
        self._steps.add(now, self._work.agent_step)
        self._updates.add(now, self._work.updates)

    def note(self) -> None:
        """Takes the time; after every step of the run."""
        now = self._clock()
        if self._learns_since is None and self._work.updates > self._before:
            self._learns_since = now
            self._restart()
            return
        self._add(now)
        if self._learns_since is None:
            (began, first), step = self._began, self._work.agent_step
            self._per_step = (now - began) / max(step - first, 1)

    def go_on(self) -> None:
        """Goes on after a pause, whose time counts in neither."""
        self._restart()

    @property
    def learns(self) -> bool:
        """Whether updates have been made."""
        return self._learns_since is not None

    @property
    def updates_per_second(self) -> float:
        return self._updates.value()

    def seconds_left(self) -> float | None:
        """Seconds of training that are left: 0 at the end; None before updates have been made for a while."""
        steps, updates, work = self._steps.value(), self._updates.value(), self._work
        if not work.steps_left:
            return 0.0
        if self._learns_since is None or not steps or self._clock() - self._learns_since < SETTLED:
            return None
        per_step = min(self._per_step, 1 / steps) if updates else 1 / steps
        per_update = (1 - per_step * steps) / updates if updates else 0.0
        return per_step * work.steps_left + per_update * work.updates_left

    def __str__(self) -> str:
        left, rate = self.seconds_left(), self._steps.value()
        unknown = "time left unknown" if self.learns else "time left unknown until updates begin"
        text = unknown if left is None else f"{clock_time(left)} left"
        return f"{text}, {per_second(rate)}" if rate else text

    def first_estimate(self) -> str | None:
        """A sentence as soon as there is an estimate; None before."""
        left, work = self.seconds_left(), self._work
        if left is None or not work.steps_left:
            return None
        rate = per_second(self.updates_per_second)
        return f"first estimate: {clock_time(left)} for the {work.updates_left:,} updates that are left, at {rate}"
