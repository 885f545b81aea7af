"""NaP and the plasticity methods on noisy layers: μ and σ belong together."""

import pytest
import torch
from torch import nn

import nap
from agents.networks.heads import Head
from agents.networks.layers import Noise, NoisyLinear
from nap.graph import hidden_units
from plasticity.layers import draw_layer
from plasticity.redo import ReDo


@pytest.fixture(params=[(None, False), (None, True), (5, False), (5, True)])
def net(request):
    torch.manual_seed(0)
    size, dueling = request.param
    head = Head(12, 3, size=size, hidden=16, dueling=dueling, noisy=True)
    network = nn.Sequential(nn.Linear(10, 12), nn.ReLU(), head)
    Noise(network, generator=torch.Generator()).resample()
    return network


def hidden(network):
    return {name: part for name, part in network.named_modules() if name.endswith(".hidden")}


@torch.no_grad()
def test_a_hidden_layer_is_scale_invariant_in_mean_and_noise_together(net):
    report = nap.normalize(net)
    assert report.not_handled == []
    assert report.left_out == report.projected_only == {}
    assert all(name.endswith("output.weight") for name in report.outputs)
    assert len(report.outputs) == len(hidden(net))
    x = torch.randn(7, 10)
    before = net(x)
    for layer in hidden(net).values():
        assert {name for name, _ in layer.named_parameters()} == {"weight", "weight_sigma"}
        layer.weight.mul_(3)
        layer.weight_sigma.mul_(3)
    torch.testing.assert_close(net(x), before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["frobenius", "neuron"])
@torch.no_grad()
def test_projection_keeps_the_joint_norm_and_changes_no_output(net, mode):
    nap.normalize(net)
    projection = nap.Projection(net, mode=mode)
    assert set(projection.names) == {"0.weight", *(f"{name}.weight" for name in hidden(net))}
    for layer in hidden(net).values():
        factors = torch.rand(1 if mode == "frobenius" else 16, 1) + 1
        layer.weight.mul_(2 * factors)
        layer.weight_sigma.mul_(5 * factors)  # the noise has grown relative to the mean, and stays so
    x = torch.randn(7, 10)
    before = net(x)
    ratios = [layer.weight_sigma / layer.weight for layer in hidden(net).values()]
    projection.project()
    if mode == "frobenius":  # rescaling one neuron alone is no symmetry of a LayerNorm
        torch.testing.assert_close(net(x), before, rtol=1e-4, atol=1e-4)
    for (name, layer), ratio in zip(hidden(net).items(), ratios, strict=True):
        joint = torch.cat([layer.weight, layer.weight_sigma], 1)
        norm = joint.norm() if mode == "frobenius" else joint.norm(dim=1)
        torch.testing.assert_close(norm, projection.initial_norms[f"{name}.weight"])
        torch.testing.assert_close(layer.weight_sigma / layer.weight, ratio)


def test_the_effective_rate_is_that_of_the_joint_norm(net):
    rates = nap.effective_lr(net, torch.optim.Adam(net.parameters(), lr=0.1))
    for name, layer in hidden(net).items():
        expected = 0.1 / torch.cat([layer.weight, layer.weight_sigma]).norm()
        torch.testing.assert_close(rates[f"{name}.weight"], expected.detach())


@torch.no_grad()
def test_a_recycled_unit_is_silent_and_its_noise_is_as_at_first(net):
    redo = ReDo()
    redo.attach(net, None, torch.optim.Adam(net.parameters()))
    for layer in hidden(net).values():
        layer.weight_sigma.fill_(9)
        layer.bias_sigma.fill_(9)
    found = hidden_units(net).layers
    assert len(found) == 1 + len(hidden(net))
    redo.recycle([torch.arange(layer.units) == 2 for layer in found])
    for layer in hidden(net).values():
        assert (layer.weight_sigma == 9).all(1).sum() == 0  # its inputs' unit 2 was recycled too
        torch.testing.assert_close(layer.bias_sigma[2], torch.tensor(0.5 / 12**0.5))
        assert (layer.bias_sigma == 9).sum() == 15
    for layer in (part for name, part in net.named_modules() if name.endswith(".output")):
        assert not layer.weight[:, 2].any()
        assert not layer.weight_sigma[:, 2].any()


def test_a_layer_drawn_anew_has_its_first_noise():
    layer = NoisyLinear(16, 4, sigma0=0.2)
    layer.weight_sigma.data.fill_(9)
    drawn = draw_layer(layer, torch.Generator())
    assert (drawn["weight_sigma"] == 0.05).all()
    assert (drawn["bias_sigma"] == 0.05).all()
    assert 0 < drawn["weight"].abs().max() <= 0.25
