"""Muon: against the singular value decomposition, torch's own, and AdamW for the rest."""

from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import nap
from experiment.muon import COEFFICIENTS, MULTIPLE, STEPS, Muon, orthogonalized, with_muon
from plasticity.method import zero_moments


def make(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5), nn.ReLU(), nn.Linear(5, 3))


def optimizer_of(network: nn.Module, lr: float = 1e-2, decay: float = 0.0) -> Muon:
    rate = torch.tensor(lr)
    return Muon(
        with_muon([{"params": list(network.parameters()), "lr": rate, "weight_decay": decay}], network, "5"), rate
    )


def learn(network: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 1, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        network(torch.randn(8, 2, 4, 4, generator=generator)).square().mean().backward()
        optimizer.step()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 1_000))
def test_the_iteration_is_its_polynomial_on_the_singular_values(rows: int, columns: int, seed: int):
    matrix = torch.randn(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    u, values, v = torch.linalg.svd(matrix, full_matrices=False)
    values = values / values.norm()
    for _ in range(STEPS):
        a, b, c = COEFFICIENTS
        values = a * values + b * values**3 + c * values**5
    torch.testing.assert_close(orthogonalized(matrix), u @ torch.diag(values) @ v, rtol=1e-6, atol=1e-6)


def test_a_matrix_steps_as_with_torchs_muon():
    """torch iterates in bfloat16, so the two agree to about a hundredth."""
    ours, theirs = nn.Linear(40, 20, bias=False), nn.Linear(40, 20, bias=False)
    theirs.load_state_dict(ours.state_dict())
    first = ours.weight.detach().clone()
    own = Muon([{"params": [ours.weight], "lr": torch.tensor(0.1), "muon": True, "weight_decay": 0.1}], 0.1)
    torchs = torch.optim.Muon([theirs.weight], lr=0.1, weight_decay=0.1)
    for seed in range(4):
        gradient = torch.randn(20, 40, generator=torch.Generator().manual_seed(seed))
        ours.weight.grad, theirs.weight.grad = gradient.clone(), gradient.clone()
        own.step()
        torchs.step()
    moved = theirs.weight.detach() - first
    assert (ours.weight.detach() - theirs.weight.detach()).norm() < 0.02 * moved.norm()


def test_a_convolution_is_the_matrix_of_its_filters():
    network = make()
    optimizer = optimizer_of(network)
    before = network[0].weight.detach().clone()
    learn(network, optimizer)
    gradient = network[0].weight.grad
    wanted = orthogonalized((gradient * (0.05 + 0.95 * 0.05)).flatten(1)).view(gradient.shape)
    torch.testing.assert_close(before - network[0].weight.detach(), 1e-2 * MULTIPLE * wanted, rtol=1e-4, atol=1e-6)


def test_the_memory_format_of_a_convolution_does_not_matter():
    plain, last = make(), make().to(memory_format=torch.channels_last)
    for network in (plain, last):
        learn(network, optimizer_of(network), 5)
    torch.testing.assert_close(plain[0].weight, last[0].weight.contiguous(), rtol=1e-4, atol=1e-5)


def test_all_else_has_adamw():
    network, twin = make(), make()
    optimizer = optimizer_of(network, decay=0.1)
    others = [twin[0].bias, twin[3].bias, *twin[5].parameters()]
    adam = torch.optim.AdamW(others, 1e-2, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    for seed in range(3):
        learn(network, optimizer, seed=seed)
        for mine, theirs in zip(network.parameters(), twin.parameters(), strict=True):
            theirs.grad = mine.grad.clone()
        adam.step()
    for mine, theirs in zip([network[0].bias, network[3].bias, *network[5].parameters()], others, strict=True):
        assert torch.equal(mine, theirs)


def test_rates_are_found_by_a_schedule():
    network = make()
    optimizer = optimizer_of(network)
    schedule = nap.make_schedule("linear", optimizer, 10, floor=0.0)
    for _ in range(10):
        learn(network, optimizer)
        schedule.step()
    before = deepcopy(network.state_dict())
    learn(network, optimizer)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize("steps", [0, 3])
def test_a_loaded_state_goes_on_with_the_same_bits(steps: int):
    network = make()
    optimizer = optimizer_of(network)
    learn(network, optimizer, steps)
    twin = deepcopy(network)
    other = optimizer_of(twin)
    nap.load_optimizer_state(other, deepcopy(optimizer.state_dict()))
    for model, own in ((network, optimizer), (twin, other)):
        learn(model, own, 3, seed=7)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), twin.parameters(), strict=True))


def test_a_cleared_state_is_a_fresh_one():
    used, fresh = make(), make()
    optimizers = [optimizer_of(network) for network in (used, fresh)]
    learn(used, optimizers[0], 3)
    zero_moments(optimizers[0], used.parameters(), step=True)
    used.load_state_dict(fresh.state_dict())
    for network, optimizer in zip((used, fresh), optimizers, strict=True):
        learn(network, optimizer, 2)
    assert all(map(torch.equal, used.parameters(), fresh.parameters()))


def test_a_copy_of_network_and_optimiser_goes_on_with_the_same_bits():
    network = make()
    optimizer = optimizer_of(network)
    learn(network, optimizer, 2)
    twin, other = deepcopy((network, optimizer))
    for model, own in ((network, optimizer), (twin, other)):
        learn(model, own, 3, seed=7)
    assert all(map(torch.equal, network.parameters(), twin.parameters()))
    assert other.adam.state is other.state
