"""What the methods share that start the optimiser again, while the weights go on."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from plasticity.method import Features, Method
from plasticity.timing import At, Timing


class OptimizerRestart(Method):
    """A method that starts a part of the optimiser's state again.

    period: updates, inf for never; "target": before each update that follows a change of the target network, by a copy
    or by another method. at: once instead, after this update.
    """

    name: str

    def __init__(self, period: float | Literal["target"] = "target", at: At = None):
        self.follows_target = period == "target" and at is None
        self.timing = Timing(self.name, math.inf if period == "target" else period, at)

    @property
    def is_off(self) -> bool:
        return self.timing.is_off and not self.follows_target

    def attach(self, network: nn.Module, target: nn.Module | None, optimizer: Optimizer) -> None:
        """Watch the target network; ValueError if there is none to follow."""
        self.optimizer = optimizer
        self.watched: list[Tensor] = []
        if self.follows_target:
            if target is None:
                fault = f"{self.name}: period=target: there is no target network here"
                raise ValueError(f"{fault}; give a number of updates, {self.name}:period=N")
            self.watched = list(target.parameters())
            optimizer.register_step_pre_hook(self._before_step)
        self._seen, self._pending = self._writes(), False

    def _writes(self) -> int:
        """How often the target network was written, which torch counts on the host."""
        return sum(parameter._version for parameter in self.watched)

    def _target_changed(self) -> bool:
        return self._pending or self._writes() != self._seen

    def _before_step(self, optimizer: Optimizer, *arguments: object) -> None:
        if self._target_changed():
            self.restart()
            self._seen, self._pending = self._writes(), False

    @torch.no_grad()
    def after_update(self, update: int, features: Features | None = None) -> None:
        if self.timing.due(update):
            self.restart()

    @torch.no_grad()
    def task_changed(self, update: int) -> None:
        if self.timing.due_at_task(update):
            self.restart()

    @abstractmethod
    def restart(self) -> None:
        """Starts again what the method names, in place."""

    def parameters(self) -> list[nn.Parameter]:
        """The parameters that the optimiser owns."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def state_dict(self) -> dict[str, Any]:
        return {"target_changed": self._target_changed(), **self.timing.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave, after the target network was loaded."""
        self._seen, self._pending = self._writes(), state["target_changed"]
        self.timing.load_state_dict(state)
