"""The base of the learning-rate schedules, which fill the optimiser's lr tensors in place.

The peak of each parameter group is the lr that the optimiser was made with. An lr that is a tensor is filled in place
and stays that tensor for life, so a schedule never recompiles or re-captures a graph. A step's unit is the caller's.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, SupportsFloat

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class Schedule(LRScheduler, ABC):
    """Base of the schedules: lr(step) = floor + (peak - floor) * shape(step), constant past `total_steps`.

    `floor` is a learning rate, that of the first parameter group; another group's floor keeps the same ratio to its own
    peak. Subclasses define `shape(step)`, from 0 (floor) to 1 (peak).
    A schedule that listens names its `signal` and overrides `observe`, `state_dict` and `load_state_dict`.
    Raises ValueError for a `total_steps` below 1 or a floor outside 0..peak.
    """

    signal: str | None = None
    """Name of the number that the training loop passes to `observe`; None: the schedule listens to no signal."""

    def __init__(self, optimizer: Optimizer, total_steps: int, *, floor: float = 0.0) -> None:
        self.total_steps = self._whole("total_steps", total_steps, 1)
        self.peaks = peaks_of(optimizer)
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

    def step(self, signal: SupportsFloat | None = None) -> None:
        """Counts one step. A schedule that listens observes the signal, if there is one; another ignores it."""
        super().step()
        if signal is not None and self.signal is not None:
            self.observe(detached(signal))

    def observe(self, signal: SupportsFloat) -> object:
        """Reads one sample of the signal at the present step count. Raises ValueError if `signal` is None."""
        raise self._error("this schedule listens to no signal")

    def restarts(self) -> int:
        """How often the lr has returned to its peak by the present step; 0 if the schedule does not count."""
        return 0

    def metrics(self) -> dict[str, float | None]:
        """Metrics of the schedule's reaction to its signal, by name."""
        return {}

    def _between(self, shape: float) -> list[float]:
        return [floor + (peak - floor) * shape for floor, peak in zip(self.floors, self.peaks, strict=True)]

    def get_lr(self) -> list[float | Tensor]:
        return list(self.lr_at(self.last_epoch))

    def move_to(self, step: int) -> None:
        """Sets the step count and its lr, for a loop that does not count one step at a time."""
        self.last_epoch = self._whole("step", step, 0) - 1
        self._update_lr()

    def set_peaks(self, peaks: list[float]) -> None:
        """Sets each group's peak, and its lr for the present step; a floor keeps its ratio to the peak.

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
        """Moves to a saved step count, with the saved peaks and floors.

        Raises ValueError for the state of other groups or of another kind of schedule.
        """
        self._check_state(state_dict, "step", "peaks", "floors")
        if (saved := len(state_dict["peaks"])) != (own := len(self.peaks)):
            raise self._error(f"the loaded state is of {saved} parameter groups, the optimizer has {own}")
        self.peaks, self.floors = list(state_dict["peaks"]), list(state_dict["floors"])
        self.move_to(state_dict["step"])

    def _check_state(self, state: dict[str, Any], *names: str) -> None:
        if missing := [name for name in names if name not in state]:
            raise self._error(f"the loaded state is of another kind of schedule: it has no {', '.join(missing)}")

    def _error(self, message: str) -> ValueError:
        return ValueError(f"{type(self).__module__}.{type(self).__name__}: {message}")

    def _whole(self, name: str, value: int, least: int) -> int:
        if not isinstance(value, int) or value < least:
            raise self._error(f"{name}={value!r} must be a whole number, at least {least}")
        return value

    def _warmups(self, warmup: int, first: int | None, cycle: float) -> tuple[int, int]:
        """The warm-up of a restart, and of the first restart, checked against the length of a cycle."""
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


def detached(signal: SupportsFloat) -> SupportsFloat:
    """The signal without its graph, so that `float` of a loss does not warn."""
    return signal.detach() if isinstance(signal, Tensor) else signal


def peaks_of(optimizer: Optimizer) -> list[float]:
    """The lr that each parameter group was made with."""
    return [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
