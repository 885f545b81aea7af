"""Learning-rate controllers: the open-loop ones, each a pure function of the step count, and the base of all.

The peak of each parameter group is the lr that the optimiser was made with. An lr that is a tensor is filled in place
and stays that tensor for life, so a schedule never recompiles or re-captures a graph. A step's unit is the caller's.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from typing import Any, SupportsFloat

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from nap.graph.weights import near


class Schedule(LRScheduler, ABC):
    """Base of the schedules: lr(step) = floor + (peak - floor) * shape(step), constant past `total_steps`.

    `floor` is a learning rate, that of the first parameter group; another group's floor keeps the same ratio to its own
    peak. Subclasses define `shape(step)`, from 0 (floor) to 1 (peak).
    A schedule that listens names its `signal` and overrides `observe`, `state_dict` and `load_state_dict`.
    Raises ValueError for a `total_steps` below 1 or a floor outside 0..peak.
    """

    signal: str | None = None
    """Name of the number that the training loop is to pass to `observe`; None: the schedule listens to none."""

    def __init__(self, optimizer: Optimizer, total_steps: int, *, floor: float = 0.0) -> None:
        self.total_steps = self._whole("total_steps", total_steps, 1)
        self.peaks = _peaks(optimizer)
        if not 0 <= floor <= self.peaks[0] * (1 + 1e-6):  # an lr held as a float32 tensor may lie a little lower
            raise self._error(f"floor={floor!r} must be from 0 to the peak, which is {self.peaks[0]!r}")
        self.floors = [floor * peak / self.peaks[0] if floor else 0.0 for peak in self.peaks]
        super().__init__(optimizer)

    @abstractmethod
    def shape(self, step: int) -> float:
        """Where the lr is between floor (0) and peak (1), for a step in 0..total_steps."""

    def lr_at(self, step: int) -> list[float]:
        """The lr of each parameter group at a step count."""
        return self._between(self.shape(min(step, self.total_steps)))

    def observe(self, signal: SupportsFloat) -> object:
        """Takes in one sample of the signal at the present step count. Raises ValueError where `signal` is None."""
        raise self._error("this schedule listens to no signal")

    def restarts(self) -> int:
        """How often the lr has gone back to its peak by the present step, as far as the schedule keeps count."""
        return 0

    def metrics(self) -> dict[str, float | None]:
        """What the signal has led to so far, by name."""
        return {}

    def _between(self, shape: float) -> list[float]:
        return [floor + (peak - floor) * shape for floor, peak in zip(self.floors, self.peaks, strict=True)]

    def get_lr(self) -> list[float | Tensor]:
        return list(self.lr_at(self.last_epoch))

    def move_to(self, step: int) -> None:
        """Sets the step count and the lr that belongs to it; for a count that does not grow by one at a time."""
        self.last_epoch = self._whole("step", step, 0) - 1
        self._update_lr()

    def set_peaks(self, peaks: list[float]) -> None:
        """Gives each parameter group another peak, and now the lr that follows from it; a floor keeps its ratio.

        Raises ValueError for another number of peaks, and for one that is negative or not finite.
        """
        if len(peaks) != len(self.peaks) or not all(0 <= peak < math.inf for peak in peaks):
            raise self._error(f"peaks={peaks!r} must be {len(self.peaks)} finite learning rates, one of each group")
        pairs = list(zip(self.floors, self.peaks, strict=True))
        self.floors = [new * floor / old if floor else 0.0 for (floor, old), new in zip(pairs, peaks, strict=True)]
        self.peaks = list(peaks)
        self.move_to(self.last_epoch)

    def state_dict(self) -> dict[str, Any]:
        """The step count, and each group's peak and floor; the rest is the caller's configuration."""
        return {"step": self.last_epoch, "peaks": list(self.peaks), "floors": list(self.floors)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Moves to a saved step count, with the saved peaks and floors. Raises ValueError for other groups."""
        if (saved := len(state_dict["peaks"])) != (own := len(self.peaks)):
            raise self._error(f"the loaded state is of {saved} parameter groups, the optimizer has {own}")
        self.peaks, self.floors = list(state_dict["peaks"]), list(state_dict["floors"])
        self.move_to(state_dict["step"])

    def _error(self, message: str) -> ValueError:
        return ValueError(f"{type(self).__module__}.{type(self).__name__}: {message}")

    def _whole(self, name: str, value: int, least: int) -> int:
        if not isinstance(value, int) or value < least:
            raise self._error(f"{name}={value!r} must be a whole number, at least {least}")
        return value

    def _warmups(self, warmup: int, first: int | None, cycle: float) -> tuple[int, int]:
        """The warm-up of a restart of so many steps, and that of the first; what follows comes down to the floor."""
        options = {"warmup": warmup, "first_warmup": warmup if first is None else first}
        for name, value in options.items():
            if self._whole(name, value, 0) >= cycle:
                raise self._error(f"{name}={value} must be shorter than a cycle, {cycle:g} steps")
        return options["warmup"], options["first_warmup"]

    def _at_least(self, name: str, value: float, least: float) -> float:
        if not value >= least:
            raise self._error(f"{name}={value!r} must be at least {least}")
        return float(value)

    def _fraction(self, name: str, value: float) -> float:
        if not 0 <= value <= 1:
            raise self._error(f"{name}={value!r} must be a fraction from 0 to 1")
        return value


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
        """Cycles begun by the present step, but for the first."""
        return min(self.last_epoch * self.cycles // self.total_steps, self.cycles - 1)

    def shape(self, step: int) -> float:
        warmup = self.warmup if step * self.cycles >= self.total_steps else self.first_warmup
        return restarts(step, self.total_steps, self.cycles, warmup)


class EarlyCycle(Schedule):
    """`cycles` warm restarts in the first `cycle_fraction` of the steps, and `anneal` after them.

    anneal "cosine" or "linear" restarts once more, to the peak, and comes down to `floor` over all that is left;
    "floor" stays there, the early stopping of re-warming in arXiv 2507.20057, section 6.2 (10 cycles in the first
    fifth).
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
            raise self._error(f"anneal={anneal!r} is unknown; {near(anneal, kinds)}")
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

    The re-warming of the grokking study in arXiv 2507.20057, section 4. `low` is a learning rate, that of the first
    group as `floor` is; none: `floor`. The cosine takes `anneal_steps`, and the lr stays at `floor` after it; none: all
    the steps that are left. Steps count from the start of the schedule.
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
        peak = _peaks(optimizer)[0]
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


SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Constant,
    "linear": Linear,
    "cosine": Cosine,
    "one-cycle": OneCycle,
    "cyclic": Cyclic,
    "early-cycle": EarlyCycle,
    "delayed-cosine": DelayedCosine,
}


def make_schedule(name: str, optimizer: Optimizer, total_steps: int, **options: Any) -> Schedule:
    """The schedule of a name in `SCHEDULES`. Raises ValueError for an unknown name or option."""
    if name not in SCHEDULES:
        raise ValueError(f"nap.make_schedule: schedule {name!r} is unknown; {near(name, SCHEDULES)}")
    known = _options(SCHEDULES[name])
    for option in options:
        if option not in known:
            hint = near(option, known) if known else "it takes none"
            raise ValueError(f"nap.make_schedule: {name!r} has no option {option!r}; {hint}")
    return SCHEDULES[name](optimizer, total_steps, **options)


def _options(kind: type[Schedule]) -> list[str]:
    """The names of the keyword options of a schedule, those that it hands on to its base class included."""
    found: list[str] = []
    for base in kind.__mro__:
        if "__init__" in vars(base):
            parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
            found += [option.name for option in parameters if option.kind is option.KEYWORD_ONLY]
            if not any(option.kind is option.VAR_KEYWORD for option in parameters):
                break
    return found


def load_optimizer_state(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Loads an optimiser's state and keeps its lr tensors: `Optimizer.load_state_dict` alone would replace them.

    An lr that is a plain number stays one too.
    """
    existing = [group["lr"] for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, lr in zip(optimizer.param_groups, existing, strict=True):
        if isinstance(lr, Tensor):
            lr.copy_(group["lr"]) if isinstance(group["lr"], Tensor) else lr.fill_(group["lr"])
            group["lr"] = lr
        else:
            group["lr"] = float(group["lr"])


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


def _peaks(optimizer: Optimizer) -> list[float]:
    return [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
