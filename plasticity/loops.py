"""A supervised loop on the interface of methods, with small networks, for tests of methods."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nap
from plasticity.features import FeatureTap
from plasticity.method import Method


def mlp(seed: int = 0, kind: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """A network of inputs [B, 6]."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), kind(), nn.Linear(16, 12), kind(), nn.Linear(12, 2))


def cnn(seed: int = 0, kind: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Inputs [B, 2, 8, 8]; each of the 5 channels behind the second convolution has 4 columns in the linear layer."""
    torch.manual_seed(seed)
    convs = [nn.Conv2d(2, 7, 3, 2), kind(), nn.Conv2d(7, 5, 2), kind(), nn.Flatten()]
    return nn.Sequential(*convs, nn.Linear(20, 9), kind(), nn.Linear(9, 2))


def linear(seed: int = 0, kind: type[nn.Module] = nn.ReLU) -> nn.Module:
    """A network without a hidden layer."""
    torch.manual_seed(seed)
    return nn.Linear(6, 2)


class Functional(nn.Module):
    """A network whose nonlinearity is a call and no module."""

    def __init__(self, seed: int = 0, kind: type[nn.Module] = nn.ReLU):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(F.relu(self.first(x)))
        return out


Build = Callable[[int, type[nn.Module]], nn.Module]
INPUTS: dict[Build, tuple[int, ...]] = {mlp: (6,), cnn: (2, 8, 8), linear: (6,), Functional: (6,)}
"""Networks by what builds them, with the shape of an input."""


TASK = 5
"""The update after which methods are told that another task begins."""


class Loop:
    """A network learning to map noise to noise, with methods; each `step` is one update.

    frozen: the first layer does not learn. backend: the loss is compiled by it, as one graph. bf16: passes by autocast.
    """

    def __init__(
        self,
        build: Build,
        *methods: Method,
        seed: int = 0,
        normalized: bool = False,
        kind: type[nn.Module] = nn.ReLU,
        has_target: bool = True,
        frozen: bool = False,
        bf16: bool = False,
        backend: Callable[..., Any] | None = None,
    ):
        self.build, self.network, self.methods, self.bf16 = build, build(seed, kind), methods, bf16
        if normalized:
            nap.normalize(self.network)
        if frozen:
            next(self.network.children()).requires_grad_(False)
        for method in methods:
            method.prepare(self.network)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=0.01)
        self.target = deepcopy(self.network).requires_grad_(False) if has_target else None
        for method in methods:
            method.attach(self.network, self.target, self.optimizer)
        self.tap = FeatureTap(self.network, methods)
        self.updates = 0
        self._loss = self.loss if backend is None else torch.compile(self.loss, fullgraph=True, backend=backend)

    def batch(self, size: int = 32) -> tuple[Tensor, Tensor]:
        """Inputs and labels that depend on the number of the update alone."""
        rng = torch.Generator().manual_seed(self.updates)
        return torch.randn(size, *INPUTS[self.build], generator=rng), torch.randn(size, 2, generator=rng)

    def reference(self, size: int = 32) -> Tensor:
        """Inputs of a second minibatch, which depend on the number of the update alone."""
        rng = torch.Generator().manual_seed(1_000 + self.updates)
        return torch.randn(size, *INPUTS[self.build], generator=rng)

    def loss(self, inputs: Tensor, labels: Tensor, reference: Tensor | None = None) -> Tensor:
        """The squared error and the methods' penalties."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            out = self.network(inputs)
        return self.tap.penalised((out.float() - labels).square().mean(), inputs, reference)

    def present_loss(self, size: int = 32) -> Tensor:
        """The loss of the update that comes next."""
        reference = self.reference(size) if self.tap.wants_reference else None
        loss: Tensor = self._loss(*self.batch(size), reference)
        return loss

    def learn(self, size: int = 32) -> None:
        """The update up to the optimiser's step."""
        self.optimizer.zero_grad()
        self.present_loss(size).backward()
        self.optimizer.step()
        self.updates += 1

    def after(self) -> None:
        """What the methods do after the optimiser's step."""
        for method in self.methods:
            method.after_update(self.updates, self.tap.features)
        if self.updates == TASK:
            for method in self.methods:
                method.task_changed(self.updates)

    def step(self, size: int = 32) -> None:
        self.learn(size)
        self.after()

    def run(self, updates: int) -> Loop:
        """So many updates; the loop itself."""
        for _ in range(updates):
            self.step()
        return self

    def values(self) -> list[Tensor]:
        """All parameters and buffers of the network, and of the target if there is one."""
        networks = [self.network] if self.target is None else [self.network, self.target]
        return [value for network in networks for value in network.state_dict().values()]

    def state(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "target": None if self.target is None else self.target.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "methods": [method.state_dict() for method in self.methods],
            "updates": self.updates,
        }

    def load(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        if self.target is not None:
            self.target.load_state_dict(state["target"])
        self.optimizer.load_state_dict(state["optimizer"])
        for method, saved in zip(self.methods, state["methods"], strict=True):
            method.load_state_dict(saved)
        self.updates = state["updates"]
