"""Networks of one structure in stacked tensors: a pass of all of them is one call, and each stays a module."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Stack:
    """The parameters and buffers of N networks as tensors [N, ...], of which the networks' own become views.

    A parameter's identity stays, so that optimisers, methods and probes of a network go on working on it in place.

    Attributes:
        tensors: the stacked tensors by name; parameters that learn are leaves that take a gradient.
        learned: the names of those.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self.networks = list(networks)
        self.tensors: dict[str, Tensor] = {}
        self._first: dict[int, str] = {}
        named = [dict([*network.named_parameters(), *network.named_buffers()]) for network in networks]
        for name, first in named[0].items():
            shape, strides = (len(named), *first.shape), (first.numel(), *first.stride())
            whole = first.detach().new_empty_strided(shape, strides)
            for row, tensors in zip(whole, named, strict=True):
                row.copy_(tensors[name].detach())
                tensors[name].data = row
            self.tensors[name] = whole.requires_grad_(first.requires_grad)
            self._first[id(first)] = name
        self.learned = [name for name, whole in self.tensors.items() if whole.requires_grad]
        self._take_gradients()
        self._parameters = {name: [network.get_parameter(name) for network in networks] for name in self.learned}

    def whole(self, tensor: Tensor) -> Tensor:
        """The stacked tensor of which a parameter or buffer of the first network is the first part."""
        return self.tensors[self._first[id(tensor)]]

    def _take_gradients(self) -> None:
        """Take over the gradients of networks that have some, as after a resume."""
        for name in self.learned:
            parts = [network.get_parameter(name).grad for network in self.networks]
            if all(part is not None for part in parts):
                self.tensors[name].grad = torch.stack(parts)  # type: ignore[arg-type]

    def parameters(self, name: str) -> list[nn.Parameter]:
        """The parameter of that name of each network."""
        return self._parameters[name]

    def zero_grad(self) -> None:
        """Forget the gradients of the update before."""
        for name in self.learned:
            self.tensors[name].grad = None

    def share_gradients(self) -> None:
        """Make the gradient of each network's parameters the view of the stacked ones."""
        for name, parameters in self._parameters.items():
            gradient = self.tensors[name].grad
            parts = [None] * len(parameters) if gradient is None else gradient.unbind(0)
            for parameter, part in zip(parameters, parts, strict=True):
                parameter.grad = part

    @torch.no_grad()
    def cut_gradients(self, most: float) -> None:
        """Cut the norm of each network's gradient, all its parameters together, as `clip_grad_norm_` does."""
        gradients = [grad for name in self.learned if (grad := self.tensors[name].grad) is not None]
        norms = torch.stack([torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in gradients])
        scale = (most / (torch.linalg.vector_norm(norms, dim=0) + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(gradients, [along(scale, gradient) for gradient in gradients])

    def copy_from(self, other: Stack) -> None:
        """Take over the values of networks of the same structure."""
        torch._foreach_copy_([t.detach() for t in self.tensors.values()], [t.detach() for t in other.tensors.values()])


def along(values: Tensor, whole: Tensor) -> Tensor:
    """One value for each network [N], in a shape that broadcasts over a stacked tensor [N, ...]."""
    return values.view(-1, *[1] * (whole.ndim - 1))
