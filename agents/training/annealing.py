"""n and γ that change while a run learns, and start over at each reset (Schwarzer et al. 2023, BBF)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable


@runtime_checkable
class Resets(Protocol):
    """A plasticity method whose resets start the annealing over."""

    def last_reset(self, update: int) -> int:
        """The last update, up to this one, that a reset followed; 0 before the first."""


class NStepAnneal:
    """n and γ of the returns that the agent learns from, as functions of the number of updates made.

    n_step, gamma: first and last value; without a last one (None) the first stays. `updates` is the length of the
    anneal, which starts at the first update and again at each reset of a method that `Resets`. `began` has the updates
    made before each method joined the run. n changes exponentially and is rounded; 1 − γ changes exponentially. All
    updates of a block have the values of its first.
    Source: arXiv 2305.19452, section 3 and its code: n from 10 to 3, γ from 0.97 to 0.997 in 10,000 updates.
    """

    def __init__(
        self,
        n_step: tuple[int, int | None],
        gamma: tuple[float, float | None],
        updates: int,
        methods: Sequence[object] = (),
    ):
        self._n_step, self._gamma, self._updates, self._methods = n_step, gamma, updates, methods
        self.began = [0] * len(methods)

    @property
    def longest(self) -> int:
        """The largest n that there will be."""
        return max(n for n in self._n_step if n is not None)

    def at(self, update: int) -> tuple[int, float]:
        """n and γ for the update that follows `update` others."""
        pairs = zip(self._methods, self.began, strict=True)
        resets = ((method.last_reset(update), began) for method, began in pairs if isinstance(method, Resets))
        since = update - max((reset for reset, began in resets if reset > began), default=0)
        share = min(since / self._updates, 1.0)
        (n_step, last_n), (gamma, last_gamma) = self._n_step, self._gamma
        if last_n is not None:
            n_step = round(_exponential(n_step, last_n, share))
        if last_gamma is not None:
            gamma = 1 - _exponential(1 - gamma, 1 - last_gamma, share)
        return n_step, gamma

    def report(self, update: int) -> dict[str, float]:
        """The values that change, for a row of metrics."""
        changes = (self._n_step[1] is not None, self._gamma[1] is not None)
        values = zip(("n_step", "gamma"), self.at(update), changes, strict=True)
        return {name: value for name, value, changing in values if changing}


def _exponential(first: float, last: float, share: float) -> float:
    return first ** (1 - share) * last**share
