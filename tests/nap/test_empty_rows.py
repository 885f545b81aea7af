"""Gradients of rows that are all zero, or nearly so, through networks that `normalize` made."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nap

SMOOTH = [nn.Tanh, nn.ELU, nn.SiLU, nn.GELU, nn.LeakyReLU, nn.PReLU, nn.Mish, nn.Hardtanh, nn.Hardswish]
OTHERS = [nn.ReLU, nn.ReLU6, nn.Softplus, nn.Sigmoid, nn.Hardshrink, nn.Softshrink]


def batch(empty: int = 1, factor: float = 0.0) -> tuple[Tensor, Tensor]:
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(1))
    y = x[:, :4].argmax(1)
    x[:empty] *= factor
    return x, y


def network(activation: Callable[[], nn.Module], std: float | None = None, **options: str) -> nn.Sequential:
    """Three layers and a head, of torch's first weights, or of a deviation with zero biases; 0 is orthogonal."""
    torch.manual_seed(0)
    layers = [nn.Linear(16, 64), activation(), nn.Linear(64, 64), activation(), nn.Linear(64, 64), activation()]
    model = nn.Sequential(*layers, nn.Linear(64, 4))
    for layer in model[::2]:
        if std is not None:
            nn.init.normal_(layer.weight, std=std) if std else nn.init.orthogonal_(layer.weight, 2**0.5)
            nn.init.zeros_(layer.bias)
    nap.normalize(model, **options)
    return model


def train(model: nn.Module, x: Tensor, y: Tensor, steps: int = 10) -> tuple[float, float]:
    """The largest gradient of any parameter during some steps of SGD, and the loss after them."""
    optimizer, largest = torch.optim.SGD(model.parameters(), 0.1), 0.0
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        largest = max([largest, *(float(p.grad.abs().max()) for p in model.parameters())])
        optimizer.step()
    return largest, F.cross_entropy(model(x), y).item()


@pytest.mark.parametrize("activation", SMOOTH + OTHERS)
@pytest.mark.parametrize(("norm", "biases"), [("layer", "replaced"), ("rms", "replaced"), ("rms", "drop")])
@pytest.mark.parametrize("factor", [0.0, 1e-6])
def test_an_empty_row_makes_no_large_gradient(
    activation: Callable[[], nn.Module], norm: str, biases: str, factor: float
) -> None:
    full = train(network(activation, norm=norm, biases=biases), *batch(0))
    largest, loss = train(network(activation, norm=norm, biases=biases), *batch(1, factor))
    assert largest < 5
    assert loss < full[1] + 0.1


@pytest.mark.parametrize("std", [0, 0.1, 0.01])
@pytest.mark.parametrize("biases", ["replaced", "keep"])
def test_an_empty_row_makes_no_large_gradient_at_any_scale_of_the_weights(std: float, biases: str) -> None:
    for activation in SMOOTH:
        full = train(network(activation, std, biases=biases), *batch(0))
        largest, loss = train(network(activation, std, biases=biases), *batch(1))
        assert largest < 5, activation
        assert loss < full[1] + 0.1, activation


def test_a_floor_is_behind_a_learned_input_and_before_what_passes_zeros() -> None:
    def floored(model: nn.Module) -> list[bool]:
        nap.normalize(model)
        return [isinstance(p.norm, nap.FlooredNorm) for p in model.modules() if isinstance(p, nap.NormalizedActivation)]

    def stack(*activations: nn.Module) -> list[nn.Module]:
        return [part for activation in activations for part in (nn.Linear(8, 8), activation)]

    assert floored(nn.Sequential(*stack(nn.ReLU(), nn.ReLU()), nn.Linear(8, 1))) == [False, False]
    assert floored(nn.Sequential(*stack(nn.Tanh(), nn.Tanh()), nn.Linear(8, 1))) == [False, True]
    assert floored(nn.Sequential(nn.Dropout(0.1), *stack(nn.GELU(), nn.ReLU()), nn.Linear(8, 1))) == [False, False]
    assert floored(nn.Sequential(nn.LayerNorm(8), *stack(nn.GELU()), nn.Linear(8, 1))) == [True]
    for activation in ("relu", "gelu"):
        block = nn.TransformerEncoderLayer(8, 2, 16, activation=activation, batch_first=True)
        assert floored(block) == [activation == "gelu"]


def test_an_eps_that_is_given_is_the_eps_of_every_norm() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
    nap.normalize(model, eps=1e-3)
    assert [part.eps for part in model.modules() if isinstance(part, nn.LayerNorm)] == [1e-3, 1e-3]


@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize(("space", "over_space"), [(0, False), (2, False), (2, True)])
def test_floored_norm_is_the_norm_above_its_floor_and_linear_below(norm: str, space: int, over_space: bool) -> None:
    x = torch.randn(3, 6, *[4] * space, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    layer = nap.FlooredNorm(6, space, norm, over_space, floor=1e-3, dtype=torch.float64)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    dims = (1, 2, 3) if over_space else (1,)
    centred = x - x.mean(dims, keepdim=True) if norm == "layer" else x
    deviation = centred.square().mean(dims, keepdim=True).sqrt()
    shape = (6, *[1] * space)
    offset = 0 if layer.bias is None else layer.bias.view(shape)
    torch.testing.assert_close(layer(x), centred / deviation * layer.weight.view(shape) + offset)
    torch.testing.assert_close(layer(x / 8), layer(x), rtol=1e-12, atol=1e-12)
    small = 1e-3 * x
    torch.testing.assert_close(layer(small), 1e-3 * centred / 1e-3**0.5 * layer.weight.view(shape) + offset)
    assert torch.autograd.gradcheck(layer, (x.requires_grad_(),))
    assert torch.autograd.gradcheck(layer, (torch.zeros_like(x).requires_grad_(),))


def test_floored_norm_of_halves_is_that_of_floats() -> None:
    layer, x = nap.FlooredNorm(6), 300 * torch.randn(4, 6)
    for dtype in (torch.float16, torch.bfloat16):
        expected = layer(x.to(dtype).float()).to(dtype)
        torch.testing.assert_close(layer.to(dtype)(x.to(dtype)), expected, rtol=1e-2, atol=1e-2)
        layer.float()
