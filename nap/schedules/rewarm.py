"""Closed-loop schedules: a re-warming starts when a change of a signal, for example the loss, is detected.

Algorithm 1 of arXiv 2507.20057, which names CUSUM on the loss but none of its settings. The defaults here come from
simulated training curves: see `Rewarm`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from bisect import bisect_right
from typing import Any, SupportsFloat

from torch.optim import Optimizer

from nap.schedules.open_loop import ramp_then_cosine
from nap.schedules.schedule import Schedule, detached


class RunningScore:
    """The distance of each sample from the mean of earlier samples, in standard deviations, clipped to ±`clip`.

    Mean and deviation are exponentially weighted with `time_constant`, in samples (inf: equal weights), and
    bias-corrected, so that the deviation is not too small for few samples. The first `min_samples` score 0. A sample
    beyond the clip enters the statistics as the clip, so that an outlier does not inflate them.
    """

    def __init__(self, time_constant: float, min_samples: int, clip: float) -> None:
        self.time_constant, self.min_samples, self.clip = time_constant, min_samples, clip
        self.restart()

    def restart(self) -> None:
        """Forgets every sample."""
        self.count, self.mass, self.mean, self.variance, self.squares = 0, 0.0, 0.0, 0.0, 0.0

    def __call__(self, sample: float) -> float:
        """The score of a sample by the earlier samples' statistics; then adds the sample to them."""
        score = 0.0
        if self.count >= self.min_samples:
            deviation = max(self.deviation, 1e-9 * abs(self.mean), 1e-30)  # constant samples: any change is large
            score = min(max((sample - self.mean) / deviation, -self.clip), self.clip)
            sample = self.mean + score * deviation
        self._take(sample)
        return score

    @property
    def deviation(self) -> float:
        """The standard deviation, corrected for the number of samples that it effectively stands on."""
        return math.sqrt(self.variance / (1 - self.squares)) if self.count > 1 else 0.0

    def _take(self, sample: float) -> None:
        # West 1979: `share` is the sample's part of all weights so far, `squares` the sum of the squared parts.
        self.count += 1
        self.mass = 1 + (1 - 1 / self.time_constant) * self.mass
        share = 1 / self.mass
        step = sample - self.mean
        self.mean += share * step
        self.variance = (1 - share) * (self.variance + share * step * step)
        self.squares = (1 - share) ** 2 * self.squares + share * share

    def state_dict(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in ("count", "mass", "mean", "variance", "squares")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class Rewarm(Schedule):
    """A warm restart now, and another whenever a change of the signal is detected: base of `Cusum` and `PageHinkley`.

    A restart goes from `floor` to the peak over `warmup` steps in a straight line, then down half a cosine to `floor`,
    `cycle_steps` in all, and the lr stays there until the next alarm. The first rises over `first_warmup` steps (none:
    `warmup`).

    The signal goes to `step(signal)`, as with `ReduceLROnPlateau`, or to `observe(signal)`; not every step needs one.
    A tensor is read with `float`, which waits for its device. A NaN, an infinity, or a zero whose logarithm is asked
    for is ignored and counted in `ignored`.

    signal: name of the signal, for the training loop.
    cycle_steps: length of a restart in steps; none: a tenth of `total_steps`.
    slack, threshold: of the test on the scores of `RunningScore`, in deviations. `threshold` 5 is the textbook value,
        which means a false alarm every 900 samples. On simulated losses of 14,000 updates (12 shapes and noises),
        threshold 5 gave 0 to 5 false alarms a run, 8 at most 1, and 10 none; with 10, a rise from 0.01 to 0.5 was found
        within 2 to 6 samples.
    cooldown: steps after the start of each restart, also of the first, in which the signal is ignored; none: `warmup`
        and half of the following decay. During that time the rate is above the middle, so another restart would change
        little, and the rate itself makes the loss rise. The statistics start again after it.
    two_sided: alarm at a fall of the signal too. A steady fall also counts, as of a loss in training or after a
        restart: on the simulated losses two-sided gave 4 to 18 alarms a run where one-sided gave none.
    log_signal: work on the logarithm. A loss is skewed, and its deviation shrinks with it; its logarithm is nearly
        symmetric with a steady deviation. Without it the simulated curves gave up to 1 false alarm a run at threshold
        10.
    time_constant, min_samples, clip: of `RunningScore`, the first two in samples. A lone outlier adds at most `clip`
        minus `slack`, and does not set off an alarm below `threshold`.

    `alarms` has the step of each alarm.
    Raises ValueError for an option out of range, and for a negative signal whose logarithm is asked for.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        *,
        floor: float = 0.0,
        signal: str = "loss",
        cycle_steps: int | None = None,
        warmup: int = 0,
        first_warmup: int | None = None,
        slack: float = 0.5,
        threshold: float = 10.0,
        cooldown: int | None = None,
        two_sided: bool = False,
        log_signal: bool = True,
        time_constant: float = 300.0,
        min_samples: int = 30,
        clip: float = 4.0,
    ) -> None:
        self.signal = signal
        tenth = max(self._whole("total_steps", total_steps, 1) // 10, 1)
        self.cycle_steps = tenth if cycle_steps is None else self._whole("cycle_steps", cycle_steps, 1)
        self.warmup, self.first_warmup = self._warmups(warmup, first_warmup, self.cycle_steps)
        self.cooldown = cooldown if cooldown is None else self._whole("cooldown", cooldown, 0)
        self.slack, self.threshold = self._at_least("slack", slack, 0), self._at_least("threshold", threshold, 0)
        self.two_sided, self.log_signal = two_sided, log_signal
        self.score = RunningScore(
            self._at_least("time_constant", time_constant, 1),
            self._whole("min_samples", min_samples, 2),
            self._at_least("clip", clip, self.slack),
        )
        self.alarms: list[int] = []
        self.ignored = 0
        self.evidence = [0.0, 0.0]
        super().__init__(optimizer, total_steps, floor=floor)

    @abstractmethod
    def accumulate(self, evidence: float, score: float) -> float:
        """The evidence for a rise after one more score."""

    def shape(self, step: int) -> float:
        began = self._restart_before(step)
        return ramp_then_cosine(min(step - began, self.cycle_steps), self._rise(began), self.cycle_steps)

    def lr_at(self, step: int) -> list[float]:
        """The lr of each parameter group at a step count, with the alarms so far."""
        return self._between(self.shape(step))

    def observe(self, signal: SupportsFloat) -> bool:
        """Reads one sample of the signal at the present step count; True if it triggers an alarm."""
        began = self._restart_before(self.last_epoch)
        middle = (self._rise(began) + self.cycle_steps) // 2
        if self.last_epoch - began < (middle if self.cooldown is None else self.cooldown):
            return False
        value = self._readable(float(detached(signal)))
        if value is None:
            self.ignored += 1
            return False
        score = self.score(value)
        rise, fall = self.evidence
        self.evidence = [self.accumulate(rise, score), self.accumulate(fall, -score) if self.two_sided else 0.0]
        if max(self.evidence) <= self.threshold:
            return False
        self.alarms.append(self.last_epoch)
        self.evidence = [0.0, 0.0]
        self.score.restart()
        self.move_to(self.last_epoch)
        return True

    def restarts(self) -> int:
        """Alarms so far."""
        return len(self.alarms)

    def metrics(self) -> dict[str, float | None]:
        """ "rewarms", the number of alarms so far."""
        return {"rewarms": len(self.alarms)}

    def state_dict(self) -> dict[str, Any]:
        """The step count and the statistics of the signal."""
        own = {"alarms": list(self.alarms), "ignored": self.ignored, "evidence": list(self.evidence)}
        return super().state_dict() | own | {"score": self.score.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where a saved one stopped, to the bit."""
        self._check_state(state_dict, "alarms", "evidence", "ignored", "score")
        self.alarms, self.evidence = list(state_dict["alarms"]), list(state_dict["evidence"])
        self.ignored = state_dict["ignored"]
        self.score.load_state_dict(state_dict["score"])
        super().load_state_dict(state_dict)

    def _restart_before(self, step: int) -> int:
        position = bisect_right(self.alarms, step)
        return self.alarms[position - 1] if position else 0

    def _rise(self, began: int) -> int:
        return self.warmup if began else self.first_warmup

    def _readable(self, value: float) -> float | None:
        if not math.isfinite(value) or (self.log_signal and value == 0):
            return None
        if self.log_signal and value < 0:
            raise self._error(f"signal {value!r} has no logarithm; pass log_signal=False")
        return math.log(value) if self.log_signal else value


class Cusum(Rewarm):
    """Re-warms when the cumulative sum S = max(0, S + score - slack) exceeds `threshold` (Page 1954).

    Options as in `Rewarm`. A lasting rise by d deviations is found after about threshold / (d - slack) samples.
    """

    def accumulate(self, evidence: float, score: float) -> float:
        return max(0.0, evidence + score - self.slack)


class PageHinkley(Rewarm):
    """Re-warms when m = max(0, forgetting * m + score - slack) exceeds `threshold`: the Page-Hinkley test that forgets.

    The form of the stream-learning libraries, whose `forgetting` is 0.9999; with 1 it is the same test as `Cusum`.
    With 0.99, evidence fades over some 100 samples: a slow drift that lies less than slack + threshold / 100
    deviations above the running mean never sets it off. Other options as in `Rewarm`.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, *, forgetting: float = 0.99, **options: Any) -> None:
        if not 0 < forgetting <= 1:
            raise self._error(f"forgetting={forgetting!r} must be above 0 and at most 1")
        self.forgetting = forgetting
        super().__init__(optimizer, total_steps, **options)

    def accumulate(self, evidence: float, score: float) -> float:
        return max(0.0, self.forgetting * evidence + score - self.slack)
