"""A supervised loop on the interface, and networks for it."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn

import nap
from plasticity.features import FeatureTap
from plasticity.method import Method


def mlp(seed: int = 0, kind: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), kind(), nn.Linear(16, 12), kind(), nn.Linear(12, 2))


def cnn(seed: int = 0, kind: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Inputs [B, 2, 8, 8]; each of the 5 channels behind the second convolution has 4 columns in the linear layer."""
    torch.manual_seed(seed)
    convs = [nn.Conv2d(2, 7, 3, 2), kind(), nn.Conv2d(7, 5, 2), kind(), nn.Flatten()]
    return nn.Sequential(*convs, nn.Linear(20, 9), kind(), nn.Linear(9, 2))


INPUTS = {mlp: (6,), cnn: (2, 8, 8)}


class Loop:
    """A network learning to map noise to noise, with methods; each `step` is one update."""

    def __init__(self, build, *methods: Method, seed: int = 0, normalized: bool = False, kind=nn.ReLU):
        self.build, self.network, self.methods = build, build(seed, kind), methods
        if normalized:
            nap.normalize(self.network)
        for method in methods:
            method.prepare(self.network)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=0.01)
        self.target = deepcopy(self.network).requires_grad_(False)
        for method in methods:
            method.attach(self.network, self.target, self.optimizer)
        self.tap = FeatureTap(self.network, methods)
        self.updates = 0

    def batch(self, size: int = 32):
        rng = torch.Generator().manual_seed(self.updates)
        return torch.randn(size, *INPUTS[self.build], generator=rng), torch.randn(size, 2, generator=rng)

    def learn(self, size: int = 32):
        """The update up to the optimiser's step."""
        inputs, labels = self.batch(size)
        self.optimizer.zero_grad()
        loss = (self.network(inputs) - labels).square().mean()
        for method in self.methods:
            if (penalty := method.penalty()) is not None:
                loss = loss + penalty
        loss.backward()
        self.optimizer.step()
        self.updates += 1

    def step(self, size: int = 32):
        self.learn(size)
        for method in self.methods:
            method.after_update(self.updates, self.tap.features)

    def state(self):
        return {
            "network": self.network.state_dict(),
            "target": self.target.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "methods": [method.state_dict() for method in self.methods],
            "updates": self.updates,
        }

    def load(self, state):
        self.network.load_state_dict(state["network"])
        self.target.load_state_dict(state["target"])
        self.optimizer.load_state_dict(state["optimizer"])
        for method, saved in zip(self.methods, state["methods"], strict=True):
            method.load_state_dict(saved)
        self.updates = state["updates"]
