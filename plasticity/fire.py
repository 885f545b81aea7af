"""FIRE (Han et al. 2026): each weight matrix becomes the nearest orthogonal one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nap.graph import UnitLayer
from plasticity.layers import choose_layers
from plasticity.method import EachMember, Features, Method, StackedNetworks, check_whole
from plasticity.timing import At, Timing
from plasticity.trainable import trainable_layers


class FIRE(Method):
    """Make each weight matrix the nearest orthogonal one.

    The singular values of a matrix [out, in] all become √(out/in), and its singular vectors stay. The approximation is
    Newton-Schulz: X = W/‖W‖, then X ← 1.5·X − 0.5·X·Xᵀ·X, `iterations` times. Singular values that are small next to
    ‖W‖ need more than 10 of them and end below the others. A convolution is one matrix for each position of its kernel
    (and each group), and is divided by the number of positions. Biases, norms and the optimiser's state stay;
    `optimizer-reset` of the same timing starts the optimiser again too.

    period: updates, inf for never. at: once instead, after this update, or "now": after the first one that is made with
    the method, as in a fork; "task": at each change of task. layers: as in `reset`; of these the linear layers and
    convolutions, the output layers too.
    target: "copy" gives the target network the new weights of these layers; "keep" does not change it.

    With a projection each matrix gets its initial norm back, which is not that of √(out/in), and stays orthogonal.
    Source: arXiv 2602.08040 and its authors' code, with 10 iterations. It acts once, at a change of data or in the
    middle of a run; the default period is this project's. In DQN it treats the convolutions alone, gives the linear
    layers their initial weights, and copies both to the target network; to do so, add `reset` for the linear layers.
    """

    def __init__(
        self,
        period: float = 40_000,
        at: At = None,
        layers: tuple[str, ...] = ("all",),
        iterations: int = 10,
        target: Literal["copy", "keep"] = "copy",
    ):
        self.timing = Timing("fire", period, at)
        self.wanted, self.target_mode = layers, target
        self.iterations = check_whole("fire: iterations", iterations, low=1, high=1_000)

    @property
    def is_off(self) -> bool:
        return self.timing.is_off

    def attach(self, network: nn.Module, target: nn.Module | None, optimizer: Optimizer) -> None:
        """Choose the layers; ValueError for names without a linear layer or convolution."""
        chosen = {network.get_submodule(name) for name in choose_layers(network, self.wanted, "fire")}
        self.layers = [layer for layer in trainable_layers(network) if layer in chosen]
        if not self.layers:
            raise ValueError(
                f"fire: layers={'+'.join(self.wanted)}: there is no linear layer or convolution that learns"
            )
        names = {module: name for name, module in network.named_modules()}
        copied = target if self.target_mode == "copy" else None
        self.copies = [] if copied is None else [copied.get_submodule(names[layer]) for layer in self.layers]

    def stacked(self, members: Sequence[Method], networks: StackedNetworks) -> Method:
        return EachMember(members)

    def after_update(self, update: int, features: Features | None = None) -> None:
        if self.timing.due(update):
            self.apply()

    def task_changed(self, update: int) -> None:
        if self.timing.due_at_task(update):
            self.apply()

    @torch.no_grad()
    def apply(self) -> None:
        """Orthogonalise now, for example at a change of data."""
        for layer in self.layers:
            layer.weight.copy_(orthogonalized(layer, self.iterations))
        for layer, copy in zip(self.layers, self.copies, strict=False):  # none without a target network
            copy.get_parameter("weight").copy_(layer.weight)

    def state_dict(self) -> dict[str, Any]:
        return self.timing.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.timing.load_state_dict(state)


def orthogonalized(layer: UnitLayer, iterations: int) -> Tensor:
    """The weight with each of its matrices [out, in] nearly orthogonal; matrices of zeros stay."""
    weight = layer.weight
    groups = getattr(layer, "groups", 1)
    x = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1).permute(0, 3, 1, 2)
    rows, columns, positions = x.shape[2], x.shape[3], x.shape[1]
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    for _ in range(iterations):
        cube = x @ (x.mT @ x) if rows > columns else (x @ x.mT) @ x  # the smaller product
        x = 1.5 * x - 0.5 * cube
    return (math.sqrt(rows / columns) / positions * x).permute(0, 2, 3, 1).reshape(weight.shape)
