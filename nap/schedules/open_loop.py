"""The open-loop schedules, each a pure function of the step count."""

from __future__ import annotations

import math

from torch.optim import Optimizer

from nap.schedules.schedule import Schedule, peaks_of
from nap.suggest import suggest


class Constant(Schedule):
    """The peak throughout."""

    def __init__(self, optimizer: Optimizer, total_steps: int) -> None:
        super().__init__(optimizer, total_steps)

    def shape(self, step: int) -> float:
        return 1.0


class Linear(Schedule):
    """A straight line from the peak to `floor` at `total_steps`."""

    def shape(self, step: int) -> float:
        return 1 - step / self.total_steps


class Cosine(Schedule):
    """Half a cosine from the peak to `floor` at `total_steps`."""

    def shape(self, step: int) -> float:
        return half_cosine(step, self.total_steps)


class OneCycle(Schedule):
    """A straight line from `floor` to the peak over the first `warmup_fraction` of the steps, then a half cosine."""

    def __init__(
        self, optimizer: Optimizer, total_steps: int, *, floor: float = 0.0, warmup_fraction: float = 0.1
    ) -> None:
        steps = self._whole("total_steps", total_steps, 1)
        self.warmup = round(self._fraction("warmup_fraction", warmup_fraction) * steps)
        super().__init__(optimizer, total_steps, floor=floor)

    def shape(self, step: int) -> float:
        return ramp_then_cosine(step, self.warmup, self.total_steps)


class Cyclic(Schedule):
    """`cycles` equal warm restarts: up to the peak, then half a cosine to `floor` (SGDR, arXiv 1608.03983).

    Each begins with a jump to the peak, or with a straight line from `floor` to it over `warmup` steps; the first over
    `first_warmup` (none: `warmup`).
    Raises ValueError for more cycles than steps, and for a warm-up longer than a cycle.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        *,
        floor: float = 0.0,
        cycles: int = 10,
        warmup: int = 0,
        first_warmup: int | None = None,
    ) -> None:
        self.cycles = self._whole("cycles", cycles, 1)
        if cycles > self._whole("total_steps", total_steps, 1):
            raise self._error(f"cycles={cycles} is more than total_steps={total_steps}")
        self.warmup, self.first_warmup = self._warmups(warmup, first_warmup, total_steps / cycles)
        super().__init__(optimizer, total_steps, floor=floor)

    def restarts(self) -> int:
        """Cycles begun by the present step, without the first."""
        return min(self.last_epoch * self.cycles // self.total_steps, self.cycles - 1)

    def shape(self, step: int) -> float:
        warmup = self.warmup if step * self.cycles >= self.total_steps else self.first_warmup
        return restarts(step, self.total_steps, self.cycles, warmup)


class EarlyCycle(Schedule):
    """`cycles` warm restarts in the first `cycle_fraction` of the steps, and `anneal` after them.

    anneal "cosine" or "linear" restarts once more, to the peak, and comes down to `floor` over all remaining steps.
    "floor" stays at the floor: the early stopping of re-warming in arXiv 2507.20057, section 6.2 (10 cycles in the
    first fifth).
    Raises ValueError for more cycles than steps to cycle in, and for anneal "floor" where that is 0.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        *,
        floor: float = 0.0,
        cycles: int = 10,
        cycle_fraction: float = 0.2,
        anneal: str = "cosine",
    ) -> None:
        if anneal not in (kinds := ("floor", "cosine", "linear")):
            raise self._error(f"anneal={anneal!r} is unknown; {suggest(anneal, kinds)}")
        self.cycles, self.anneal = self._whole("cycles", cycles, 1), anneal
        steps = self._whole("total_steps", total_steps, 1)
        self.cycle_steps = round(self._fraction("cycle_fraction", cycle_fraction) * steps)
        if 0 < self.cycle_steps < cycles:
            raise self._error(f"cycles={cycles} is more than the {self.cycle_steps} steps to cycle in")
        if self.cycle_steps < steps:
            self._check_end(floor)
        super().__init__(optimizer, total_steps, floor=floor)

    def _check_end(self, floor: float) -> None:
        if self.anneal == "floor" and floor == 0:
            raise self._error("anneal='floor' needs a floor above 0: nothing would be learned after the cycles")

    def shape(self, step: int) -> float:
        if step < self.cycle_steps:
            return restarts(step, self.cycle_steps, self.cycles)
        return anneal_shape(self.anneal, step - self.cycle_steps, self.total_steps - self.cycle_steps)


class DelayedCosine(Schedule):
    """A low rate for `delay` steps, a straight line to the peak over `warmup` steps, then half a cosine to `floor`.

    The re-warming of the grokking study in arXiv 2507.20057, section 4. `low` is the first group's learning rate
    during the delay; none: `floor`. The cosine takes `anneal_steps`, and the lr stays at `floor` after it; none: all
    remaining steps. Steps count from the start of the schedule.
    Raises ValueError if the parts are longer than `total_steps`.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        *,
        floor: float = 0.0,
        delay: int = 0,
        low: float | None = None,
        warmup: int = 1000,
        anneal_steps: int | None = None,
    ) -> None:
        self.delay, self.warmup = self._whole("delay", delay, 0), self._whole("warmup", warmup, 0)
        if delay + warmup > self._whole("total_steps", total_steps, 1):
            raise self._error(f"delay + warmup = {delay + warmup} is more than total_steps={total_steps}")
        left = total_steps - delay - warmup
        self.anneal_steps = left if anneal_steps is None else self._whole("anneal_steps", anneal_steps, 1)
        if self.anneal_steps > left:
            raise self._error(f"anneal_steps={anneal_steps} is more than the {left} steps that are left")
        peak = peaks_of(optimizer)[0]
        if low is not None and not 0 <= low <= peak * (1 + 1e-6):
            raise self._error(f"low={low!r} must be from 0 to the peak, which is {peak!r}")
        self.low_share = low / peak if low else low
        super().__init__(optimizer, total_steps, floor=floor)

    def shape(self, step: int) -> float:
        if step < self.delay:
            return 0.0
        steps = self.warmup + self.anneal_steps
        return ramp_then_cosine(min(step - self.delay, steps), self.warmup, steps)

    def lr_at(self, step: int) -> list[float]:
        """The lr of each parameter group at a step count."""
        if self.low_share is None or step >= self.delay + self.warmup:
            return super().lr_at(step)
        share = self.low_share + (1 - self.low_share) * self.shape(step)
        return [peak * share for peak in self.peaks]


def half_cosine(step: int, steps: int) -> float:
    """1 at step 0, 0 at `steps`."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def anneal_shape(anneal: str, step: int, steps: int) -> float:
    """0 throughout for "floor"; else from 1 to 0 in `steps`, as a "cosine" or "linear"."""
    if anneal == "floor" or steps == 0:
        return 0.0
    return half_cosine(step, steps) if anneal == "cosine" else 1 - step / steps


def ramp_then_cosine(step: int, warmup: int, steps: int) -> float:
    """0 to 1 over `warmup` steps, then half a cosine to 0 at `steps`."""
    if step < warmup:
        return step / warmup
    return half_cosine(step - warmup, steps - warmup) if steps > warmup else 1.0


def restarts(step: int, steps: int, cycles: int, warmup: int = 0) -> float:
    """`cycles` half cosines from 1 to 0 one after another, each after a rise over `warmup` steps; 0 at `steps`."""
    if step == steps:
        return 0.0
    # in whole numbers, so that no restart is lost to rounding
    return ramp_then_cosine(step * cycles % steps, warmup * cycles, steps)
