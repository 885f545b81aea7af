"""Early-cycle schedules that stop cycling when a signal says so.

arXiv 2507.20057 stops re-warming at a step chosen by hand ("somewhat arbitrary", appendix B.3). The rules are ours.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from bisect import bisect_left
from itertools import pairwise
from typing import Any, SupportsFloat

from torch.optim import Optimizer

from nap.schedules.open_loop import EarlyCycle, anneal_shape, half_cosine
from nap.schedules.schedule import detached
from nap.suggest import suggest

Sample = tuple[float, float]
"""Where in its cycle a sample of the signal was taken, 0 to 1, and its value."""


class StoppingCycle(EarlyCycle):
    """Warm restarts until the signal has not changed for `patience` cycles, then `anneal`: base of the two rules.

    A cycle is as long as that of `EarlyCycle` with the same options, `cycle_fraction` of the steps over `cycles`.
    Cycling continues beyond that fraction, to the end if the signal never stops it. `anneal` is as in `EarlyCycle`,
    over all remaining steps. The signal goes to `step(signal)` or `observe(signal)`; a cycle is judged when the next
    one begins. A tensor is read with `float`, which waits for its device. A NaN or an infinity is ignored and counted
    in `ignored`.

    `stopped_at` is the step at which cycling ended, None before.
    signal: name of the signal, for the training loop.
    Raises ValueError for an option out of range.
    """

    def __init__(
        self, optimizer: Optimizer, total_steps: int, *, patience: int = 3, signal: str = "loss", **options: Any
    ) -> None:
        self.signal = signal
        self.patience = self._whole("patience", patience, 1)
        self.samples: list[Sample] = []
        self.cycle, self.still, self.ignored = 0, 0, 0
        self.stopped_at: int | None = None
        super().__init__(optimizer, total_steps, **options)
        self._check_end(self.floors[0])

    @abstractmethod
    def changed(self, samples: list[Sample]) -> bool | None:
        """Whether the signal changed in the cycle with these samples; None if they do not decide it."""

    def shape(self, step: int) -> float:
        stop = self.total_steps if self.stopped_at is None else self.stopped_at
        if step < stop and self.cycle_steps:
            return half_cosine(step * self.cycles % self.cycle_steps, self.cycle_steps)
        return anneal_shape(self.anneal, step - stop, self.total_steps - stop)

    def get_lr(self) -> list[Any]:
        """The lr at the present step, once the cycle that may have ended by then is judged."""
        if self.stopped_at is None and self.cycle_steps == 0:
            self.stopped_at = 0
        if self.stopped_at is None and self.last_epoch < self.total_steps:
            cycle = self.last_epoch * self.cycles // self.cycle_steps
            if cycle != self.cycle:
                self._judge()
            self.cycle = cycle
        return super().get_lr()

    def _judge(self) -> None:
        samples, self.samples = self.samples, []
        if (changed := self.changed(samples)) is not None:
            self.still = 0 if changed else self.still + 1
        if self.still >= self.patience:
            self.stopped_at = self.last_epoch

    def observe(self, signal: SupportsFloat) -> None:
        """Reads one sample of the signal for the present cycle; ignores it after the stop."""
        if self.stopped_at is not None:
            return
        value = float(detached(signal))
        if math.isfinite(value):
            self.samples.append((self.last_epoch * self.cycles % self.cycle_steps / self.cycle_steps, value))
        else:
            self.ignored += 1

    def metrics(self) -> dict[str, float | None]:
        """ "stopped_at", the step at which cycling ended."""
        return {"stopped_at": self.stopped_at}

    def state_dict(self) -> dict[str, Any]:
        """The step count and all that was learned from the signal."""
        own = {"samples": list(self.samples), "cycle": self.cycle, "still": self.still, "ignored": self.ignored}
        return super().state_dict() | own | {"stopped_at": self.stopped_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where a saved one stopped, to the bit."""
        numbers = ("cycle", "still", "ignored", "stopped_at")
        self._check_state(state_dict, "samples", *numbers)
        self.samples = [(place, value) for place, value in state_dict["samples"]]
        for name in numbers:
            setattr(self, name, state_dict[name])
        super().load_state_dict(state_dict)


PLACES = 32
"""Most positions of a cycle that CUSUM compares: with many more, noise alone would cross the threshold somewhere."""


class CusumStop(StoppingCycle):
    """Cycles until CUSUM (Page 1954) finds no shift of the signal, a loss say, in `patience` cycles in a row.

    The signal moves with the rate within a cycle. So each sample of a cycle is compared with a reference cycle at the
    same position, interpolated between the reference's samples. With more than `PLACES` samples, neighbours are
    averaged. The reference is the last cycle that had a shift. The differences are divided by their noise, which
    is estimated from successive differences (von Neumann 1941), so a common shift does not raise it. A shift in either
    direction is max(0, S + score - slack) > `threshold` at any position.
    Give samples that do not overlap. Overlapping ones, such as moving means, vary less within a cycle than between
    cycles, which looks like a shift.

    slack, threshold, clip: of the test, in deviations of a difference; a score is clipped, so that a lone outlier
        does not count as a shift. With n positions a cycle, a shift of about slack + threshold / n is found. On
        simulated signals without a shift, 16 to 1,000 samples a cycle, the median stop was at the earliest cycle that
        `patience` allows or up to 3 cycles later, and every stop came within 10 more cycles.
    min_samples: a cycle with fewer samples is ignored, and so is one with fewer than `min_samples` - 2 samples inside
        its reference.
    log_signal: work on the logarithm of the signal; a sample that has none is ignored.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        *,
        slack: float = 0.5,
        threshold: float = 5.0,
        clip: float = 4.0,
        min_samples: int = 8,
        log_signal: bool = True,
        **options: Any,
    ) -> None:
        self.slack, self.threshold = self._at_least("slack", slack, 0), self._at_least("threshold", threshold, 0)
        self.clip, self.min_samples = self._at_least("clip", clip, slack), self._whole("min_samples", min_samples, 2)
        self.log_signal = log_signal
        self.reference: list[Sample] = []
        super().__init__(optimizer, total_steps, **options)

    def observe(self, signal: SupportsFloat) -> None:
        """Reads one sample, as the base does; ValueError for a negative sample if `log_signal` is on."""
        value = float(detached(signal))
        if self.log_signal and math.isfinite(value):
            if value < 0:
                raise self._error(f"signal {value!r} has no logarithm; pass log_signal=False")
            value = math.log(value) if value else -math.inf
        super().observe(value)

    def changed(self, samples: list[Sample]) -> bool | None:
        if len(samples) < self.min_samples:
            return None
        if self.reference:
            pairs = [(value, interpolated(self.reference, place)) for place, value in samples]
            differences = [value - then for value, then in pairs if then is not None]
            if len(differences) < max(self.min_samples - 2, 2):
                return None
            if not self._shifted(differences):
                return False
        self.reference = samples
        return True

    def _shifted(self, differences: list[float]) -> bool:
        width = -(-len(differences) // PLACES)
        ends = range(len(differences), width - 1, -width)
        differences = [math.fsum(differences[end - width : end]) / width for end in ends][::-1]
        steps = [after - before for before, after in pairwise(differences)]
        deviation = max(math.sqrt(math.fsum(step * step for step in steps) / (2 * len(steps))), 1e-12)
        rise = fall = 0.0
        for difference in differences:
            score = min(max(difference / deviation, -self.clip), self.clip)
            rise, fall = max(0.0, rise + score - self.slack), max(0.0, fall - score - self.slack)
            if max(rise, fall) > self.threshold:
                return True
        return False

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"reference": list(self.reference)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._check_state(state_dict, "reference")
        self.reference = [(place, value) for place, value in state_dict["reference"]]
        super().load_state_dict(state_dict)


def interpolated(samples: list[Sample], place: float) -> float | None:
    """The value at a position, interpolated linearly; None before the first sample and after the last."""
    after = bisect_left(samples, place, key=lambda sample: sample[0])
    if after == len(samples) or (after == 0 and samples[0][0] != place):
        return None
    (start, low), (end, high) = samples[max(after - 1, 0)], samples[after]
    return high if end == place else low + (high - low) * (place - start) / (end - start)


class PlateauStop(StoppingCycle):
    """Cycles until the signal, for example a score, has not improved for `patience` cycles in a row.

    The value at the end of a cycle is the mean of the last `window` samples, or of all so far. A cycle without a sample
    is ignored. A value is an improvement if it exceeds the best earlier one by more than `margin` times the best's
    absolute value. Only then it becomes the best, as in `ReduceLROnPlateau`.

    mode: "max" if higher is better, "min" if lower is.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        *,
        window: int = 10,
        margin: float = 0.01,
        mode: str = "max",
        signal: str = "return",
        **options: Any,
    ) -> None:
        if mode not in (modes := ("max", "min")):
            raise self._error(f"mode={mode!r} is unknown; {suggest(mode, modes)}")
        self.window, self.margin = self._whole("window", window, 1), self._at_least("margin", margin, 0)
        self.mode = mode
        self.recent: list[float] = []
        self.best: float | None = None
        super().__init__(optimizer, total_steps, signal=signal, **options)

    def changed(self, samples: list[Sample]) -> bool | None:
        if not samples:
            return None
        self.recent = [*self.recent, *(value for _, value in samples)][-self.window :]
        mean = math.fsum(self.recent) / len(self.recent) * (1 if self.mode == "max" else -1)
        if self.best is not None and not mean > self.best + self.margin * abs(self.best):
            return False
        self.best = mean
        return True

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"recent": list(self.recent), "best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._check_state(state_dict, "recent", "best")
        self.recent, self.best = list(state_dict["recent"]), state_dict["best"]
        super().load_state_dict(state_dict)
