"""L2 Init, also called regenerative regularisation (Kumar et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nap.graph import norm_layers
from plasticity.method import Method, StackedNetworks, check_number
from plasticity.trainable import trainable_parameters


class L2Init(Method):
    """Penalise the distance from the initial weights.

    Adds strength/2 · Σ‖θ − θ₀‖² over all trainable parameters but those of norms; θ₀ are the values at `attach`. Its
    gradient goes through the optimiser like the loss's. The target network is left alone. Source: arXiv 2308.11958,
    which is supervised only and sweeps 1e-2 to 1e-5; there is no published value for Atari.
    """

    def __init__(self, strength: float = 1e-2):
        self.strength = check_number("l2-init: strength", strength)
        self._pairs: list[tuple[nn.Parameter, Tensor]] = []

    @property
    def is_off(self) -> bool:
        return not self.strength

    def attach(self, network: nn.Module, target: nn.Module | None, optimizer: Optimizer) -> None:
        """Remember the weights as they are."""
        if self.strength:
            of_norms = {id(parameter) for norm in norm_layers(network) for parameter in norm.parameters()}
            chosen = [parameter for parameter in trainable_parameters(network) if id(parameter) not in of_norms]
            self._pairs = [(parameter, parameter.detach().clone()) for parameter in chosen]

    def penalty(self) -> Tensor | None:
        if not self._pairs:
            return None
        distances = [(parameter - initial).square().sum() for parameter, initial in self._pairs]
        return 0.5 * self.strength * torch.stack(distances).sum()

    def stacked(self, members: Sequence[Method], networks: StackedNetworks) -> Method:
        both = copy(self)
        initials = zip(*([initial for _, initial in member._pairs] for member in members), strict=True)  # type: ignore[attr-defined]
        both._pairs = [(networks.whole(p), torch.stack(own)) for (p, _), own in zip(self._pairs, initials, strict=True)]  # type: ignore[misc]
        return both

    def state_dict(self) -> dict[str, Any]:
        return {"initial": [initial for _, initial in self._pairs]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for (_, initial), saved in zip(self._pairs, state["initial"], strict=True):
            initial.copy_(saved)
