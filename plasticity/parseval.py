"""Parseval regularisation for continual learning (Chung et al. 2024)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nap.graph import UnitLayer, hidden_units
from plasticity.method import Method, check_number
from plasticity.trainable import trainable_layers

WIDTH = 64
"""Units of a layer for which the authors tuned the strength."""


class Parseval(Method):
    """Penalise weight matrices that are not orthogonal.

    Adds strength · Σ (64/units)² · ‖W·Wᵀ − scale·I‖² over the linear layers and convolutions but the output layers; a
    convolution is the matrix [out, in·kH·kW]. The rows of W are drawn to a right angle and to the norm √scale. A layer
    with more units than inputs cannot get there and keeps a part of the penalty. Biases, norms and the target network
    are not changed. With a projection the norm of W is fixed, and the penalty only spreads its singular values.

    scale: the squared gain of the authors' initialisation (√2, orthogonal); no layer is re-initialised here. Their
    Metaworld agents also learn one factor for each unit, which the scales of norms are (`layer-norm`, `nap`).
    Source: arXiv 2412.07224 and its authors' code: PPO on Metaworld and a grid world with 1e-3, on CARL with 1e-4,
    for layers of 64 units; the factor (64/units)² is their code's for other widths, where all layers have one width.
    FIRE's code (arXiv 2602.08040) has scale 1 and no factor, for 1e-3, and includes output layers and norms.
    """

    def __init__(self, strength: float = 1e-3, scale: float = 2.0):
        self.strength = check_number("parseval: strength", strength)
        self.scale = check_number("parseval: scale", scale)
        self._layers: list[UnitLayer] = []
        self._targets: list[Tensor] = []

    @property
    def is_off(self) -> bool:
        return not self.strength

    def attach(self, network: nn.Module, target: nn.Module | None, optimizer: Optimizer) -> None:
        """Find the layers; ValueError if the output layers cannot be told from the others."""
        if self.is_off:
            return
        outputs = list(hidden_units(network).outputs.values())
        self._layers = [layer for layer in trainable_layers(network) if layer not in outputs]
        self._targets = [
            self.scale * torch.eye(len(layer.weight), dtype=layer.weight.dtype, device=layer.weight.device)
            for layer in self._layers
        ]

    def penalty(self) -> Tensor | None:
        if not self._layers:
            return None
        parts = []
        for layer, target in zip(self._layers, self._targets, strict=True):
            matrix = layer.weight.flatten(1)
            parts.append((WIDTH / len(matrix)) ** 2 * (matrix @ matrix.T - target).square().sum())
        return self.strength * torch.stack(parts).sum()
