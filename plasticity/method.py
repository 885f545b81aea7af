"""The interface of every method against loss of plasticity."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Features = Mapping[str, Tensor]
"""Outputs of nonlinearities by module name, [B, units] or [B, channels, H, W]."""


class Batch(NamedTuple):
    """The data of an update, for a penalty on what the network computes from it."""

    inputs: Tensor
    """The network's inputs of the update's minibatch."""
    reference: Tensor | None
    """The inputs of a second minibatch, if `wants_reference`: drawn like the first, new to recent updates."""
    features: Features
    """The features of the loss's pass, with their gradients, if `wants_features`. That pass may be in bf16."""
    loss: Tensor
    """The loss without penalties, detached."""


class StackedNetworks(Protocol):
    """N networks of one structure, whose parameters are views of stacked tensors [N, ...]."""

    def whole(self, tensor: Tensor) -> Tensor:
        """The stacked tensor of a parameter of the first network."""

    def outputs(self, inputs: Tensor, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """What the networks give for inputs [N, B, ...]; `weights` are stacked ones in place of theirs, by name."""


class Method:
    """A method against loss of plasticity; override the hooks that it needs.

    The caller runs `prepare` before the optimiser exists and `attach` once after it. For each update the caller adds
    `penalty()` and `batch_penalty(batch)` to the loss (`FeatureTap.penalised`) and calls `after_update` after the
    optimiser's step, while the gradients of the step are still in `.grad`. What has to happen before the step is a hook
    of the optimiser (`register_step_pre_hook`). After `prepare` a method changes parameters only in place: a
    parameter's identity never changes, so the optimiser owns what the network uses. A method draws from its own
    generator. At strength 0 or period infinity it neither draws nor writes.
    """

    wants_features: bool = False
    """Whether the hooks get the features of the update's minibatch. Read once, when the learner is built."""

    wants_reference: bool = False
    """Whether `batch_penalty` gets a second minibatch. Read once, when the learner is built."""

    @property
    def is_off(self) -> bool:
        """Whether strength 0 or period infinity keeps the method from ever drawing or writing."""
        return False

    def prepare(self, network: nn.Module) -> None:
        """Change the network's structure."""

    def attach(self, network: nn.Module, target: nn.Module | None, optimizer: Optimizer) -> None:
        """Receive the parts that the method works on; `target` is None if the learner has none."""

    def penalty(self) -> Tensor | None:
        """A scalar of the parameters given to `attach`, added to the loss, or None. It is a part of the compiled graph.

        Where the passes run on a bf16 copy, these parameters are the fp32 originals, and the gradient reaches them.
        """
        return None

    def batch_penalty(self, batch: Batch) -> Tensor | None:
        """A scalar of the update's data, added to the loss, or None. It is a part of the compiled graph too.

        A pass of its own runs on the network given to `attach`, or on a copy, in fp32. It writes nothing that a
        checkpoint holds: only `after_update` may count, since the loss is also computed to compile it.
        """
        return None

    def after_update(self, update: int, features: Features | None = None) -> None:
        """Act after the optimiser's step; `update` counts from 1. Nothing here may wait for the device.

        `features` are those of the update's minibatch, made before the step and detached, if `wants_features`.
        """

    def task_changed(self, update: int) -> None:
        """Act, if the method wants to, where another task begins: other data, or another game, after this update.

        Learners of one task never call it. It comes between two updates, in the order of the methods.
        """

    def stacked(self, members: Sequence[Method], networks: StackedNetworks) -> Method:
        """One method for N networks in stacked tensors, given each network's own: `self` is the first.

        Of the method only `penalty` and `batch_penalty`, each the sum of the members', and `after_update` are called:
        on inputs, losses and features [N, ...], of which a penalty gets no features. The state stays in the members,
        which act on views of the stacked tensors. `EachMember` is right where `after_update` does everything.
        Raises ValueError, which names the method, if it cannot work on a fleet.
        """
        raise ValueError(f"{type(self).__name__} cannot be stacked: train these seeds one by one")

    def state_dict(self) -> dict[str, Any]:
        """The state that a checkpoint must hold."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""


class EachMember(Method):
    """Runs the `after_update` of each of N methods, on that member's features.

    Raises ValueError for methods with a penalty, which would be left out.
    """

    def __init__(self, members: Sequence[Method]) -> None:
        self.members, first = list(members), members[0]
        of_batch = type(first).batch_penalty is not Method.batch_penalty and not first.is_off
        if of_batch or first.penalty() is not None:
            raise ValueError(f"{type(first).__name__} cannot be stacked: it has a penalty, and no stacked one")

    def after_update(self, update: int, features: Features | None = None) -> None:
        for number, member in enumerate(self.members):
            own = features and {name: values[number] for name, values in features.items()}
            member.after_update(update, own or None)


SEED = 1_000_003
"""A method's default seed. It differs from a network's: the same seed would draw the initial weights again."""

LARGEST = torch.finfo(torch.float32).max
"""Largest allowed number: parameters are fp32, and a larger one would be infinite."""


def check_period(where: str, period: float) -> float:
    """The period in updates, if it is a whole number from 1, or infinity (never); else ValueError."""
    if not period >= 1 or (period != math.inf and period != int(period)):
        raise ValueError(f"{where}={period}: it has to be a whole number of updates, at least 1, or inf for never")
    return period


def check_number(where: str, value: float, low: float = 0.0, high: float = LARGEST) -> float:
    """The number, if it is within `low` to `high`; else ValueError. Without `high`, fp32 has to hold it."""
    if not low <= value <= high:
        limits = f"that fp32 holds, at least {low:g}" if high == LARGEST else f"from {low:g} to {high:g}"
        raise ValueError(f"{where}={value}: it has to be a number {limits}")
    return value


def check_whole(where: str, value: int, low: int = 0, high: int = 2**63 - 1) -> int:
    """The whole number, if it is from `low` to `high`; else ValueError. What sizes memory or a loop needs a `high`."""
    if not low <= value <= high or value != int(value):
        most = "2^63 - 1" if high == 2**63 - 1 else f"{high:,}"
        raise ValueError(f"{where}={value}: it has to be a whole number from {low} to {most}")
    return int(value)


def check_same(where: str, value: int, saved: int) -> None:
    """ValueError unless an option that sizes the state is that of the state to load, as it need not be in a fork."""
    if value != saved:
        raise ValueError(f"{where}={value}: the state to load is of {saved}, and this option cannot change")


def check_until(where: str, until: float) -> float:
    """The last update at which a method acts, infinity allowed; ValueError for a negative number or NaN."""
    return check_number(f"{where}: until", until, high=math.inf)


def is_due(update: int, period: float) -> bool:
    """Whether a period ends with this update."""
    return period != math.inf and update % int(period) == 0


def make_generator(network: nn.Module, seed: int) -> torch.Generator:
    """A method's own random generator, on the network's device."""
    device = next(network.parameters()).device
    return torch.Generator(device).manual_seed(seed)


def moments(optimizer: Optimizer, parameter: nn.Parameter) -> list[Tensor]:
    """The optimiser's state for each entry of a parameter: Adam's two moments, momentum, squared averages."""
    state: Mapping[str, Any] = optimizer.state.get(parameter, {})
    return [v for k, v in state.items() if k != "step" and isinstance(v, Tensor) and v.shape == parameter.shape]


def zero_moments(optimizer: Optimizer, parameters: Iterable[nn.Parameter], step: bool = False) -> None:
    """Zero the optimiser's state of whole parameters, in place; with `step` their step counts too."""
    parameters = list(parameters)
    found = [moment for parameter in parameters for moment in moments(optimizer, parameter)]
    if step:
        states = [optimizer.state.get(parameter, {}) for parameter in parameters]
        found += [state["step"] for state in states if isinstance(state.get("step"), Tensor)]
    if found:
        torch._foreach_zero_(found)
