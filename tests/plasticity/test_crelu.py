import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from agents.networks.encoders import make_network
from nap.graph import NormalizedActivation
from plasticity.crelu import ConcatenatedReLU, CReLU
from plasticity.injection import PlasticityInjection
from plasticity.layers import hidden_layers
from plasticity.loops import Loop, cnn, mlp
from plasticity.nap import NaP

PIXELS = torch.randint(0, 256, (3, 4, 84, 84), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def crelu(x, dim=1):
    return torch.cat([x.clamp_min(0), (-x).clamp_min(0)], dim)


def test_a_network_of_agents_computes_crelu_after_every_layer():
    torch.manual_seed(0)
    network = make_network("small", 4, (84, 84), 3)
    widths = [layer.weight.shape[0] for layer in (network.torso[0], network.torso[2], network.torso[5])]
    CReLU().prepare(network)
    first, second, third = network.torso[0], network.torso[2], network.torso[5]
    assert [layer.weight.shape[0] for layer in (first, second, third)] == widths
    assert (second.in_channels, third.in_features, network.head.in_features) == (64, 2 * 576, 512)
    hidden = crelu(F.conv2d(PIXELS / 255, first.weight, first.bias, 5))
    hidden = crelu(F.conv2d(hidden, second.weight, second.bias, 5)).flatten(1)
    hidden = crelu(F.linear(hidden, third.weight, third.bias))
    torch.testing.assert_close(network(PIXELS), network.head(hidden), rtol=1e-4, atol=1e-5)


def test_readers_are_drawn_for_their_new_fan_in_from_the_seed_alone():
    networks = [cnn() for _ in range(3)]
    first = networks[0][0].weight.clone()
    state = torch.get_rng_state()
    for network, seed in zip(networks, (0, 0, 1), strict=True):
        CReLU(seed=seed).prepare(network)
        assert torch.equal(network[0].weight, first)
        for layer, fan_in in ((network[2], 14 * 4), (network[5], 40), (network[7], 18)):
            assert layer.weight[0].numel() == fan_in
            assert 0.7 * fan_in**-0.5 < layer.weight.abs().max() <= fan_in**-0.5
            assert 0 < layer.bias.abs().max() <= fan_in**-0.5
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(networks[0][5].weight, networks[1][5].weight)
    assert not torch.equal(networks[0][5].weight, networks[2][5].weight)


def test_halved_widths_keep_the_readers():
    network = mlp()
    readers = [network[2].in_features, network[4].in_features]
    CReLU(halve=True).prepare(network)
    assert [network[0].out_features, network[2].out_features] == [8, 6]
    assert [network[2].in_features, network[4].in_features] == readers
    assert network(torch.randn(5, 6)).shape == (5, 2)


def test_under_nap_before_it_one_norm_comes_before_the_concatenation():
    loop = Loop(mlp, NaP(), CReLU())
    wrapped = loop.network[1]
    assert isinstance(wrapped, NormalizedActivation)
    assert isinstance(wrapped.activation, ConcatenatedReLU)
    x = torch.randn(5, 6)
    normal = F.layer_norm(loop.network[0](x), (16,), eps=1e-12)
    torch.testing.assert_close(wrapped(loop.network[0](x)), crelu(normal))


@pytest.mark.parametrize("order", [lambda: (CReLU(), NaP()), lambda: (NaP(), CReLU())])
@pytest.mark.parametrize("build", [mlp, cnn])
def test_under_nap_each_half_is_of_the_normed_value_and_weights_stay_at_their_norm(build, order):
    methods = order()
    loop = Loop(build, *methods)
    x, _ = loop.batch(5)
    y = loop.network[0](x)
    normal = F.layer_norm(y.movedim(1, -1), (y.shape[1],), eps=1e-12).movedim(-1, 1)
    torch.testing.assert_close(loop.network[1](y), crelu(normal), rtol=1e-4, atol=1e-5)
    for _ in range(3):
        loop.step()
    projection = next(method for method in methods if isinstance(method, NaP)).projection
    norms, initial = projection.norms(), projection.initial_norms
    assert list(norms) == (["0.weight", "2.weight"] if build is mlp else ["0.weight", "2.weight", "5.weight"])
    assert all(norms[name].item() == pytest.approx(initial[name].item(), rel=1e-5) for name in norms)


def test_units_behind_a_concatenation_are_not_mistaken_for_others():
    network = mlp()
    CReLU().prepare(network)
    with pytest.raises(ValueError, match="no hidden layer"):
        hidden_layers(network)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.act, self.two = nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)

    def forward(self, x):
        hidden = self.one(x)
        return self.two(hidden + self.act(hidden))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)), "1 is a Tanh"),
        (Residual(), "act of Residual cannot be replaced"),
    ],
)
def test_what_cannot_be_concatenated_is_refused(network, message):
    with pytest.raises(ValueError, match=message):
        CReLU().prepare(network)


def test_halving_what_cannot_be_halved_is_refused():
    with pytest.raises(ValueError, match="odd"):
        CReLU(halve=True).prepare(cnn())
    network = mlp()
    NaP().prepare(network)
    with pytest.raises(ValueError, match="before nap"):
        CReLU(halve=True).prepare(network)


def test_it_comes_before_injection():
    network = mlp()
    PlasticityInjection(at=1).prepare(network)
    with pytest.raises(ValueError, match="give crelu before"):
        CReLU().prepare(network)


def test_it_learns_as_a_copy_does():
    loop = Loop(cnn, CReLU())
    twin = copy.deepcopy(loop.network)
    loop.step()
    assert any(not torch.equal(a, b) for a, b in zip(loop.network.parameters(), twin.parameters(), strict=True))
    assert loop.network[1](torch.randn(2, 7, 3, 3)).shape == (2, 14, 3, 3)
