"""The seam behind which every method against loss of plasticity stands."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer


class Method:
    """A method against loss of plasticity; override the hooks that it needs.

    The caller runs `prepare` before the optimiser exists and `attach` once after; then, for each update, adds
    `penalty()` to the loss and calls `after_update` behind the optimiser's step. After `prepare` a method changes
    parameters in place only: a parameter's identity never changes, so the optimiser owns what the network uses.
    """

    def prepare(self, network: nn.Module) -> None:
        """Change the network's structure."""

    def attach(self, network: nn.Module, target: nn.Module | None, optimizer: Optimizer) -> None:
        """Meet the parts that the method works on; `target` is None where the learner has none."""

    def penalty(self) -> Tensor | None:
        """A scalar that is added to the loss, or None. It is a part of the compiled graph."""
        return None

    def after_update(self, update: int) -> None:
        """Act after the optimiser's step; `update` counts from 1."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to hold."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
