"""A new method is one class behind the interface, and its import path is its name; nothing is edited.

python -m agents.dqn --env Pong --plasticity examples.new_method:MyMethod:scale=1e-4
python -m examples.new_method --plasticity examples.new_method:MyMethod --plasticity redo:period=100
"""

from __future__ import annotations

import argparse

import torch
from torch import nn

from experiment.config import exit_on_bad_input
from experiment.interrupt import cli_session
from plasticity.features import FeatureTap
from plasticity.method import Method, check_number, make_generator
from plasticity.registry import make


class MyMethod(Method):
    """Adds Gaussian noise to every weight matrix after each update, `scale` times the matrix's own spread."""

    def __init__(self, scale: float = 1e-3, seed: int = 0):
        self.scale, self.seed = check_number("MyMethod: scale", scale), seed

    @property
    def is_off(self):
        return not self.scale

    def attach(self, network, target, optimizer):
        self.weights = [p for p in network.parameters() if p.ndim > 1]
        self.generator = make_generator(network, self.seed)

    @torch.no_grad()
    def after_update(self, update, features=None):
        for weight in () if self.is_off else self.weights:
            noise = torch.empty_like(weight).normal_(generator=self.generator)
            weight.add_(noise * weight.std(), alpha=self.scale)

    def state_dict(self):
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state):
        self.generator.set_state(state["generator"].cpu())


def train(specs: list[str], tasks: int = 5, updates: int = 200, seed: int = 0) -> list[float]:
    """A supervised loop on the interface: random labels that change with each task; the last loss of each task."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    methods = make(specs, seed)
    for method in methods:
        method.prepare(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for method in methods:
        method.attach(network, None, optimizer)
    tap = FeatureTap(network, methods)
    losses = []
    for task in range(tasks):
        inputs, labels = torch.randn(64, 16), torch.randint(4, (64,))
        for update in range(task * updates + 1, (task + 1) * updates + 1):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(inputs), labels)
            total = sum((p for method in methods if (p := method.penalty()) is not None), loss)
            total.backward()
            optimizer.step()
            for method in methods:
                method.after_update(update, tap.features)
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Loss on random labels at the end of each of five tasks.")
    parser.add_argument("--plasticity", action="append", default=[], metavar="METHOD")
    chosen = parser.parse_args().plasticity
    with cli_session(), exit_on_bad_input():
        print(*(f"{loss:.4f}" for loss in train(chosen)))
