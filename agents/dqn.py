"""Deep Q-network (Mnih et al. 2015), with options for every part of Rainbow: `python -m agents.dqn`."""

from __future__ import annotations

if __name__ == "__main__":  # the command line answers before torch is imported
    from agents.cli import main

    raise SystemExit(main("dqn"))

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

import nap
from agents.distributional import wide
from agents.networks.layers import Noise
from agents.networks.low_precision import LowPrecisionCopy
from agents.values import Scalar, Values, chosen
from experiment.guard import SkipNonFinite
from experiment.layout import compiled
from nap.metrics import untouched
from plasticity.features import FeatureTap
from plasticity.method import Method, zero_moments

Metrics = dict[str, Tensor]
Augment = Callable[[TensorDictBase, Generator], None]


class DQN:
    """A Q-learning agent; owns network, target network, optimiser, schedule and plasticity methods.

    `values` says what the network's outputs mean, `augment` changes a block of minibatches in place, and the noise of
    its noisy layers is drawn again before each action, update and pass of the target network: all from `generator`.
    The optimiser's parameters are the fp32 `network`. Passes run on `online`, which is that network or a bf16 copy
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
        values: Values | None = None,
        augment: Augment | None = None,
        generator: Generator | None = None,
        max_grad_norm: float | None = None,
        double_q: bool = True,
        dtype: torch.dtype = torch.float32,
        compile: bool = False,
        skip: SkipNonFinite | None = None,
    ):
        self.network, self.optimizer, self.schedule, self.methods = network, optimizer, schedule, tuple(methods)
        self.values, self.augment = values or Scalar(), augment
        self.double_q, self.max_grad_norm, self.skip = double_q, max_grad_norm, skip
        self.low_precision = LowPrecisionCopy(network, dtype)
        self.online = self.low_precision.module
        self.target = deepcopy(self.online).requires_grad_(False)
        for method in self.methods:
            method.attach(network, self.target, optimizer)
        self.low_precision.follow()
        self.generator = generator or Generator(next(network.parameters()).device)
        self.noise = Noise(network, self.online, self.target, generator=self.generator)
        self.tap = FeatureTap(self.online, self.methods)
        self.updates = 0
        self._backward = compiled(self.backward, network) if compile else self.backward
        self._forward = compiled(self.target, network) if compile else self.target
        self._one_graph = compile and not self.noise.layers
        self.lookahead = int(self.tap.wants_reference)

    @torch.no_grad()
    def act(self, obs: Tensor) -> Tensor:
        """Greedy actions under new noise, if there is any: uint8 [N, stack, H, W] -> int64 [N]."""
        self.noise.resample()
        return self.greedy(self.online, obs)

    @torch.no_grad()
    def act_without_noise(self, obs: Tensor) -> Tensor:
        """Greedy actions: uint8 [N, stack, H, W] -> int64 [N]."""
        with untouched(self.online):
            return self.greedy(self.online, obs)

    def greedy(self, network: nn.Module, obs: Tensor) -> Tensor:
        """The actions that `network`, one of this agent's kind, values most: uint8 [N, stack, H, W] -> int64 [N]."""
        return self.values.mean(network(obs)).argmax(-1)

    @torch.no_grad()
    def bootstrap(self, block: TensorDictBase) -> list[TensorDictBase]:
        """K minibatches as a list, each with `target_next`, the target network's output for its next observations.

        The target network does not change within a block, so all [K, B] go through it in one pass, with one noise. A
        single minibatch goes through it in the compiled graph of its update instead, if there is no noise. A block has
        `lookahead` minibatches more than are returned.
        """
        if self.augment is not None:
            self.augment(block, self.generator)
        block = self.with_references(block)
        self.noise.resample()
        if self._one_graph and len(block) == 1:
            return list(block.unbind(0))
        next_obs = block["next_obs"].flatten(0, 1)
        block["target_next"] = self._forward(next_obs).unflatten(0, block.batch_size)
        return list(block.unbind(0))

    def with_references(self, block: TensorDictBase) -> TensorDictBase:
        """A block of minibatches [K, ...] whose `reference` is a second one's `obs`, if a method wants some.

        It is the next one, which no update since the last sampling has learned from; the last one is for that alone.
        """
        if not self.lookahead:
            return block
        following = block["obs"][1:]
        block = block[:-1]
        block["reference"] = following
        return block

    def targets(self, batch: TensorDictBase) -> Tensor:
        """What Q(s, a) is to be [B] or [B, size]: R + discount · Z_target(s', argmax_a Q(s', a)).

        With double Q-learning the argmax is that of the online network, otherwise that of the target network. With
        noisy layers the online network has the same noise in the argmax and in Q(s, a) (DQN Zoo draws another noise,
        Dopamine takes the target's).
        """
        chooser = self.online(batch["next_obs"]) if self.double_q else batch["target_next"]
        best = self.values.mean(chooser).argmax(-1)
        return self.values.target(chosen(batch["target_next"], best), batch["reward"], batch["discount"])

    def loss(self, batch: TensorDictBase) -> tuple[Tensor, Metrics]:
        """The scalar to minimise, and metrics. Compiled, it is one graph with its gradients and the features of `obs`.

        The scalar is the mean of the transitions' losses, which are the metric "losses" [B], times their `weight`.
        """
        with torch.no_grad():
            targets = self.targets(batch)
        out = wide(chosen(self.online(batch["obs"]), batch["action"]))
        losses = self.values.loss(out, targets)
        loss = (losses * batch["weight"]).mean()
        q = self.values.mean(out.detach())
        error = (self.values.expected(targets) - q).abs().mean()
        metrics = {"loss": loss.detach(), "q": q.mean(), "td_error": error, "losses": losses.detach()}
        reference = batch["reference"] if self.lookahead else None
        return self.tap.penalised(loss, batch["obs"], reference), metrics

    def backward(self, tensors: dict[str, Tensor]) -> tuple[Tensor, Metrics]:
        """The loss of a minibatch, and its metrics with `target_next`; the gradients go into the online parameters."""
        batch = TensorDict(tensors, batch_size=tensors["action"].shape)
        if "target_next" not in tensors:
            with torch.no_grad():
                batch["target_next"] = self.target(batch["next_obs"])
        loss, metrics = self.loss(batch)
        loss.backward()
        return loss.detach(), metrics | {"target_next": batch["target_next"]}

    def update(self, batch: TensorDictBase) -> Metrics:
        """One optimiser step on one minibatch from `bootstrap`, which gets its `losses` [B]; metrics stay tensors."""
        self.noise.resample()
        self.low_precision.zero_grad()
        loss, metrics = self._backward(dict(batch.items()))  # type: ignore[arg-type]  # no nested ones
        batch["losses"], batch["target_next"] = metrics.pop("losses"), metrics.pop("target_next")
        self.low_precision.collect_gradients()
        if self.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.max_grad_norm)
        if self.skip is not None:
            self.skip.look(loss)
        self.optimizer.step()
        self.after_update()
        return metrics

    def after_update(self) -> None:
        """Run the methods in their order after the optimiser's step, then refresh the low-precision copy."""
        self.updates += 1
        for method in self.methods:
            method.after_update(self.updates, self.tap.features)
        self.low_precision.refresh()

    @torch.no_grad()
    def td_error(self, batch: TensorDictBase) -> Tensor:
        """Mean absolute TD error of transitions [B], a scalar on the device; nothing changes, nothing is drawn."""
        with untouched(self.online), untouched(self.target):
            targets = self.targets(batch.replace({"target_next": self.target(batch["next_obs"])}))
            q = self.values.mean(wide(chosen(self.online(batch["obs"]), batch["action"])))
        return (self.values.expected(targets) - q).abs().mean()

    def change_task(self, fresh_optimizer: bool = False) -> None:
        """Tell the methods, in their order, that another task begins; `fresh_optimizer` zeroes the optimiser before."""
        if fresh_optimizer:
            zero_moments(self.optimizer, self.network.parameters(), step=True)
        for method in self.methods:
            method.task_changed(self.updates)
        self.low_precision.refresh()

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
            "generator": self.generator.get_state(),
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a `state_dict` into the existing tensors."""
        self.network.load_state_dict(state["network"])
        self.low_precision.refresh()
        self.target.load_state_dict(state["target"])
        nap.load_optimizer_state(self.optimizer, state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        for method, saved in zip(self.methods, state["methods"], strict=True):
            method.load_state_dict(saved)
        self.generator.set_state(state["generator"].cpu())
        self.updates = state["updates"]
