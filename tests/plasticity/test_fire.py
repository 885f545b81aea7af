"""FIRE against its authors' loop over the positions of a kernel, and against singular vectors."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from plasticity.fire import FIRE, orthogonalized
from plasticity.loops import Loop, cnn, mlp
from plasticity.nap import NaP
from plasticity.registry import make


def newton_schulz(matrix, iterations):
    """The nearest orthogonal matrix, rows and columns exchanged where there are more columns."""
    x = matrix.T if matrix.shape[1] > matrix.shape[0] else matrix
    x = x / np.linalg.norm(x)
    for _ in range(iterations):
        x = 1.5 * x - 0.5 * x @ (x.T @ x)
    return x.T if matrix.shape[1] > matrix.shape[0] else x


def literal(weight, iterations):
    """Matrix by matrix, as the authors do it."""
    weight = weight.detach().double().numpy()
    rows, columns = weight.shape[:2]
    if weight.ndim == 2:
        return newton_schulz(weight, iterations) * math.sqrt(rows / columns)
    out = np.zeros_like(weight)
    for i in range(weight.shape[2]):
        for j in range(weight.shape[3]):
            out[:, :, i, j] = newton_schulz(weight[:, :, i, j], iterations)
    return out * math.sqrt(rows / columns) / (weight.shape[2] * weight.shape[3])


@pytest.mark.parametrize("iterations", [1, 10])
@pytest.mark.parametrize("build", [mlp, cnn])
def test_every_layer_and_nothing_else(build, iterations):
    loop = Loop(build, method := FIRE(period=3, iterations=iterations)).run(2)
    loop.learn()
    before, moments = copy.deepcopy(loop.network), copy.deepcopy(loop.optimizer.state_dict())
    target = copy.deepcopy(loop.target)
    method.after_update(3)
    for (name, now), old in zip(loop.network.named_parameters(), before.parameters(), strict=True):
        expected = literal(old, iterations) if old.ndim > 1 else old.detach().numpy()
        np.testing.assert_allclose(now.detach().numpy(), expected, rtol=1e-4, atol=1e-6)
        assert torch.equal(loop.target.get_parameter(name), now if old.ndim > 1 else target.get_parameter(name))
    for one, other in zip(loop.optimizer.state.values(), moments["state"].values(), strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("layer", [nn.Linear(5, 9), nn.Linear(9, 5), nn.Conv2d(3, 8, (2, 3)), nn.Conv1d(6, 4, 3)])
def test_many_iterations_reach_the_nearest_orthogonal_matrix(layer):
    found, weight = (
        value.detach().double().reshape(*value.shape[:2], -1) for value in (orthogonalized(layer, 60), layer.weight)
    )
    positions = weight.shape[2]
    for position in range(positions):
        matrix, now = weight[:, :, position], found[:, :, position]
        u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
        scale = math.sqrt(matrix.shape[0] / matrix.shape[1]) / positions
        torch.testing.assert_close(now, scale * u @ vh, rtol=1e-4, atol=1e-5)


def test_each_group_of_a_convolution_is_a_matrix():
    layer, parts = nn.Conv2d(6, 4, 3, groups=2), [nn.Conv2d(3, 2, 3) for _ in range(2)]
    with torch.no_grad():
        for part, weight in zip(parts, layer.weight.chunk(2), strict=True):
            part.weight.copy_(weight)
    expected = torch.cat([orthogonalized(part, 10) for part in parts])
    torch.testing.assert_close(orthogonalized(layer, 10), expected)


def test_a_matrix_of_zeros_stays():
    layer = nn.Linear(3, 4)
    nn.init.zeros_(layer.weight)
    assert torch.equal(orthogonalized(layer, 10), torch.zeros(4, 3))


def test_chosen_layers_and_a_target_that_is_kept():
    loop = Loop(cnn, FIRE(period=1, layers=("0", "output"), target="keep"))
    target = copy.deepcopy(loop.target.state_dict())
    loop.learn()
    before = copy.deepcopy(loop.network.state_dict())
    loop.after()
    changed = {name for name, value in loop.network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"0.weight", "7.weight"}
    assert all(torch.equal(value, target[name]) for name, value in loop.target.state_dict().items())


def test_layers_without_a_matrix_are_refused():
    network = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"^fire: layers=1: there is no linear layer or convolution that learns$"):
        FIRE(layers=("1",)).attach(network, None, torch.optim.Adam(network.parameters()))


def test_a_projection_restores_the_norms_and_leaves_the_matrices_orthogonal():
    loop = Loop(mlp, fire := FIRE(at=2, iterations=40), nap := NaP()).run(2)
    for name, norm in nap.projection.norms().items():
        assert norm.item() == pytest.approx(nap.projection.initial_norms[name].item(), rel=1e-5)
        values = torch.linalg.svdvals(loop.network.get_parameter(name).detach())
        assert float(values.max() / values.min()) == pytest.approx(1, rel=1e-3)
    assert [layer.weight.shape[0] for layer in fire.layers] == [16, 12, 2]


def test_it_is_applied_by_hand():
    loop = Loop(mlp, method := FIRE(at=math.inf))
    assert method.is_off
    before = loop.network[0].weight.detach().clone()
    loop.step()
    method.apply()
    assert torch.linalg.svdvals(before).min() < torch.linalg.svdvals(loop.network[0].weight).min()


def test_the_authors_dqn_in_two_methods():
    loop = Loop(cnn, *make(["fire:at=now,layers=0+2", "reset:at=now,layers=5+7,target=draw"]))
    before = copy.deepcopy(loop.network.state_dict())
    loop.step()
    moved = {name for name, value in loop.network.state_dict().items() if (value - before[name]).abs().max() > 0.05}
    assert {"0.weight", "2.weight", "5.weight", "7.weight"} <= moved
    state = loop.optimizer.state
    assert [int(state[loop.network[i].weight]["step"]) for i in (0, 2, 5, 7)] == [1, 1, 0, 0]
