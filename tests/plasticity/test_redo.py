import copy
import math

import pytest
import torch

from agents.names import NETWORKS
from agents.networks.encoders import make_network
from experiment.determinism import parameter_hash
from plasticity.loops import Loop, cnn, mlp
from plasticity.redo import ReDo

# (weight of the units, norm or None, weights that read them, columns per unit) by hand
MAPS = {
    mlp: [("0", "1", "2", 1), ("2", "3", "4", 1)],
    cnn: [("0", "1", "2", 1), ("2", "3", "5", 4), ("5", "6", "7", 1)],
}


def dormant_units(feature_batches, tau):
    """Equation 1 of the paper, unit by unit over all inputs and positions."""
    found = []
    for name in feature_batches[0]:
        h = torch.cat([features[name] for features in feature_batches])
        sizes = [h[:, unit].abs().mean().item() for unit in range(h.shape[1])]
        mean = sum(sizes) / len(sizes)
        found.append([unit for unit, size in enumerate(sizes) if size <= tau * mean])
    return found


def recycle_literally(network, optimizer, maps, dormant, drawn):
    """Algorithm 1 in loops: `drawn` gives the new incoming weights."""
    modules = dict(network.named_modules())

    def forget(parameter, *index):
        for key in ("exp_avg", "exp_avg_sq"):
            optimizer.state[parameter][key][index] = 0

    with torch.no_grad():
        for (layer, activation, _, _), units in zip(maps, dormant, strict=True):
            for unit in units:
                modules[layer].weight[unit] = drawn[layer][unit]
                forget(modules[layer].weight, unit)
                if modules[layer].bias is not None:
                    modules[layer].bias[unit] = 0
                    forget(modules[layer].bias, unit)
                if (norm := getattr(modules[activation], "norm", None)) is not None:
                    norm.weight[unit], norm.bias[unit] = 1, 0
                    forget(norm.weight, unit)
                    forget(norm.bias, unit)
        for (_, _, reader, span), units in zip(maps, dormant, strict=True):
            for unit in units:
                for column in range(unit * span, (unit + 1) * span):
                    modules[reader].weight[:, column] = 0
                    forget(modules[reader].weight, slice(None), column)


def check_one_recycling(method, build, normalized=False):
    """AssertionError unless the sixth update ends with what algorithm 1 does to weights and moments."""
    loop = Loop(build, method, normalized=normalized)
    with torch.no_grad():
        if normalized:
            loop.network[1].norm.weight[2], loop.network[1].norm.bias[2] = 0.0, -5.0
        else:
            loop.network[0].bias[2] = -1e4
    seen = []
    for _ in range(5):
        loop.step()
        seen.append(dict(loop.tap.features))
    loop.learn()
    seen.append(dict(loop.tap.features))
    literal, old = copy.deepcopy((loop.network, loop.optimizer)), copy.deepcopy(loop.network)
    generator = torch.Generator()
    generator.set_state(method.generator.get_state())
    drawn = {}
    for layer, *_ in MAPS[build]:
        weight = old.get_submodule(layer).weight
        bound = 1 / math.sqrt(weight[0].numel())
        drawn[layer] = torch.empty_like(weight).uniform_(-bound, bound, generator=generator)
    dormant = dormant_units(seen[-2:], method.tau)  # 64 samples are the last two minibatches
    assert 2 in dormant[0]
    assert all(len(units) > 0 for units in dormant) or method.tau == 0
    assert any(
        len(units) < loop.network.get_submodule(m[0]).weight.shape[0]
        for units, m in zip(dormant, MAPS[build], strict=True)
    )
    recycle_literally(*literal, MAPS[build], dormant, drawn)
    method.after_update(loop.updates, loop.tap.features)
    assert parameter_hash(loop.network) == parameter_hash(literal[0]) != parameter_hash(old)
    for ours, theirs in zip(loop.network.parameters(), literal[0].parameters(), strict=True):
        for key in ("exp_avg", "exp_avg_sq", "step"):
            assert torch.equal(loop.optimizer.state[ours][key], literal[1].state[theirs][key])


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("build", [mlp, cnn])
@pytest.mark.parametrize("tau", [0.0, 0.6])
def test_one_recycling_is_the_papers_algorithm(build, tau, normalized):
    check_one_recycling(ReDo(period=6, tau=tau, samples=64), build, normalized)


def test_a_recycled_dead_unit_does_not_change_the_output():
    loop = Loop(cnn, method := ReDo(tau=0))
    with torch.no_grad():
        loop.network[2].bias[1] = -1e4
    loop.step()
    inputs, _ = loop.batch()
    before = loop.network(inputs)
    method.recycle([torch.zeros(layer.units, dtype=torch.bool) for layer in method.layers])
    assert torch.equal(loop.network(inputs), before)
    weight = loop.network[2].weight.detach().clone()
    method.recycle([torch.arange(layer.units) == (1 if layer.units == 5 else -1) for layer in method.layers])
    torch.testing.assert_close(loop.network(inputs), before)
    assert not torch.equal(loop.network[2].weight[1], weight[1])
    assert torch.equal(loop.network[2].weight[0], weight[0])


def test_the_papers_draw_is_xavier():
    loop = Loop(cnn, method := ReDo(init="xavier"))
    loop.step()
    method.recycle([torch.ones(layer.units, dtype=torch.bool) for layer in method.layers])
    bound = math.sqrt(6 / (7 * 4 + 5 * 4))
    largest = method._draw(method.layers[1]).abs().max().item()
    assert 0.9 * bound < largest <= bound


def test_the_target_network_is_left_alone():
    loop = Loop(mlp, ReDo(period=1, tau=10))
    before = parameter_hash(loop.target)
    loop.step()
    assert parameter_hash(loop.target) == before


@pytest.mark.parametrize("name", NETWORKS)
def test_the_draw_is_the_networks_own(name):
    torch.manual_seed(0)
    network, method = make_network(name, 4, (84, 84), 6), ReDo()
    method.attach(network, None, torch.optim.Adam(network.parameters()))
    for layer in method.layers:
        bound = layer.incoming.weight.abs().max().item()
        assert method._draw(layer).abs().max() == pytest.approx(bound, rel=0.02)
