"""Metrics of the learner: means between two rows, and measurements on a fixed batch of states."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

import nap
from agents.dqn import DQN, Metrics
from agents.training.divergence import Batch, largest_gradient, statistics
from experiment.guard import LossWatch, NonFinite, bad_names, check_finite, magnitudes
from nap.metrics import untouched
from replay import FrameReplay

STATES = 256
"""States in the probe batch."""
PATIENCE = 100
"""Updates that may be left out one after another before the run is stopped."""
FEATURE_METRICS = ("dormant_sokar", "erank_roy", "srank_kumar")


class Monitor:
    """Means of the update metrics; effective learning rate, weight norm, gradient norm and rotation per layer.

    Only `report` reads from the device. Rotation is that of the first update after a report: only that update needs a
    copy of the weights. The gradient is that of the last update, penalties included. Updates that `--on-nonfinite skip`
    leaves out count only in "skipped_updates".
    """

    def __init__(self, agent: DQN):
        self.agent = agent
        self.good: dict[str, float] = {}
        self.idle = 0
        self._restart()

    def _restart(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0
        self.before: dict[str, Tensor] | None = None
        self.rotation: dict[str, Tensor] = {}
        self.watch = LossWatch()
        self.watched_from = self.agent.updates
        self.last: tuple[Batch, Metrics] | None = None
        if self.agent.skip is not None:
            self.agent.skip.count.zero_()

    def before_update(self) -> None:
        """Copy the weights if the next update's rotation will be measured."""
        self.before = None if self.count else nap.snapshot(self.agent.network)

    def after_update(self, batch: Batch, metrics: Metrics) -> None:
        """Add up what the agent's update gave."""
        self.watch.note(metrics["loss"])
        self.last = batch, metrics
        if self.agent.skip is not None:
            metrics = {name: value.masked_fill(self.agent.skip.left_out, 0) for name, value in metrics.items()}
        if self.before is None:
            torch._foreach_add_(list(self.sums.values()), list(metrics.values()))
        else:
            self.sums = {name: value.clone() for name, value in metrics.items()}
            self.rotation = nap.rotation(self.before, nap.snapshot(self.agent.network, copy=False))
            self.before = None
        self.count += 1

    def report(self) -> dict[str, float]:
        """Metrics since the last report, read from the device at once.

        Raises NonFinite if the agent's state is not finite, or a loss since then, unless such updates are left out.
        """
        metrics = dict(self.sums)
        metrics["lr"] = torch.as_tensor(self.agent.optimizer.param_groups[0]["lr"])
        network, optimizer = self.agent.network, self.agent.optimizer
        metrics |= {f"elr/{name}": rate for name, rate in nap.effective_lr(network, optimizer).items()}
        metrics |= {f"norm/{name}": norm for name, norm in nap.weight_norms(network).items()}
        metrics |= {f"gradient/{name}": norm for name, norm in nap.gradient_norms(network).items()}
        metrics |= {f"rotation/{name}": angle for name, angle in self.rotation.items()}
        if self.agent.skip is not None:
            metrics["skipped_updates"] = self.agent.skip.count
        state = {f"state/{name}": largest for name, largest in magnitudes(self.agent.state_dict()).items()}
        values = read({**metrics, **state, "fine": self.watch.fine(metrics["lr"].device)})
        row = {name: values[name] for name in metrics}
        counted = self.count - row.get("skipped_updates", 0)
        row |= {name: row[name] / counted if counted else math.nan for name in self.sums}
        self._check(row, int(values["fine"]), {name.removeprefix("state/"): values[name] for name in state})
        self._restart()
        self.good = row
        return row

    def check(self) -> None:
        """Raise NonFinite if the agent's state is not finite. Called before a save; waits for the device."""
        try:
            check_finite(self.agent.state_dict())
        except NonFinite:
            self.report()  # its message has all details
            raise

    def _check(self, row: dict[str, float], fine: int, state: dict[str, float]) -> None:
        faults = []
        if names := bad_names(state):
            faults.append(f"not finite: {names}")
        if fine < self.watch.seen and (names or self.agent.skip is None):
            faults.append(f"the loss of update {self.watched_from + fine + 1:,} was the first that is not finite")
        if self.count:
            self.idle = self.idle + self.count if row.get("skipped_updates") == self.count else 0
        if self.idle >= PATIENCE:
            faults.append(f"the last {self.idle:,} updates were all left out")
        if faults:
            raise NonFinite(self._story("; ".join(faults), row))

    def _story(self, faults: str, row: dict[str, float]) -> str:
        story = f"{faults}; noticed at update {self.agent.updates:,}"
        if self.good:
            means = ", ".join(f"{name} {self.good[name]:.3g}" for name in self.sums if name in self.good)
            story += f". All was finite up to update {self.watched_from:,}"
            story += f", with means of {means}, {largest_gradient(self.good)}" if means else ""
        if self.last is not None:
            story += f". The last update: {statistics(*self.last, row)}"
        return story

    def state_dict(self) -> dict[str, Any]:
        """What the next report is made of."""
        skipped = None if self.agent.skip is None else self.agent.skip.count
        means = {"sums": self.sums, "count": self.count, "rotation": self.rotation}
        return means | {"skipped": skipped, "idle": self.idle}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave; after the agent has."""
        self._restart()
        device = next(self.agent.network.parameters()).device
        self.sums = {name: total.to(device, copy=True) for name, total in state["sums"].items()}
        self.rotation = {name: angle.to(device, copy=True) for name, angle in state["rotation"].items()}
        self.count, self.idle = state["count"], state["idle"]
        if self.agent.skip is not None and state["skipped"] is not None:
            self.agent.skip.count.copy_(state["skipped"])


class StateProbe:
    """Measures the network on one batch of states, drawn once from the replay and kept for the whole run, or visit.

    It measures the fp32 network in eval mode: dormant units and ranks of features per layer (`nap.Probe`; without the
    frozen copies of plasticity injection), units dormant by gradient (of a fixed random sum of the outputs: a probe has
    no targets), and policy churn, the share of states whose greedy action changed:
    "policy_churn" since the measurement before, "policy_churn_one_update" by the first update after that measurement
    (Schaul et al. 2022, arXiv 2206.00730, average the latter). Agent, replay and global random numbers stay as they
    are. Only `measure` waits for the device. With `on` false nothing is measured.
    Raises ValueError for a network with a nonlinearity that is no module, if `on` is true.
    """

    def __init__(self, agent: DQN, seed: int, on: bool = True):
        self.agent, self.seed = agent, seed
        self.device = next(agent.network.parameters()).device
        nothing = torch.empty(0, dtype=torch.uint8, device=self.device)
        self.probe = nap.Probe(agent.network, nothing, FEATURE_METRICS) if on else None
        if self.probe is not None:
            found = self.probe.layers
            self.probe.layers = {name: found[name] for name in found if _learns(agent.network, name)}
        self.actions: Tensor | None = None
        self.churn: Tensor | None = None
        self.watches = False
        self.metrics: dict[str, float] = {}
        self._unreported: dict[str, float] = {}

    def forget(self) -> None:
        """Measure nothing until other states are drawn: the game has changed."""
        self.actions, self.churn, self.watches = None, None, False
        if self.probe is not None:
            self.probe.load_state_dict({"batch": (self.probe.batch[0].new_empty(0),), "kept": {}})

    def draw(self, replay: FrameReplay, newest: int | None = None) -> None:
        """Choose the states and measure once, the first time that the replay holds enough of them.

        newest: choose among so many of its newest steps; None: among all.
        """
        if self.probe is None or self.actions is not None:
            return
        if (obs := draw_states(replay, STATES, self.seed, newest)) is None:
            return
        self.probe.load_state_dict({"batch": (obs,), "kept": {}})
        self.measure()

    def after_update(self) -> None:
        """Measure the policy churn of the first update after a measurement; ignore other updates."""
        if self.watches and self.actions is not None:
            self.churn = _share_changed(self.actions, self._greedy())
            self.watches = False

    def measure(self) -> None:
        """Measure, if the states are drawn."""
        if self.probe is None or self.probe.batch[0].numel() == 0:
            return
        found, actions = self.probe.measure(), self._greedy()
        with self.agent.tap.paused():
            found |= nap.dormant_by_gradient(self.agent.network, self.probe.batch, layers=list(self.probe.layers))
        if self.actions is not None:
            found["policy_churn"] = _share_changed(self.actions, actions)
        if self.churn is not None:
            found["policy_churn_one_update"] = self.churn
        self.actions, self.churn, self.watches = actions, None, True
        self.metrics = self._unreported = read(found)

    def report(self) -> dict[str, float]:
        """The metrics of the last measurement, once."""
        unreported, self._unreported = self._unreported, {}
        return unreported

    def _greedy(self) -> Tensor:
        assert self.probe is not None
        network = self.agent.network
        with torch.no_grad(), untouched(network):
            return self.agent.greedy(network, self.probe.batch[0])

    def state_dict(self) -> dict[str, Any] | None:
        """The states, and the values that later measurements compare with; None before the states are drawn."""
        if self.probe is None or self.actions is None:
            return None
        return {
            "states": self.probe.batch[0],
            "actions": self.actions,
            "churn": self.churn,
            "watches": self.watches,
            "figures": self.metrics,
        }

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Take back what `state_dict` gave."""
        if self.probe is None or state is None:
            return
        self.probe.load_state_dict({"batch": (state["states"],), "kept": {}})
        self.actions = state["actions"].to(self.device)
        self.churn = None if state["churn"] is None else state["churn"].to(self.device)
        self.watches, self.metrics = state["watches"], state["figures"]


def draw_states(replay: FrameReplay, count: int, seed: int, newest: int | None = None) -> Tensor | None:
    """Different states of a replay [count, stack, *frame_shape], None if it has fewer; its generator stays as it is.

    They are among so many of its `newest` steps (None: all), and lie in a buffer of the replay.
    """
    legal = replay.num_legal()
    legal = legal if newest is None else min(legal, newest)
    if legal < count:
        return None
    order = torch.randperm(legal, generator=torch.Generator().manual_seed(seed))
    index = replay.head * replay.num_envs - 1 - order[:count].to(replay.device)
    return replay.gather(index.unsqueeze(0))["obs"].squeeze(0)


def _learns(network: nn.Module, name: str) -> bool:
    """Whether the innermost module with weights that holds a layer has one that is learned."""
    while True:
        name = name.rpartition(".")[0]
        weights = list(network.get_submodule(name).parameters())
        if weights or not name:
            return any(weight.requires_grad for weight in weights)


def _share_changed(before: Tensor, after: Tensor) -> Tensor:
    return (before != after).float().mean()


def read(metrics: dict[str, Tensor]) -> dict[str, float]:
    """Scalars as numbers, read from the device at once."""
    values = torch.stack([value.detach().double() for value in metrics.values()]).tolist()
    return dict(zip(metrics, values, strict=True))
