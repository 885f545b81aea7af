"""Effective learning rate and rotation against hand-computed cases and float64."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import nap


def module() -> nn.Sequential:
    made = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    made[0].weight.data = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    made[2].weight.data = torch.tensor([[0.6, 0.8]])
    return made


def test_effective_lr_by_hand() -> None:
    made = module()
    groups = [{"params": made[0].parameters(), "lr": torch.tensor(0.5)}, {"params": made[2].parameters(), "lr": 0.2}]
    for adam in (torch.optim.Adam(groups), torch.optim.AdamW(groups), torch.optim.RMSprop(groups)):
        rates = nap.effective_lr(made, adam)
        assert {name: float(rate) for name, rate in rates.items()} == pytest.approx({"0.weight": 0.1, "2.weight": 0.2})
    rates = nap.effective_lr(made, torch.optim.SGD(groups, lr=1.0))
    assert {name: float(rate) for name, rate in rates.items()} == pytest.approx({"0.weight": 0.02, "2.weight": 0.2})


def test_effective_lr_leaves_out_what_the_optimiser_does_not_own() -> None:
    made = module()
    assert list(nap.effective_lr(made, torch.optim.SGD(made[2].parameters(), 1.0))) == ["2.weight"]


@settings(max_examples=60, deadline=None)
@given(exponent=st.floats(-6.5, 0), radius=st.floats(0.2, 5), seed=st.integers(0, 99))
def test_rotation_is_right_for_tiny_and_large_angles(exponent: float, radius: float, seed: int) -> None:
    torch.manual_seed(seed)
    theta = math.pi * 10**exponent
    a = torch.randn(20, 30)
    across = torch.randn(20, 30)
    across -= a * (a * across).sum() / a.square().sum()
    across *= a.norm() / across.norm()
    b = (a.double() * math.cos(theta) + across.double() * math.sin(theta)).float()
    unit_a, unit_b = a.double() / a.double().norm(), b.double() / b.double().norm()
    exact = 2 * math.atan2(float((unit_a - unit_b).norm()), float((unit_a + unit_b).norm()))
    assert float(nap.rotation({"w": a}, {"w": b})["w"]) == pytest.approx(exact, rel=1e-3)
    scaled = nap.rotation({"w": a}, {"w": b.double().mul(radius).float()})["w"]
    assert float(scaled) == pytest.approx(exact, rel=1e-3, abs=1e-6)


def test_rotation_by_hand() -> None:
    a = torch.tensor([[1.0, 0.0]])
    cases = [([[2.0, 0.0]], 0.0), ([[1.0, 1.0]], math.pi / 4), ([[0.0, 3.0]], math.pi / 2), ([[-5.0, 0.0]], math.pi)]
    for b, expected in cases:
        assert float(nap.rotation({"w": a}, {"w": torch.tensor(b)})["w"]) == pytest.approx(expected)
    assert float(nap.rotation({"w": a}, {"w": 0 * a})["w"]) == 0
    assert float(nap.rotation({"w": 0 * a}, {"w": a})["w"]) == 0
    close = torch.tensor([1.0, 0.0]).double(), torch.tensor([1.0, 1e-9]).double()
    tilted = [side + torch.tensor([0.1, 0.7]) for side in close]
    exact = 1e-9 * 1.1 / (1.1**2 + 0.7**2)
    assert float(nap.rotation({"w": tilted[0]}, {"w": tilted[1]})["w"]) == pytest.approx(exact, rel=1e-4)
    with pytest.raises(ValueError, match="different weights"):
        nap.rotation({"w": a}, {"v": a})


def test_snapshot_is_a_copy_and_norms_are_frobenius() -> None:
    made = module()
    kept = nap.snapshot(made)
    made[0].weight.data.zero_()
    assert kept["0.weight"][1, 1] == 4
    assert float(nap.weight_norms(made)["2.weight"]) == pytest.approx(1)


def test_nap_imports_nothing_but_torch() -> None:
    ours = ("agents", "benchmarks", "envs", "experiment", "plasticity", "replay", "tensordict", "tyro", "gymnasium")
    code = f"import sys, nap; sys.exit(bool(set(sys.modules) & set({ours!r})))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_gradient_norms_by_hand() -> None:
    made = module()
    assert nap.gradient_norms(made) == {}
    made[2].weight.grad = torch.tensor([[3.0, 4.0]])
    assert {name: float(value) for name, value in nap.gradient_norms(made).items()} == {"2.weight": 5.0}
    attention = nn.MultiheadAttention(2, 1)
    attention.in_proj_weight.grad = torch.arange(12.0).reshape(6, 2)
    found = nap.gradient_norms(attention)
    assert float(found["in_proj_weight[k]"]) == pytest.approx(math.sqrt(16 + 25 + 36 + 49))


def test_update_ratio_and_laziness_by_hand() -> None:
    made = module()
    before = nap.snapshot(made)
    made[0].weight.data[0, 1] = 1.0
    after = nap.snapshot(made)
    ratios = {name: float(ratio) for name, ratio in nap.update_ratio(before, after).items()}
    assert ratios == pytest.approx({"0.weight": 0.2, "2.weight": 0.0})
    assert float(nap.laziness(before, after)) == pytest.approx(1 / math.sqrt(26))
    zero = {"w": torch.zeros(2, 2)}
    assert float(nap.update_ratio(zero, zero)["w"]) == 0
    assert float(nap.update_ratio(zero, {"w": torch.ones(2, 2)})["w"]) == math.inf
    for call in (nap.update_ratio, nap.laziness):
        with pytest.raises(ValueError, match=r"different weights: \['v', 'w'\]"):
            call(zero, {"v": zero["w"]})
        with pytest.raises(ValueError, match="none at all"):
            call({}, {})


@settings(max_examples=40, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=3), seed=st.integers(0, 99)
)
def test_update_ratio_and_laziness_are_their_definitions(shapes: list[tuple[int, int]], seed: int) -> None:
    torch.manual_seed(seed)
    before = {str(i): torch.randn(shape) for i, shape in enumerate(shapes)}
    after = {name: value + torch.randn_like(value) for name, value in before.items()}
    moved = {name: sum(float(d) ** 2 for d in (after[name] - value).flatten()) for name, value in before.items()}
    size = {name: sum(float(w) ** 2 for w in value.flatten()) for name, value in before.items()}
    for name, ratio in nap.update_ratio(before, after).items():
        assert float(ratio) == pytest.approx(math.sqrt(moved[name] / size[name]), rel=1e-4)
    lazy = math.sqrt(sum(moved.values()) / sum(size.values()))
    assert float(nap.laziness(before, after)) == pytest.approx(lazy, rel=1e-4)


def test_gradient_norm_of_a_sparse_embedding_is_that_of_the_dense_gradient() -> None:
    sparse, dense = (torch.nn.Embedding(5, 3, sparse=kind) for kind in (True, False))
    for layer in (sparse, dense):
        layer(torch.tensor([1, 1, 4])).sum().backward()
    assert nap.gradient_norms(sparse) == nap.gradient_norms(dense)
