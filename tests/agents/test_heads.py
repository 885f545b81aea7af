"""Heads: their shapes, the dueling equation, and what NaP and the plasticity methods see in them."""

from itertools import product

import pytest
import torch
from torch import nn

import nap
from agents.networks.heads import Head
from agents.networks.layers import Noise, NoisyLinear
from nap.graph import hidden_units

SIZES, HIDDEN = (None, 5), (None, 16)
SWITCHES = [
    pytest.param({"size": size, "hidden": hidden, "dueling": dueling, "noisy": noisy}, id=f"{size}-{hidden}-{label}")
    for size, hidden, (dueling, noisy, label) in product(
        SIZES, HIDDEN, [(False, False, "plain"), (True, False, "dueling"), (False, True, "noisy"), (True, True, "both")]
    )
]
PLAIN = [switches for switches in SWITCHES if not switches.values[0]["noisy"]]


def network(switches, num_actions=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 12), nn.ReLU(), Head(12, num_actions, **switches))


def outputs(switches):
    return ["2.advantage.output.weight"] + ["2.value.output.weight"] * switches["dueling"]


@pytest.mark.parametrize("switches", SWITCHES)
def test_shapes_layers_and_gradients(switches):
    net = network(switches)
    Noise(net, generator=torch.Generator()).resample()
    values = net(torch.randn(7, 10))
    assert values.shape == ((7, 3) if switches["size"] is None else (7, 3, switches["size"]))
    layers = [part for part in net[2].modules() if isinstance(part, nn.Linear)]
    assert len(layers) == (1 + switches["dueling"]) * (1 if switches["hidden"] is None else 2)
    assert all(isinstance(layer, NoisyLinear) == switches["noisy"] for layer in layers)
    values.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in net.parameters())


@pytest.mark.parametrize("switches", SWITCHES)
def test_dueling_is_value_plus_advantage_without_its_mean(switches):
    head, features = Head(12, 4, **switches), torch.randn(3, 12)
    Noise(head, generator=torch.Generator()).resample()
    size = switches["size"] or 1
    found = head(features).reshape(3, 4, size)
    advantage = head.advantage(features).reshape(3, 4, size)
    for b, a, n in product(range(3), range(4), range(size)):
        expected = advantage[b, a, n]
        if switches["dueling"]:
            mean = sum(advantage[b, other, n] for other in range(4)) / 4
            expected = head.value(features)[b, n] + expected - mean
        torch.testing.assert_close(found[b, a, n], expected)


@pytest.mark.parametrize("switches", SWITCHES)
def test_the_outputs_are_the_last_layers(switches):
    assert nap.analyze(network(switches)).outputs == outputs(switches)


@pytest.mark.parametrize("switches", PLAIN)
@torch.no_grad()
def test_nap_handles_every_layer(switches):
    net = network(switches)
    report = nap.normalize(net)
    assert report.not_handled == []
    assert report.left_out == report.projected_only == {}
    assert report.outputs == outputs(switches)
    weights = {name: weight for name, weight in net.named_parameters() if weight.ndim == 2}
    assert set(report.scale_invariant) == weights.keys() - set(report.outputs) == set(nap.Projection(net).names)
    x = torch.randn(7, 10)
    before = net(x)
    for name in report.scale_invariant:
        weights[name].mul_(2)
    torch.testing.assert_close(net(x), before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("switches", PLAIN)
def test_every_hidden_unit_is_found_with_its_readers(switches):
    net = network(switches)
    found = hidden_units(net)
    streams = 1 + switches["dueling"]
    assert not found.left_out
    assert [f"{name}.weight" for name in found.outputs] == outputs(switches)
    assert len(found.layers) == 1 + (switches["hidden"] is not None) * streams
    assert len(found.layers[0].outgoing) == streams
