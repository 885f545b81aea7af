"""What is done to the gradients before the optimiser's step: Grokfast's filter, and OrthoGrad."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from studies.grokking.config import GrokkingConfig

TINY = 1e-30


class GradientEMA:
    """Grokfast-EMA: g <- g + lambda m with m <- alpha m + (1 - alpha) g, m being g at first (arXiv 2405.20233)."""

    def __init__(self, model: nn.Module, config: GrokkingConfig) -> None:
        self.parameters = list(model.parameters())
        self.alpha, self.weight = config.grokfast_alpha, config.grokfast_lambda
        self.averages: list[Tensor] = []

    @torch.no_grad()
    def apply(self) -> None:
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        if not self.averages:
            self.averages = [gradient.clone() for gradient in gradients]
        torch._foreach_lerp_(self.averages, gradients, 1 - self.alpha)
        torch._foreach_add_(gradients, self.averages, alpha=self.weight)

    def load(self, averages: Sequence[Tensor]) -> None:
        """Takes over saved averages, as copies next to the parameters."""
        self.averages = [average.to(self.parameters[0].device, copy=True) for average in averages]


@torch.no_grad()
def orthogonalize(parameters: Iterable[nn.Parameter]) -> None:
    """Leaves of each gradient the part across its parameter, at the gradient's own length (arXiv 2501.04697).

    g <- |g| h / |h| with h = g - (w.g / w.w) w, each parameter as one vector.
    """
    trained = [parameter for parameter in parameters if parameter.grad is not None]
    weights = [parameter.detach() for parameter in trained]
    gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
    along = [product.sum() for product in torch._foreach_mul(weights, gradients)]
    squares = [norm.square() + TINY for norm in torch._foreach_norm(weights)]
    lengths = torch._foreach_norm(gradients)
    torch._foreach_sub_(gradients, torch._foreach_mul(weights, torch._foreach_div(along, squares)))
    left = torch._foreach_add(torch._foreach_norm(gradients), TINY)
    torch._foreach_mul_(gradients, torch._foreach_div(lengths, left))
