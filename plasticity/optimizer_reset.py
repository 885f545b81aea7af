"""Optimiser reset (Asadi et al. 2023)."""

from __future__ import annotations

import torch

from plasticity.method import zero_moments
from plasticity.optimizer_restart import OptimizerRestart


class OptimizerReset(OptimizerRestart):
    """Zero the optimiser's moments and step counts.

    The weights stay. period: updates, inf for never; "target": before each update that follows a change of the target
    network; a loop without one needs a number. at: once instead, after this update, or "now": after the first one that
    is made with the method, as in a fork; "task": at each change of task.
    Source: arXiv 2306.17833, Rainbow on Atari, at each copy to the target.
    """

    name = "optimizer-reset"

    @torch.no_grad()
    def restart(self) -> None:
        zero_moments(self.optimizer, self.parameters(), step=True)
