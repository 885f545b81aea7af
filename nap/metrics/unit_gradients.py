"""The gradient that reaches each hidden unit on a batch, in a pass that changes nothing of the model; its metric."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from nap.graph.layers import as_units, feature_layers, is_nonlinearity
from nap.graph.norms import NormalizedActivation
from nap.graph.recorder import tensors_in
from nap.metrics.features import dormant_grama
from nap.metrics.probe import copy_batch, numbered, untouched


def unit_gradients(
    model: nn.Module,
    batch: Tensor | tuple[Any, ...],
    loss: Callable[[Any], Tensor] | None = None,
    layers: Iterable[str] | Mapping[str, int] | None = None,
) -> dict[str, Tensor]:
    """The gradient of the loss by the input of each nonlinearity, by layer: [inputs and positions, units].

    `loss` maps the model's output to a scalar, the sum or mean over the inputs. Without it the outputs are summed with
    fixed random factors, drawn from a normal distribution. A unit then has no gradient only if no output depends on it:
    the sum of squares has none where an output is 0, and the log-sum of exponentials none behind a log-softmax.

    `batch` and `layers` are as in `Probe`; of a layer that is no nonlinearity the gradient is by its output. The model
    runs in eval mode; its gradients, buffers, flags and the random numbers stay as they are.
    Raises ValueError if no gradient reaches any layer.
    """
    model = getattr(model, "_orig_mod", model)
    watched, calls = {}, Counter[str]()

    def keep(name: str, axis: int | None, x: Tensor) -> Tensor:
        x = x if x.requires_grad else x.detach().requires_grad_()
        watched[numbered(name, calls)] = (x, axis)
        return x.clone()  # a nonlinearity that works in place changes the copy

    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.enable_grad(), untouched(model), ExitStack() as hooks:
        for name, (module, axis) in feature_layers(model, layers).items():
            hooks.callback(_watch(module, partial(keep, name, axis)).remove)
        output = functional_call(model, buffers, copy_batch(batch if isinstance(batch, tuple) else (batch,)))
        total = (_random_sum if loss is None else loss)(output)
        if not watched or not total.requires_grad:
            raise ValueError(f"nap.unit_gradients: the output of {type(model).__name__} has no gradient by its layers")
        values = [x for x, _ in watched.values()]
        found = torch.autograd.grad(total, values, allow_unused=True)
    return {
        name: as_units(torch.zeros_like(x) if gradient is None else gradient, axis).detach()
        for (name, (x, axis)), gradient in zip(watched.items(), found, strict=True)
    }


def dormant_by_gradient(
    model: nn.Module,
    batch: Tensor | tuple[Any, ...],
    loss: Callable[[Any], Tensor] | None = None,
    layers: Iterable[str] | Mapping[str, int] | None = None,
    tau: float = 0.01,
) -> dict[str, Tensor]:
    """`dormant_grama` of the layers of `unit_gradients`, together and each: "dormant_grama_0.01" and ".../layer"."""
    gradients = unit_gradients(model, batch, loss, layers)
    key = f"dormant_grama_{tau:g}"
    each = {f"{key}/{name}": dormant_grama(gradient, tau) for name, gradient in gradients.items()}
    return {key: dormant_grama(list(gradients.values()), tau)} | each


def _watch(module: nn.Module, keep: Callable[[Tensor], Tensor]) -> Any:
    """A hook that keeps the input of a module's nonlinearity, or the output of another module."""
    if isinstance(module, NormalizedActivation):
        return module.norm.register_forward_hook(lambda _, args, output: keep(output))
    if is_nonlinearity(module):
        return module.register_forward_pre_hook(lambda _, args: (keep(args[0]), *args[1:]))
    return module.register_forward_hook(lambda _, args, output: keep(output))


def _random_sum(output: Any) -> Tensor:
    generator, total = torch.Generator().manual_seed(0), torch.zeros(())
    for out in tensors_in(output):
        if out.is_floating_point():
            factors = torch.randn(out.shape, generator=generator)
            total = total.to(out.device) + (out.float() * factors.to(out.device)).sum()
    return total
