"""Spectral regularisation (Lewandowski et al. 2024)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from nap.graph import UnitLayer
from plasticity.method import SEED, Features, Method, check_number, check_whole, make_generator
from plasticity.trainable import trainable_layers

WARM_UP = 15
"""Power iterations at `attach`, so that the first penalties see σ and not a random direction."""


class SpectralRegularization(Method):
    """Penalise spectral norms away from 1.

    Adds strength · Σ [(σ(W)^k − 1)² + ‖b‖^k] over the linear layers and convolutions, the output layers too; a
    convolution is the matrix [out, in·kH·kW]. σ is |uᵀWv|, with u and v from one power iteration after each update;
    they are constants to the gradient and a part of the checkpoint. Norms and the target network are not changed. With
    a projection the norm of W is fixed, and the penalty only spreads its singular values.
    Source: arXiv 2406.06811 with k = 2 and one iteration, in the formula of a survey (arXiv 2411.04832). We found no
    strength for Atari: the default is this project's.
    """

    def __init__(self, strength: float = 1e-4, k: float = 2.0, seed: int = SEED):
        self.strength = check_number("spectral: strength", strength)
        self.k = check_number("spectral: k", k, low=1)
        self.seed = check_whole("spectral: seed", seed)
        self._layers: list[UnitLayer] = []
        self._left: list[Tensor] = []
        self._right: list[Tensor] = []

    @property
    def is_off(self) -> bool:
        return not self.strength

    def attach(self, network: nn.Module, target: nn.Module | None, optimizer: Optimizer) -> None:
        """Start the power iterations from a random direction of each layer's outputs."""
        if self.is_off:
            return
        generator = make_generator(network, self.seed)
        self._layers = trainable_layers(network)
        for matrix in self._matrices():
            self._left.append(torch.empty_like(matrix[:, 0]).normal_(generator=generator))
            self._right.append(torch.zeros_like(matrix[0]))
        for _ in range(WARM_UP):
            self._iterate()

    def penalty(self) -> Tensor | None:
        if not self._layers:
            return None
        triples = zip(self._left, self._matrices(), self._right, strict=True)
        sigmas = [(left @ (matrix @ right)).abs() for left, matrix, right in triples]  # u and −u are alike
        parts = [(sigma**self.k - 1).square() for sigma in sigmas]
        biases = [layer.bias for layer in self._layers if layer.bias is not None]
        parts += [(bias.square().sum() if self.k == 2 else bias.norm() ** self.k) for bias in biases]
        return self.strength * torch.stack(parts).sum()

    def after_update(self, update: int, features: Features | None = None) -> None:
        self._iterate()

    def state_dict(self) -> dict[str, Any]:
        return {"left": self._left, "right": self._right}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for key, vectors in (("left", self._left), ("right", self._right)):
            for vector, saved in zip(vectors, state[key], strict=True):
                vector.copy_(saved)

    def _matrices(self) -> list[Tensor]:
        return [layer.weight.flatten(1) for layer in self._layers]

    @torch.no_grad()
    def _iterate(self) -> None:
        """One power iteration of each layer: v ← Wᵀu and u ← Wv, each divided by its norm."""
        for left, matrix, right in zip(self._left, self._matrices(), self._right, strict=True):
            right.copy_(F.normalize(left @ matrix, dim=0))
            left.copy_(F.normalize(matrix @ right, dim=0))
