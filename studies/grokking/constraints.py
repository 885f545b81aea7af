"""What holds or bounds the norms of the weights after the optimiser's step."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

import nap
from studies.grokking.config import GrokkingConfig


def make_projection(config: GrokkingConfig, model: nn.Module) -> nap.Projection | None:
    """The projection of the settings, None if it is off. Sets the norms that are given as numbers or multiples."""
    if config.projection == "off":
        return None
    if config.projection == "clip":
        return _clip(config, model)
    projection = nap.Projection(
        model,
        every=config.project_every,
        include=["head"] if config.project_head else None,
        update="fixed" if config.projection == "hyperball" else "free",
        update_scale=config.hyperball_scale,
    )
    if config.hold_norm_at != 1:
        state = projection.state_dict()
        for name, norm in state["initial_norms"].items():
            held = config.hold_norm_of == "all" or not name.startswith("head")
            state["initial_norms"][name] = norm * config.hold_norm_at if held else norm
        projection.load_state_dict(state)
        projection.project()
    return projection


def _clip(config: GrokkingConfig, model: nn.Module) -> nap.Projection:
    """Clip to Grok, as its authors' code has it (github.com/NiftyliuS/cliptogrok).

    All rows of all parameters start at one norm. After each step those above it are cut, but not of the tokens'
    embeddings and of the output layer, which are free from then on. The scale of a norm is a row.
    """
    nap.Projection(model, mode="neuron", radius=config.clip_norm, include=lambda *_: True)
    with torch.no_grad():
        for scale in norm_scales(model):
            scale.mul_(config.clip_norm / scale.norm())
    free = [name for name, part in model.named_modules() if isinstance(part, nn.Embedding) and name != "positions"]
    return nap.Projection(
        model,
        every=config.project_every,
        affine="joint",
        exclude=free,
        mode="neuron",
        radius=config.clip_norm,
        bound=True,
    )


class GlobalNorm:
    """Omnigrok: all parameters, as one vector, at alpha times their initial norm (arXiv 2210.01117)."""

    def __init__(self, model: nn.Module, alpha: float) -> None:
        self.parameters: list[Tensor] = list(model.parameters())
        self.target = alpha * self.norm()
        self.apply()

    def norm(self) -> Tensor:
        return global_norm(self.parameters)

    @torch.no_grad()
    def apply(self) -> None:
        torch._foreach_mul_(self.parameters, self.target / self.norm())


@torch.no_grad()
def global_norm(parameters: Iterable[Tensor]) -> Tensor:
    """The norm of all parameters as one vector."""
    return torch.stack(list(torch._foreach_norm(list(parameters)))).norm()


def norm_scales(model: nn.Module) -> list[Tensor]:
    """The scales of the norms."""
    return [part.weight for part in model.modules() if isinstance(part, nn.RMSNorm)]
