"""The optimisers of a fleet in one step on stacked parameters and moments."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from agents.fleet.stack import Stack
from agents.training.adamw import FusedAdamW, Tensors, fused_step
from experiment.storage.views import stacked

MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class StackedAdamW:
    """The steps of the optimisers of stacked networks, in one call where all have the same rate.

    Each optimiser keeps its state, whose tensors become views of stacked ones when all have made a step. A step with
    rates that differ, with hooks of its own or with updates to leave out is each optimiser's own.
    """

    def __init__(self, optimizers: Sequence[Optimizer], stack: Stack) -> None:
        self.optimizers, self.stack = list(optimizers), stack
        self._joined: list[tuple[list[Tensor], Tensors]] | None = None
        self._learning: list[str] = []

    def step(self, together: bool) -> None:
        """One step of each optimiser on the stack's gradients; `together`: nothing speaks against one call."""
        learning = [name for name in self.stack.learned if self.stack.tensors[name].grad is not None]
        if not together or any(o._optimizer_step_pre_hooks or o._optimizer_step_post_hooks for o in self.optimizers):
            self._joined = None
        elif self._joined is None or learning != self._learning:
            self._joined, self._learning = self._join(learning), learning
        if self._joined is None:
            self.stack.share_gradients()
            for optimizer in self.optimizers:
                optimizer.step()
            return
        for counts, tensors in self._joined:
            torch._foreach_add_(counts, 1)
            fused_step(tensors)

    def _join(self, learning: Sequence[str]) -> list[tuple[list[Tensor], Tensors]] | None:
        """The step counts [N] and the tensors of each parameter group; None without a state that can be stacked.

        The kernel reads one count for each parameter, the first network's. Where updates were skipped before, the
        counts of the networks differ, and each optimiser goes on by itself.
        """
        states = [optimizer.state for optimizer in self.optimizers]
        if not all(isinstance(o, FusedAdamW) for o in self.optimizers):
            return None
        for name in learning:
            own = [state.get(p, {}) for state, p in zip(states, self.stack.parameters(name), strict=True)]
            if not all(own) or len({float(state["step"]) for state in own}) > 1:
                return None
        joined = []
        for group in self.optimizers[0].param_groups:
            held = {id(parameter) for parameter in group["params"]}
            names = [name for name in learning if id(self.stack.parameters(name)[0]) in held]
            columns: dict[str, list[Tensor]] = {key: [] for key in MOMENTS}
            for name in names:
                own = [state[p] for state, p in zip(states, self.stack.parameters(name), strict=True)]
                for key in MOMENTS:
                    columns[key].append(stacked([state[key] for state in own]))
                    for state, view in zip(own, columns[key][-1], strict=True):
                        state[key] = view
            for optimizer in self.optimizers:
                optimizer.forget()  # type: ignore[attr-defined]  # a FusedAdamW
            parameters = [self.stack.tensors[name] for name in names]
            averages, squares, counts = (columns[key] for key in MOMENTS)
            joined.append((counts, Tensors(group, parameters, averages, squares, [count[0] for count in counts])))
        return joined
