"""C-CHAIN, continual churn approximated reduction (Tang et al. 2025), and CHAIN (Tang & Berseth 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer

from experiment.storage.views import stacked
from plasticity.method import (
    Batch,
    EachMember,
    Features,
    Method,
    StackedNetworks,
    check_number,
    check_same,
    check_whole,
)

MOST = 10_000_000
"""Longest window: its losses are a part of every checkpoint."""


class CChain(Method):
    """Hold the outputs on a second minibatch near those of the weights before the last update.

    Adds λ times the mean squared difference between the network's outputs on a second minibatch and what the weights
    of one update ago give there, logits of a distribution or of classes included. That minibatch is drawn like the
    update's and no update since has learned from it. λ is `strength` until `after` updates are made; from then on it is
    `ratio` times the mean |loss| over the mean squared difference, both over the last `window` updates. With ratio 0 it
    stays: CHAIN with a fixed λ is `strength=100,ratio=0`.

    Both passes are those of the fp32 network, with the same noise in noisy layers: in bf16 rounding would be larger
    than the change of one update. The target network is left alone.
    Source: arXiv 2506.00592 (CHAIN: arXiv 2409.04792) and its authors' double DQN on MinAtar, whose values are the
    defaults; their loss is the squared error of Q.
    """

    def __init__(self, strength: float = 50.0, ratio: float = 0.01, after: int = 10_000, window: int = 50_000):
        self.strength = check_number("c-chain: strength", strength)
        self.ratio = check_number("c-chain: ratio", ratio)
        self.after = check_whole("c-chain: after", after, low=2)
        self.window = check_whole("c-chain: window", window, low=1, high=MOST)
        self.wants_reference = not self.is_off

    @property
    def is_off(self) -> bool:
        return not self.strength

    def attach(self, network: nn.Module, target: nn.Module | None, optimizer: Optimizer) -> None:
        if self.is_off:
            return
        self._network = network
        self._present: list[Tensor] = list(network.parameters())
        self._names = [name for name, _ in network.named_parameters()]
        self._before = [parameter.detach().clone() for parameter in self._present]
        device = self._present[0].device
        self._coefficient = torch.tensor(float(self.strength), device=device)
        self._recent = torch.zeros(2, self.window, device=device)  # losses, and squared differences
        self._found = torch.zeros(2, device=device)
        self._count = 0
        optimizer.register_step_pre_hook(self._remember)

    @torch.no_grad()
    def _remember(self, *_: Any) -> None:
        """Keep the weights that the loss was computed with."""
        torch._foreach_copy_(self._before, self._present)

    def batch_penalty(self, batch: Batch) -> Tensor | None:
        if self.is_off:
            return None
        assert batch.reference is not None, "C-CHAIN needs a second minibatch"
        with torch.no_grad():
            weights = dict(zip(self._names, self._before, strict=True))
            before = functional_call(self._network, weights, (batch.reference,))
        churn = F.mse_loss(self._network(batch.reference), before)
        self._found = torch.stack([batch.loss.abs(), churn.detach()])
        return self._coefficient * churn

    @torch.no_grad()
    def after_update(self, update: int, features: Features | None = None) -> None:
        if self.is_off:
            return
        self._recent[:, self._count % self.window].copy_(self._found.nan_to_num(0.0, 0.0, 0.0))
        self._count += 1
        if self.ratio and self._count >= self.after:
            # the first update has no weights before it, so its difference is 0 and does not count
            seen = min(self._count, self.window), max(min(self._count - 1, self.window), 1)
            loss, churn = self._recent[0].sum() / seen[0], self._recent[1].sum() / seen[1]
            self._coefficient.copy_(self.ratio * loss / (churn + 1e-8))

    def stacked(self, members: Sequence[Method], networks: StackedNetworks) -> Method:
        return EachMember(members) if self.is_off else StackedCChain(members, networks)  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, Any]:
        if self.is_off:
            return {}
        tensors = {"before": self._before, "recent": self._recent, "coefficient": self._coefficient}
        return tensors | {"count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.is_off:
            return
        check_same("c-chain: window", self.window, state["recent"].shape[1])
        for own, saved in zip(self._before, state["before"], strict=True):
            own.copy_(saved)
        self._recent.copy_(state["recent"])
        self._count = state["count"]
        self._coefficient.fill_(float(self.strength))  # which a fork may have changed
        if self.ratio and self._count >= self.after:
            self._coefficient.copy_(state["coefficient"])


class StackedCChain(Method):
    """C-CHAIN on N networks: the passes of all are one call, and each has its own coefficient."""

    def __init__(self, members: Sequence[CChain], networks: StackedNetworks) -> None:
        self.members, self.networks = list(members), networks
        columns = [stacked(own) for own in zip(*(member._before for member in members), strict=True)]
        self.before = dict(zip(members[0]._names, columns, strict=True))
        self.coefficients = torch.stack([member._coefficient for member in members])
        self.found = torch.stack([member._found for member in members])
        for number, member in enumerate(members):
            member._before = [column[number] for column in columns]
            member._coefficient = self.coefficients[number]

    def batch_penalty(self, batch: Batch) -> Tensor:
        assert batch.reference is not None, "C-CHAIN needs a second minibatch"
        with torch.no_grad():
            before = self.networks.outputs(batch.reference, self.before)
        churn = (self.networks.outputs(batch.reference) - before).square().flatten(1).mean(1)
        self.found = torch.stack([batch.loss.abs(), churn.detach()], 1)
        return (self.coefficients * churn).sum()

    def after_update(self, update: int, features: Features | None = None) -> None:
        for member, found in zip(self.members, self.found, strict=True):
            member._found = found
            member.after_update(update)
