"""Methods in a training loop of your own: random labels that change with each task, and the loss at each task's end.

python -m examples.own_loop examples.new_method:MyMethod redo:period=100
"""

import sys

import torch
from torch import nn

from plasticity.features import FeatureTap
from plasticity.registry import make


def train(specs: list[str], tasks: int = 5, updates: int = 200, seed: int = 0) -> list[float]:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    methods, losses = make(specs, seed), []
    for method in methods:
        method.prepare(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for method in methods:
        method.attach(network, None, optimizer)
    tap = FeatureTap(network, methods)
    for task in range(tasks):
        inputs, labels = torch.randn(64, 16), torch.randint(4, (64,))
        reference = torch.randn(64, 16) if tap.wants_reference else None  # inputs that no update learns from
        for update in range(task * updates + 1, (task + 1) * updates + 1):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(inputs), labels)
            tap.penalised(loss, inputs, reference).backward()
            optimizer.step()
            for method in methods:
                method.after_update(update, tap.features)
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    print(*(f"{loss:.4f}" for loss in train(sys.argv[1:])))
