"""Adam-Rel (Ellis et al. 2024): Adam whose time is relative to the last change of the target."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from plasticity.optimizer_restart import OptimizerRestart


class AdamRel(OptimizerRestart):
    """Adam's step counts start again when the target changes.

    The moments stay. Adam divides them by 1 − β^t, with t the steps since the last start. Right after one, a gradient
    that has grown makes steps of the usual size, and a gradient that has not makes shorter ones: 0.32 of the usual
    size at first, for β of 0.9 and 0.999. period: updates, inf for never; "target": before each update that follows a
    change of the target network; a loop without one needs a number. at: once instead, after this update, or "now":
    after the first one that is made with the method, as in a fork. An optimiser that does not count is refused.
    Source: arXiv 2412.17113, DQN on Atari, at each copy to the target.
    """

    name = "adam-rel"

    def attach(self, network: nn.Module, target: nn.Module | None, optimizer: Optimizer) -> None:
        if "betas" not in optimizer.defaults:
            other = f"{type(optimizer).__name__} corrects its moments by no step count, as Adam does"
            raise ValueError(f"adam-rel: {other}: train with Adam, or take optimizer-reset:period=N")
        super().attach(network, target, optimizer)

    @torch.no_grad()
    def restart(self) -> None:
        states = [self.optimizer.state.get(parameter, {}) for parameter in self.parameters()]
        if steps := [state["step"] for state in states if isinstance(state.get("step"), Tensor)]:
            torch._foreach_zero_(steps)
