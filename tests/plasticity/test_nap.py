import copy

import pytest
import torch
from torch import nn

from plasticity.nap import NaP


def train(methods, seed=0, updates=5):
    """A supervised loop on the interface: prepare, optimiser, attach, update."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
    for method in methods:
        method.prepare(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    for method in methods:
        method.attach(network, None, optimizer)
    owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for update in range(1, updates + 1):
        optimizer.zero_grad()
        network(torch.randn(8, 6)).square().sum().backward()
        optimizer.step()
        for method in methods:
            method.after_update(update)
    assert {id(p) for p in network.parameters()} == owned
    return network


@pytest.mark.parametrize("every", [1, 5])
def test_weights_are_at_their_initial_norm_after_every_kth_update(every):
    method = NaP(every=every)
    train([method], updates=5)
    for name, norm in method.projection.norms().items():
        assert norm.item() == pytest.approx(method.projection.initial_norms[name].item(), rel=1e-5)
    method = NaP(every=every)
    train([method], updates=6)
    at_norm = [
        norm.item() == pytest.approx(method.projection.initial_norms[name].item(), rel=1e-5)
        for name, norm in method.projection.norms().items()
    ]
    assert all(at_norm) == (every == 1)


def test_a_norm_stands_before_every_nonlinearity_and_the_head_is_left_alone():
    method = NaP(norm="rms")
    network = train([method])
    assert set(method.projection.names) == {"0.weight", "2.weight"}
    assert network[0].bias is None
    assert network[4].bias is not None
    assert method.report.scale_invariant == ["0.weight", "2.weight"]


def test_initial_norms_survive_a_checkpoint():
    method, other = NaP(), NaP()
    train([method], seed=0)
    train([other], seed=1)
    saved = copy.deepcopy(method.state_dict())
    other.load_state_dict(saved)
    for name, norm in method.projection.initial_norms.items():
        assert other.projection.initial_norms[name].item() == norm.item()
