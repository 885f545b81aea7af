"""DASH, direction-aware shrinking (Shin et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from plasticity.method import Features, Method, check_number
from plasticity.timing import At, Timing
from plasticity.trainable import trainable_layers


class DASH(Method):
    """Shrink weights by their alignment with gradients.

    Each weight vector w is multiplied by max(cos(w, G), shrinkage), G ← (1 − alpha)·G − alpha·∇loss being an average of
    negative gradients that starts at zero. The vectors are a linear layer's row per neuron, a convolution's kernel per
    filter and input channel, and a layer's whole bias. Norms, moments and the target network are left alone; a
    projection that follows restores each matrix's norm and leaves what differs between its vectors. shrinkage 1 is off.

    At a change of data call `apply` with the losses of the new minibatches, as in the paper. In a loop that does not,
    the method acts every `period` updates, or `at` one, with the training gradients since the last time, penalties
    included. Only gradients with a weight above 1e-8 in the average are collected. at "now": after the first update;
    "task": at each change of task, with the gradients of the task before, if there were some.

    An average shorter than 1e-8 has no direction: the dot product is then divided by 1e-8 in place of its length (the
    bound of torch's cosine_similarity), so the cosine goes to 0 with the length. A vector that gets no gradients any
    more is therefore multiplied by `shrinkage`; at once if alpha is close to 1, where only the last gradients count.
    Source: arXiv 2410.23495 and its authors' code, with alpha and shrinkage (its λ) 0.3 for CIFAR-10. The paper is
    supervised; there is no published value for Atari, and the default period is this project's.
    """

    def __init__(self, alpha: float = 0.3, shrinkage: float = 0.3, period: float = 40_000, at: At = None):
        self.alpha = check_number("dash: alpha", alpha, high=1)
        self.shrinkage = check_number("dash: shrinkage", shrinkage, high=1)
        self.timing = Timing("dash", period, at)
        if not alpha:
            raise ValueError("dash: alpha=0: it has to be above 0, or no gradient is ever seen")
        self._parameters: list[Tensor] = []
        self._average: list[Tensor] = []

    @property
    def is_off(self) -> bool:
        return self.shrinkage == 1 or self.timing.is_off

    def attach(self, network: nn.Module, target: nn.Module | None, optimizer: Optimizer) -> None:
        layers = trainable_layers(network)
        self._parameters = [layer.weight for layer in layers]
        biases = [layer._parameters.get("bias") for layer in layers]  # NaP may leave a buffer of that name
        self._parameters += [bias for bias in biases if bias is not None]
        self._average = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._gathered = False

    def after_update(self, update: int, features: Features | None = None) -> None:
        if self.is_off:
            return
        if self._updates_left(update) < self._memory:
            pairs = zip(self._average, self._parameters, strict=True)
            self._gather([(average, p.grad) for average, p in pairs if p.grad is not None])
            self._gathered = True
        if self.timing.due(update):
            self._shrink()

    def task_changed(self, update: int) -> None:
        if not self.is_off and self._gathered and self.timing.due_at_task(update):
            self._shrink()

    def _updates_left(self, update: int) -> float:
        """Updates until the method acts; 0 if that may be at once."""
        at, period = self.timing.at, self.timing.period
        if at is None:
            return -update % int(period)
        if at == "task":
            return 0
        if at == "now":
            return math.inf if self.timing.acted else 0
        return at - update if update <= at else math.inf

    def apply(self, losses: Iterable[Tensor]) -> None:
        """Shrink by the gradients of losses of the present weights; the last loss has the largest weight.

        Pass a generator, so that each minibatch's graph is freed after its use. No `.grad` changes.
        """
        if self.shrinkage == 1:
            return
        torch._foreach_zero_(self._average)
        for loss in losses:
            gradients = torch.autograd.grad(loss, self._parameters, materialize_grads=True)
            self._gather(list(zip(self._average, gradients, strict=True)))
        self._shrink()

    def state_dict(self) -> dict[str, Any]:
        return {"average": self._average, "gathered": self._gathered, **self.timing.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for average, saved in zip(self._average, state["average"], strict=True):
            average.copy_(saved)
        self._gathered = state.get("gathered", True)  # earlier versions had no changes of task
        self.timing.load_state_dict(state)

    @property
    def _memory(self) -> int:
        """How many of the last gradients weigh more than 1e-8; with a period at most those of one."""
        most = self.timing.period if self.timing.at is None else math.inf
        return 1 if self.alpha == 1 else math.ceil(min(math.log(1e-8) / math.log1p(-self.alpha), most))

    @torch.no_grad()
    def _gather(self, pairs: list[tuple[Tensor, Tensor]]) -> None:
        if pairs:
            averages, gradients = map(list, zip(*pairs, strict=True))
            torch._foreach_mul_(averages, 1 - self.alpha)
            torch._foreach_add_(averages, gradients, alpha=-self.alpha)

    @torch.no_grad()
    def _shrink(self) -> None:
        """Shrink every vector, and start a new average."""
        for parameter, average in zip(self._parameters, self._average, strict=True):
            leading = min(parameter.ndim - 1, 2)  # 0 for a bias, 1 for a linear layer, 2 for a convolution
            cosine = F.cosine_similarity(parameter.flatten(leading), average.flatten(leading), dim=-1)
            parameter.mul_(cosine.clamp(self.shrinkage, 1).reshape(*cosine.shape, *[1] * (parameter.ndim - leading)))
        torch._foreach_zero_(self._average)
        self._gathered = False
