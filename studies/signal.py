"""The training loss as the signal of a schedule that listens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import nap
from experiment.part import check_signal

INTERVAL = 10
"""Updates whose mean loss is one sample."""


class LossSignal:
    """Passes a schedule that listens the mean loss of every `INTERVAL` updates. Does nothing for other schedules.

    Reads the device once for each sample. Raises ConfigError for a schedule that listens to another signal.
    """

    def __init__(self, schedule: nap.Schedule, device: torch.device) -> None:
        check_signal(schedule.signal, ("loss",), "a study")
        self.schedule = None if schedule.signal is None else schedule
        self.total = torch.zeros((), device=device)

    def note(self, update: int, loss: Tensor) -> None:
        """Takes the loss of an update, which counts from 1."""
        if self.schedule is None:
            return
        self.total += loss
        if update % INTERVAL == 0:
            self.schedule.move_to(update)
            self.schedule.observe(self.total / INTERVAL)
            self.total.zero_()

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a `state_dict`, in place."""
        self.total.copy_(state["total"])
