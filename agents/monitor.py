"""What is reported of the learner between two rows of metrics."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from torch import Tensor

import nap
from agents.dqn import DQN


class Monitor:
    """Means of the update metrics; effective learning rate, norm and rotation per layer.

    Nothing is read from the device but in `report`. Rotation is that of the first update after a report, which alone
    needs a copy of the weights.
    """

    def __init__(self, agent: DQN):
        self.agent = agent
        self._restart()

    def _restart(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0
        self.rotation: dict[str, Tensor] = {}

    def update(self, batch: TensorDictBase) -> None:
        """Let the agent make one update, and watch."""
        if self.count:
            torch._foreach_add_(list(self.sums.values()), list(self.agent.update(batch).values()))
        else:
            before = nap.snapshot(self.agent.network)
            self.sums = {name: value.clone() for name, value in self.agent.update(batch).items()}
            self.rotation = nap.rotation(before, nap.snapshot(self.agent.network, copy=False))
        self.count += 1

    def report(self) -> dict[str, float]:
        """Figures since the last report, read from the device at once."""
        figures = {name: total / self.count for name, total in self.sums.items()}
        figures["lr"] = torch.as_tensor(self.agent.optimizer.param_groups[0]["lr"])
        network, optimizer = self.agent.network, self.agent.optimizer
        figures |= {f"elr/{name}": rate for name, rate in nap.effective_lr(network, optimizer).items()}
        figures |= {f"norm/{name}": norm for name, norm in nap.weight_norms(network).items()}
        figures |= {f"rotation/{name}": angle for name, angle in self.rotation.items()}
        values = torch.stack([value.detach().float() for value in figures.values()]).tolist()
        self._restart()
        return dict(zip(figures, values, strict=True))
