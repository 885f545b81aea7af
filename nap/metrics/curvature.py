"""How the loss and the function bend: sharpness, gradient covariance and the empirical neural tangent kernel.

Do not compute these at every step: each costs many backward passes and waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from nap.metrics.probe import untouched

Vector = list[Tensor]
SURE = 10
"""Iterations before a power iteration may stop: one that starts across the top eigenvector seems to stand still."""


def sharpness(
    loss_fn: Callable[[], Tensor],
    parameters: Iterable[Tensor],
    *,
    tolerance: float = 1e-3,
    max_iterations: int = 100,
    seed: int = 0,
) -> Tensor:
    """The largest eigenvalue of the Hessian of a loss in `parameters`, by power iteration on Hessian-vector products.

    `loss_fn` takes nothing and returns the loss on a fixed batch, without dropout; it is called once. Stops when the
    eigenvalue changes by less than `tolerance` of itself, after 10 iterations at the earliest. The iteration finds the
    eigenvalue of largest magnitude; where that may be negative, a second one on the Hessian shifted up by it finds the
    largest. Under gradient descent with rate lr it settles at 2 / lr (Cohen et al. 2021, arXiv 2103.00065). A
    scale-invariant weight's goes with 1 / ‖W‖²: compare sharpness times ‖W‖². Leaves `.grad` alone; the start vector is
    drawn from `seed`.
    Raises ValueError if no parameter requires a gradient or the loss is not a scalar.
    """
    variables = [parameter for parameter in parameters if parameter.requires_grad]
    if not variables:
        raise ValueError("nap.sharpness: none of the parameters requires a gradient")
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
        loss = loss_fn()
        if loss.numel() != 1:
            raise ValueError(f"nap.sharpness: loss_fn must return a scalar, not shape {list(loss.shape)}")
        slopes = torch.autograd.grad(loss, variables, create_graph=True, allow_unused=True)
    hessian = partial(_hessian_product, variables, slopes)
    generator = torch.Generator(loss.device).manual_seed(seed)
    start = [torch.randn(v.shape, generator=generator, dtype=v.dtype, device=v.device) for v in variables]
    top, radius = _power_iteration(hessian, start, tolerance, max_iterations)
    if top < (1 - tolerance) * radius:  # negative, or a mixture of both signs
        top = _power_iteration(partial(hessian, shift=radius), start, tolerance, max_iterations)[0] - radius
    return loss.new_tensor(top)


def _hessian_product(
    variables: Vector, slopes: Sequence[Tensor | None], vector: Vector, *, shift: float = 0.0
) -> Vector:
    """(H + shift) v, from a gradient with a graph; parameters in which the loss is linear have no curvature."""
    curved = [(slope, v) for slope, v in zip(slopes, vector, strict=True) if slope is not None and slope.requires_grad]
    if not curved:
        return [shift * v for v in vector]
    outputs, along = zip(*curved, strict=True)
    found = torch.autograd.grad(outputs, variables, along, retain_graph=True, allow_unused=True)
    return [shift * v if h is None else h + shift * v for h, v in zip(found, vector, strict=True)]


def _power_iteration(
    product: Callable[[Vector], Vector], start: Vector, tolerance: float, most: int
) -> tuple[float, float]:
    """The eigenvalue of largest magnitude and that magnitude; NaN if a product is not finite."""
    vector, value, radius = _unit(start), math.inf, math.inf
    for i in range(most):
        image = product(vector)
        last, value = value, float(_dot(vector, image))
        radius = float(_dot(image, image)) ** 0.5
        if not math.isfinite(value) or (i >= SURE and abs(value - last) <= tolerance * abs(value)):
            break
        vector = _unit(image)
    return (value, radius) if math.isfinite(value) else (math.nan, math.nan)


def _dot(a: Vector, b: Vector) -> Tensor:
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()


def _unit(vector: Vector) -> Vector:
    size = _dot(vector, vector).sqrt().clamp_min(1e-30)
    return [part / size for part in vector]


def entk(model: nn.Module, inputs: Tensor) -> Tensor:
    """The empirical neural tangent kernel, [n, n]: K_ij = Σ_a <∇f_a(x_i), ∇f_a(x_j)> over the outputs a.

    The gradients are in all parameters that require one, of the model in eval mode. Holds n × parameters numbers at a
    time: for few inputs (32 of a network of 1.7 M weights take 0.2 GB). Source: Jacot et al. 2018, arXiv 1806.07572.
    """
    with torch.no_grad(), untouched(model):
        outputs = model(inputs[:1]).numel()
    gradients = (per_example_gradients(model, partial(_output, a), inputs, inputs) for a in range(outputs))
    return torch.stack([each @ each.T for each in gradients]).sum(0)


def _output(number: int, output: Tensor, _: Tensor) -> Tensor:
    return output.flatten()[number]


def entk_change(before: Tensor, after: Tensor) -> Tensor:
    """1 - <K, K'> / (‖K‖ ‖K'‖) of two kernels of the same inputs, 0 if they have the same shape (Fort et al. 2020)."""
    if before.shape != after.shape:
        raise ValueError(f"nap.entk_change: kernels of {list(before.shape)} and {list(after.shape)} inputs")
    size = torch.linalg.vector_norm(before) * torch.linalg.vector_norm(after)
    return 1 - (before * after).sum() / size


def gradient_covariance(
    model: nn.Module, loss_fn: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, targets: Tensor
) -> Tensor:
    """The cosines between the loss gradients of single examples, [n, n]; zero gradients have cosine 0.

    `loss_fn(output, target)` takes a batch of one and returns a scalar. The mean off the diagonal measures how
    far examples learn together; a negative entry means that two interfere (Lyle et al. 2023, arXiv 2303.01486).
    """
    gradients = per_example_gradients(model, loss_fn, inputs, targets)
    unit = gradients / torch.linalg.vector_norm(gradients, dim=1, keepdim=True).clamp_min(1e-30)
    return unit @ unit.T


def per_example_gradients(
    model: nn.Module, loss_fn: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, targets: Tensor
) -> Tensor:
    """The gradient of each example's loss in all parameters that require one, [n, parameters], in eval mode."""
    parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise ValueError(f"nap: no parameter of {type(model).__name__} requires a gradient")
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}

    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return loss_fn(functional_call(model, (parameters, buffers), (x.unsqueeze(0),)), y.unsqueeze(0))

    with untouched(model), sdpa_kernel(SDPBackend.MATH):
        slopes = vmap(grad(loss), in_dims=(None, 0, 0), randomness="same")(parameters, inputs, targets)
    return torch.cat([slope.flatten(1) for slope in slopes.values()], 1)
