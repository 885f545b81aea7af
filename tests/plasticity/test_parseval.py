"""Parseval regularisation against its formula, entry by entry."""

import numpy as np
import pytest
import torch
from torch import nn

from plasticity.loops import Loop, cnn, mlp
from plasticity.nap import NaP
from plasticity.parseval import Parseval
from tests.plasticity.test_formulas import gradients, layers


def literal(weight, strength, scale):
    """The penalty of a layer and its gradient 4·factor·(W·Wᵀ − scale·I)·W."""
    matrix = weight.detach().double().numpy().reshape(len(weight), -1)
    factor, excess, total = strength * (64 / len(matrix)) ** 2, matrix @ matrix.T, 0.0
    for i in range(len(matrix)):
        excess[i, i] -= scale
        for j in range(len(matrix)):
            total += excess[i, j] ** 2
    return factor * total, (4 * factor * excess @ matrix).reshape(weight.shape)


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize(("strength", "scale"), [(1e-3, 2.0), (0.5, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize("build", [mlp, cnn])
def test_the_penalty_and_its_gradient(build, strength, scale, normalized):
    loop = Loop(build, method := Parseval(strength, scale), *[NaP()] * normalized).run(2)
    hidden = layers(loop.network)[:-1]
    expected = {f"{name}.weight": literal(layer.weight, strength, scale) for name, layer in hidden}
    assert method.penalty().item() == pytest.approx(sum(value for value, _ in expected.values()), rel=1e-4)
    for name, found in gradients(loop, method).items():
        right = expected[name][1] if name in expected else np.zeros_like(found)
        np.testing.assert_allclose(found, right, rtol=1e-3, atol=1e-5)


def test_rows_at_a_right_angle_with_the_authors_gain_cost_nothing():
    network = nn.Sequential(nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 30), nn.ReLU(), nn.Linear(30, 2))
    for layer in network[::2]:
        nn.init.orthogonal_(layer.weight, 2**0.5)
    (method := Parseval(1.0)).attach(network, None, torch.optim.Adam(network.parameters()))
    wide = (64 / 30) ** 2 * (30 - 12) * 2**2  # more rows than a right angle allows
    assert method.penalty().item() == pytest.approx(wide, rel=1e-4)


def test_it_draws_the_singular_values_together():
    spread = []
    for strength in (0.0, 0.01):
        loop = Loop(mlp, Parseval(strength)).run(100)
        values = torch.linalg.svdvals(loop.network[2].weight.detach())
        spread.append(float(values.max() / values.min()))
    assert spread[1] < 0.5 * spread[0]
