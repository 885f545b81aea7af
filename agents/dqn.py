"""Deep Q-network (Mnih et al. 2015) with Huber loss and double Q-learning: `python -m agents.dqn`."""

from __future__ import annotations

if __name__ == "__main__":  # the command line answers before torch is imported
    from agents.cli import main

    raise SystemExit(main("dqn"))

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from tensordict import TensorDictBase
from torch import Tensor, nn
from torch.optim import Optimizer

import nap
from agents.replica import Replica
from experiment.guard import SkipNonFinite
from plasticity.features import FeatureTap
from plasticity.method import Method

Metrics = dict[str, Tensor]


class DQN:
    """A Q-learning agent; owns network, target network, optimiser, schedule and plasticity methods.

    The optimiser's parameters are the fp32 `network`. Passes run on `online`, which is that network or a bf16 replica
    of it. A subclass overrides one of the points in the order of the computation: `targets`, `loss`, `after_update`.
    Source: arXiv 1312.5602, nature14236; double Q-learning arXiv 1509.06461.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        schedule: nap.Schedule,
        methods: Sequence[Method] = (),
        *,
        double_q: bool = True,
        dtype: torch.dtype = torch.float32,
        compile: bool = False,
        skip: SkipNonFinite | None = None,
    ):
        self.network, self.optimizer, self.schedule, self.methods = network, optimizer, schedule, tuple(methods)
        self.double_q, self.skip = double_q, skip
        self.replica = Replica(network, dtype)
        self.online = self.replica.module
        self.target = deepcopy(self.online).requires_grad_(False)
        for method in self.methods:
            method.attach(network, self.target, optimizer)
        self.replica.follow()
        self.tap = FeatureTap(self.online, self.methods)
        self.updates = 0
        self._loss = torch.compile(self.loss, fullgraph=True, dynamic=False) if compile else self.loss
        self._forward = torch.compile(self.target, fullgraph=True, dynamic=False) if compile else self.target

    @torch.no_grad()
    def act(self, obs: Tensor) -> Tensor:
        """Greedy actions: uint8 [N, stack, H, W] -> int64 [N]."""
        return self.greedy(self.online, obs)

    def greedy(self, network: nn.Module, obs: Tensor) -> Tensor:
        """The actions that `network`, one of this agent's kind, values most: uint8 [N, stack, H, W] -> int64 [N]."""
        return network(obs).argmax(-1)

    @torch.no_grad()
    def bootstrap(self, block: TensorDictBase) -> list[TensorDictBase]:
        """K minibatches as a list, each with `target_next`, the target network's output for its next observations.

        The target network stands still within a block, so all [K, B] go through it in one pass.
        """
        next_obs = block["next_obs"].flatten(0, 1)
        block["target_next"] = self._forward(next_obs).unflatten(0, block.batch_size)
        return list(block.unbind(0))

    def targets(self, batch: TensorDictBase) -> Tensor:
        """Regression targets [B]: R + discount · Q_target(s', argmax_a Q(s', a)), or the target's own maximum."""
        chooser = self.online(batch["next_obs"]) if self.double_q else batch["target_next"]
        best = chooser.argmax(-1, keepdim=True)
        return batch["reward"] + batch["discount"] * batch["target_next"].gather(-1, best).squeeze(-1).float()

    def loss(self, batch: TensorDictBase) -> tuple[Tensor, Metrics]:
        """The scalar to minimise, and metrics; the whole is one compiled graph, and gives the features of `obs` too."""
        with torch.no_grad():
            targets = self.targets(batch)
        values = self.online(batch["obs"]).gather(-1, batch["action"].unsqueeze(-1)).squeeze(-1).float()
        loss = F.huber_loss(values, targets)
        errors = (targets - values).detach().abs()
        metrics = {"loss": loss.detach(), "q": values.detach().mean(), "td_error": errors.mean()}
        for method in self.methods:
            if (penalty := method.penalty()) is not None:
                loss = loss + penalty
        return loss, metrics

    def update(self, batch: TensorDictBase) -> Metrics:
        """One optimiser step on one minibatch from `bootstrap`; metrics stay tensors."""
        self.replica.zero_grad()
        loss, metrics = self._loss(batch)
        loss.backward()
        self.replica.collect_gradients()
        if self.skip is not None:
            self.skip.look(loss)
        self.optimizer.step()
        self.after_update()
        return metrics

    def after_update(self) -> None:
        """What follows the optimiser's step: the methods in their order, then the replica."""
        self.updates += 1
        for method in self.methods:
            method.after_update(self.updates, self.tap.features)
        self.replica.refresh()

    def sync_target(self) -> None:
        """Copy the online network into the target network."""
        torch._foreach_copy_(list(self.target.state_dict().values()), list(self.online.state_dict().values()))

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "target": self.target.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "methods": [method.state_dict() for method in self.methods],
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave, into the existing tensors."""
        self.network.load_state_dict(state["network"])
        self.replica.refresh()
        self.target.load_state_dict(state["target"])
        nap.load_optimizer_state(self.optimizer, state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        for method, saved in zip(self.methods, state["methods"], strict=True):
            method.load_state_dict(saved)
        self.updates = state["updates"]
