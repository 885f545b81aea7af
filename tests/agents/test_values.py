"""The three meanings of outputs against what they mean, and against one another."""

import pytest
import torch

from agents.values import Categorical, Quantiles, Scalar, chosen

KINDS = [Scalar(), Categorical(5, -2.0, 3.0), Quantiles(4)]
B, A = 6, 3


def outputs(values, seed=0):
    shape = (B, A) if values.size is None else (B, A, values.size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("values", KINDS, ids=lambda values: type(values).__name__)
def test_the_chosen_outputs_are_those_of_the_actions(values):
    out, action = outputs(values), torch.tensor([0, 1, 2, 2, 1, 0])
    assert torch.equal(chosen(out, action), torch.stack([row[a] for row, a in zip(out, action, strict=True)]))
    torch.testing.assert_close(values.mean(chosen(out, action)), chosen(values.mean(out), action))


@pytest.mark.parametrize("values", KINDS, ids=lambda values: type(values).__name__)
@torch.no_grad()
def test_what_a_target_is_expected_to_be_is_the_return_and_the_discounted_mean(values):
    out = chosen(outputs(values), torch.zeros(B, dtype=torch.int64))
    reward, discount = torch.linspace(-0.1, 0.1, B), torch.tensor([0.0, 0.2, 0.4, 0.5, 0.6, 0.9])
    target = values.target(out, reward, discount)
    assert target.shape == out.shape
    if isinstance(values, Categorical):  # no mass goes beyond the atoms: it would lose the expectation
        discount, target = discount / 2, values.target(out, reward, discount / 2)
    torch.testing.assert_close(values.expected(target), reward + discount * values.mean(out))


@pytest.mark.parametrize("values", KINDS, ids=lambda values: type(values).__name__)
def test_learning_a_target_makes_its_expectation_the_mean(values):
    target = values.target(chosen(outputs(values), torch.ones(B, dtype=torch.int64)), torch.zeros(B), torch.ones(B))
    out = torch.zeros_like(target, requires_grad=True)
    optimizer = torch.optim.Adam([out], lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        losses = values.loss(out, target)
        losses.sum().backward()
        optimizer.step()
    assert losses.shape == (B,)
    torch.testing.assert_close(values.mean(out), values.expected(target), atol=0.05, rtol=0.05)


@pytest.mark.parametrize("values", KINDS, ids=lambda values: type(values).__name__)
def test_outputs_in_bfloat16_are_computed_in_float32(values):
    target = values.target(outputs(values)[:, 0].bfloat16(), torch.zeros(B), torch.ones(B))
    assert target.dtype == values.expected(target).dtype == torch.float32


def test_the_atoms_are_those_of_the_settings():
    assert Categorical(5, -2.0, 3.0).support.tolist() == [-2.0, -0.75, 0.5, 1.75, 3.0]
