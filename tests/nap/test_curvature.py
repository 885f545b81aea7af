"""Sharpness, kernels and gradient covariance where the answer is known, and against dense derivatives."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import nap
from nap.metrics.curvature import per_example_gradients


def quadratic(eigenvalues: list[float], seed: int = 0) -> tuple[Tensor, nn.Parameter]:
    """A Hessian with the given eigenvalues, and where it is evaluated."""
    generator = torch.Generator().manual_seed(seed)
    size = len(eigenvalues)
    turn = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
    made = turn @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ turn.T
    return made, nn.Parameter(torch.randn(size, generator=generator, dtype=torch.float64))


@pytest.mark.parametrize(
    ("eigenvalues", "largest"),
    [([5, 1, -2], 5), ([1, -7, 0.5], 1), ([-1, -3, -9], -1), ([2, -2, 1], 2), ([0, 0, 0], 0), ([4], 4), ([-4], -4)],
)
def test_sharpness_of_a_quadratic(eigenvalues: list[float], largest: float) -> None:
    hessian, w = quadratic(eigenvalues)
    found = nap.sharpness(lambda: 0.5 * w @ hessian @ w + 3 * w.sum(), [w], tolerance=1e-6, max_iterations=1000)
    assert float(found) == pytest.approx(largest, abs=1e-3)
    assert w.grad is None


@pytest.mark.parametrize("seed", range(6))
def test_sharpness_where_both_signs_are_as_large(seed: int) -> None:
    hessian, w = quadratic([3, 1, -3], seed)
    found = nap.sharpness(lambda: 0.5 * w @ hessian @ w, [w], tolerance=1e-6, max_iterations=1000, seed=seed)
    assert float(found) == pytest.approx(3, abs=1e-3)


@settings(max_examples=25, deadline=None)
@given(eigenvalues=st.lists(st.floats(-3, 3), min_size=1, max_size=5), top=st.floats(4, 40), seed=st.integers(0, 99))
def test_sharpness_with_the_default_tolerance(eigenvalues: list[float], top: float, seed: int) -> None:
    hessian, w = quadratic([*eigenvalues, top], seed)
    # another seed than the Hessian's, whose eigenvectors would be made of the same numbers as the start
    found = nap.sharpness(lambda: 0.5 * w @ hessian @ w, [w], seed=1_000 + seed)
    assert float(found) == pytest.approx(top, rel=0.02)


def test_sharpness_from_a_start_across_the_top_eigenvector() -> None:
    hessian = torch.diag(torch.tensor([4.0, 1.0], dtype=torch.float64))
    w = nn.Parameter(torch.ones(2, dtype=torch.float64))
    start = torch.randn(2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    across = torch.stack([torch.stack([start[1], -start[0]]), start]) / start.norm()
    turned = across.T @ hessian @ across
    turn = torch.tensor([[math.cos(1e-4), -math.sin(1e-4)], [math.sin(1e-4), math.cos(1e-4)]], dtype=torch.float64)
    turned = turn @ turned @ turn.T
    found = nap.sharpness(lambda: 0.5 * w @ turned @ w, [w])
    assert float(found) == pytest.approx(4, rel=0.01)


def test_sharpness_of_a_network_is_that_of_its_dense_hessian() -> None:
    torch.manual_seed(0)
    model, x, y = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(20, 3), torch.randn(20, 2)
    parameters = dict(model.named_parameters())
    shapes = [p.shape for p in parameters.values()]

    def loss_of(flat: Tensor) -> Tensor:
        parts = flat.split([s.numel() for s in shapes])
        values = {n: part.view(s) for n, part, s in zip(parameters, parts, shapes, strict=True)}
        return (torch.func.functional_call(model, values, x) - y).square().mean()

    flat = torch.cat([p.detach().flatten() for p in parameters.values()])
    dense = torch.autograd.functional.hessian(loss_of, flat)
    rng = torch.get_rng_state()
    model.requires_grad_(True)
    found = nap.sharpness(lambda: (model(x) - y).square().mean(), model.parameters(), tolerance=1e-6)
    assert float(found) == pytest.approx(float(torch.linalg.eigvalsh(dense)[-1]), rel=1e-3)
    assert torch.equal(rng, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())
    last = nap.sharpness(lambda: (model(x) - y).square().mean(), model[2].parameters(), tolerance=1e-6)
    assert float(last) == pytest.approx(float(torch.linalg.eigvalsh(dense[16:, 16:])[-1]), rel=1e-3)


def test_sharpness_at_the_edges() -> None:
    w, unused = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
    assert float(nap.sharpness(lambda: w.sum(), [w])) == 0
    assert float(nap.sharpness(lambda: w.square().sum(), [w, unused])) == pytest.approx(2)
    assert float(nap.sharpness(lambda: w[0] * unused[0] + w[1] ** 3, [w, unused], tolerance=1e-6)) == pytest.approx(6)
    assert math.isnan(float(nap.sharpness(lambda: (w * math.nan).square().sum(), [w])))
    with torch.no_grad():
        assert float(nap.sharpness(lambda: w.square().sum(), [w])) == pytest.approx(2)
    with pytest.raises(ValueError, match="requires a gradient"):
        nap.sharpness(lambda: w.sum(), [w.detach()])
    with pytest.raises(ValueError, match="no parameter of ReLU requires a gradient"):
        nap.entk(nn.ReLU(), torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"scalar, not shape \[3\]"):
        nap.sharpness(lambda: w * 2, [w])


def test_sharpness_and_kernel_of_an_attention_block() -> None:
    torch.manual_seed(0)
    model, x = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True), torch.randn(3, 5, 4)
    assert float(nap.sharpness(lambda: model(x).square().mean() + model(x)[0, 0, 0], model.parameters())) > 0
    pooled = nn.Sequential(model, nn.Flatten(), nn.Linear(20, 1))
    kernel = nap.entk(pooled, x)
    for i in range(3):
        gradient = torch.autograd.grad(pooled.eval()(x[i : i + 1]).sum(), list(pooled.parameters()))
        assert float(kernel[i, i]) == pytest.approx(sum(float(g.square().sum()) for g in gradient), rel=1e-4)


@pytest.mark.parametrize("outputs", [1, 3])
def test_the_kernel_of_a_linear_model_is_the_gram_matrix_of_its_inputs(outputs: int) -> None:
    x = torch.randn(6, 4)
    model = nn.Linear(4, outputs)
    expected = outputs * (x @ x.T + 1)  # the bias adds 1
    assert torch.allclose(nap.entk(model, x), expected, atol=1e-4)
    model.bias.requires_grad_(False)
    assert torch.allclose(nap.entk(model, x), outputs * x @ x.T, atol=1e-4)


def test_kernels_and_gradients_are_those_of_a_loop_in_eval_mode() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 2))
    x, y = torch.randn(4, 3), torch.randint(2, (4,))
    model(x)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kernel = nap.entk(model, x)
    covariance = nap.gradient_covariance(model, nn.functional.cross_entropy, x, y)
    assert all(part.training for part in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.eval()
    parameters = list(model.parameters())

    def flat(value: Tensor) -> Tensor:
        return torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters)])

    slopes = [[flat(model(x[i : i + 1])[0, a]) for a in range(2)] for i in range(4)]
    losses = [flat(nn.functional.cross_entropy(model(x[i : i + 1]), y[i : i + 1])) for i in range(4)]
    for i in range(4):
        for j in range(4):
            expected = sum(float(slopes[i][a] @ slopes[j][a]) for a in range(2))
            assert float(kernel[i, j]) == pytest.approx(expected, rel=1e-4, abs=1e-5)
            cosine = float(losses[i] @ losses[j] / losses[i].norm() / losses[j].norm())
            assert float(covariance[i, j]) == pytest.approx(cosine, abs=1e-4)


def test_kernel_change_by_hand() -> None:
    eye, ones = torch.eye(2), torch.ones(2, 2)
    assert float(nap.entk_change(eye, 7 * eye)) == pytest.approx(0, abs=1e-6)
    assert float(nap.entk_change(eye, ones)) == pytest.approx(1 - 2 / (math.sqrt(2) * 2))
    with pytest.raises(ValueError, match=r"\[2, 2\] and \[3, 3\]"):
        nap.entk_change(eye, torch.eye(3))


def test_gradient_covariance_by_hand() -> None:
    model = nn.Linear(2, 1, bias=False)
    model.weight.data.zero_()
    x, y = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [0.0, 0.0]]), torch.ones(4)
    found = nap.gradient_covariance(model, lambda out, target: (out[:, 0] - target).square().sum(), x, y)
    expected = [[1.0, 0, -1, 0], [0, 1, 0, 0], [-1, 0, 1, 0], [0, 0, 0, 0]]
    assert torch.allclose(found, torch.tensor(expected))
    slopes = per_example_gradients(model, lambda out, target: (out[:, 0] - target).square().sum(), x, y)
    assert slopes.tolist() == [[-2.0, 0.0], [0.0, -4.0], [6.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("seed", range(10))
def test_sharpness_of_a_spectrum_with_both_signs(seed):
    spectrum = torch.cat([torch.tensor([1.0, -1.0]), torch.linspace(-0.7, 0.7, 18)])
    x = torch.zeros(20, requires_grad=True)
    top = nap.sharpness(lambda: 0.5 * (spectrum * x * x).sum(), [x], seed=seed)
    assert top.item() == pytest.approx(1, abs=0.01)
