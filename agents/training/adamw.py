"""AdamW that spends its time on numbers: torch's fused kernel on lists of tensors that are made once."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Tensors(NamedTuple):
    """The parameters of one group that have one device and dtype, with their state."""

    group: dict[str, Any]
    parameters: list[Tensor]
    averages: list[Tensor]
    squares: list[Tensor]
    steps: list[Tensor]


class FusedAdamW(torch.optim.AdamW):
    """`torch.optim.AdamW(..., fused=True)` with the same bits, state, hooks and `found_inf`, at less cost per step.

    torch collects and sorts its tensors in each step, which takes longer than the kernel where a network is small. Here
    this is repeated only when other parameters have gradients than in the step before, or when the state holds other
    tensors: after `load_state_dict`, or where they were replaced or deleted.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float | Tensor, *, eps: float, weight_decay: float) -> None:
        super().__init__(params, lr, eps=eps, weight_decay=weight_decay, fused=True)
        self._prepared: list[Tensors] = []

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.forget()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step on the present gradients. A `closure` is called first to compute them; returns what it returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        if not self._is_prepared():
            self._prepared = [tensors for group in self.param_groups for tensors in self._collected(group)]
        for tensors in self._prepared:
            torch._foreach_add_(tensors.steps, 1)
            fused_step(tensors, scale, found_inf)
        return loss

    def forget(self) -> None:
        """Hold the tensors of the last step no longer; the next step collects its own."""
        self._prepared = []

    def _is_prepared(self) -> bool:
        learning = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        known = [p for tensors in self._prepared for p in tensors.parameters]
        averages = (average for tensors in self._prepared for average in tensors.averages)
        return (
            len(learning) == len(known)
            and all(map(operator.is_, learning, known))
            and all(self.state[p].get("exp_avg") is average for p, average in zip(known, averages, strict=True))
        )

    def _collected(self, group: dict[str, Any]) -> list[Tensors]:
        lists: list[list[Tensor]] = [[] for _ in range(6)]
        self._init_group(group, *lists)  # makes the state of a parameter at its first step
        parameters, _, averages, squares, _, steps = lists
        columns: list[Any] = [parameters, averages, squares, steps]
        grouped: dict[Any, Any] = self._group_tensors_by_device_and_dtype(columns)
        return [Tensors(group, *found) for found, _ in grouped.values()]


def fused_step(tensors: Tensors, scale: Tensor | None = None, found_inf: Tensor | None = None) -> None:
    """One step of torch's fused kernel; `steps` count it already."""
    group, parameters, averages, squares, steps = tensors
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    beta1, beta2 = group["betas"]
    torch._fused_adamw_(
        parameters,
        gradients,
        averages,
        squares,
        [],
        steps,
        lr=group["lr"],
        beta1=beta1,
        beta2=beta2,
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=False,
        maximize=False,
        grad_scale=scale,
        found_inf=found_inf,
    )
    if found_inf is not None:
        torch._foreach_sub_(steps, [found_inf] * len(steps))
