"""Noisy layers against the equations of Fortunato et al. 2018, entry by entry."""

import math
from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._dynamo.testing import CompileCounter

from agents.networks.encoders import make_network
from agents.networks.layers import Noise, NoisyLinear
from agents.networks.low_precision import LowPrecisionCopy


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noisy_network() -> nn.Sequential:
    return nn.Sequential(NoisyLinear(6, 5), nn.ReLU(), NoisyLinear(5, 3))


def noises(network: nn.Module) -> list[torch.Tensor]:
    return [buffer.clone() for buffer in network.buffers()]


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 999), st.integers(1, 5), st.integers(1, 5), st.booleans())
def test_output_is_the_published_one(seed, inputs, outputs, bias):
    torch.manual_seed(seed)
    layer = NoisyLinear(inputs, outputs, bias).double()
    for parameter in layer.parameters():
        parameter.data.normal_()
    Noise(layer, generator=generator(seed)).resample()
    drawn = torch.randn(inputs + outputs, generator=generator(seed)).tolist()
    f = [math.copysign(math.sqrt(abs(x)), x) for x in drawn]
    x = torch.randn(inputs, dtype=torch.float64)
    for j, found in enumerate(layer(x).tolist()):
        noise = f[inputs + j]
        parts = [(layer.weight[j, i] + layer.weight_sigma[j, i] * f[i] * noise) * x[i] for i in range(inputs)]
        expected = sum(parts) + (layer.bias[j] + layer.bias_sigma[j] * noise if bias else 0)
        assert found == pytest.approx(expected.item(), rel=1e-5, abs=1e-5)


def test_first_values_are_the_published_ones():
    layer = NoisyLinear(400, 300, sigma0=0.4)
    for mean in (layer.weight, layer.bias):
        assert 0.045 < mean.abs().max() <= 0.05  # ±1/√400
        assert mean.std().item() == pytest.approx(0.05 / math.sqrt(3), rel=0.1)
    for sigma in (layer.weight_sigma, layer.bias_sigma):
        torch.testing.assert_close(sigma.detach(), torch.full_like(sigma, 0.02))


def test_evaluation_mode_is_the_mean_layer():
    layer, x = NoisyLinear(6, 5), torch.randn(4, 6)
    Noise(layer, generator=generator()).resample()
    assert not torch.allclose(layer(x), nn.functional.linear(x, layer.weight, layer.bias))
    layer.eval()
    assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))
    layer(x).sum().backward()
    assert layer.weight_sigma.grad is None


def test_one_call_draws_for_every_layer_in_place():
    online = noisy_network()
    target = deepcopy(online)
    noise = Noise(online, target, online, generator=generator())
    assert len(noise.layers) == 4
    places = [buffer.data_ptr() for network in (online, target) for buffer in network.buffers()]
    torch.manual_seed(0)
    state = torch.get_rng_state()
    noise.resample()
    assert torch.equal(state, torch.get_rng_state())
    assert places == [buffer.data_ptr() for network in (online, target) for buffer in network.buffers()]
    values = torch.cat(noises(online) + noises(target))
    assert len(values.unique()) == len(values) == 2 * (6 + 5 + 5 + 3)


def test_the_noise_has_the_published_distribution():
    layer = NoisyLinear(20_000, 20_000 // 100)
    Noise(layer, generator=generator()).resample()
    assert layer.noise_in.mean().item() == pytest.approx(0, abs=0.02)
    assert layer.noise_in.square().mean().item() == pytest.approx(math.sqrt(2 / math.pi), abs=0.02)  # E|ε|


def test_a_saved_generator_and_state_go_on_with_the_same_noise():
    network, random = noisy_network(), generator(3)
    noise = Noise(network, generator=random)
    noise.resample()
    saved, saved_random = deepcopy(network.state_dict()), random.get_state()
    x = torch.randn(2, 6)
    now = network(x)
    noise.resample()
    following = network(x)
    assert not torch.equal(now, following)
    network.load_state_dict(saved)
    random.set_state(saved_random)
    assert torch.equal(network(x), now)
    noise.resample()
    assert torch.equal(network(x), following)


def test_a_network_without_noise_draws_nothing():
    random = generator()
    before = random.get_state()
    Noise(nn.Linear(3, 3), generator=random).resample()
    assert torch.equal(before, random.get_state())


def test_the_bfloat16_replica_follows_noise_and_gives_every_gradient():
    network = noisy_network()
    low_precision = LowPrecisionCopy(network, torch.bfloat16)
    Noise(network, generator=generator()).resample()
    low_precision.refresh()
    for original, copied in zip(noises(network), noises(low_precision.module), strict=True):
        assert torch.equal(original.bfloat16(), copied)
    x = torch.randn(4, 6)
    output = low_precision.module(x.bfloat16())
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), network(x), rtol=0.05, atol=0.05)
    output.sum().backward()
    low_precision.collect_gradients()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())
    Noise(network, low_precision.module, generator=generator()).resample()
    assert not torch.equal(network[0].noise_in.bfloat16(), low_precision.module[0].noise_in)


def test_a_compiled_pass_is_one_graph_that_sees_new_noise():
    torch._dynamo.reset()
    network, counter, x = noisy_network(), CompileCounter(), torch.randn(2, 6)
    compiled, noise = torch.compile(network, backend=counter, fullgraph=True), Noise(network, generator=generator())
    for _ in range(3):
        noise.resample()
        assert torch.equal(compiled(x), network(x))
    assert counter.frame_count == 1


@pytest.mark.parametrize("head", [{}, {"dueling": True}, {"dueling": True, "streams": "shared", "noisy": True}])
def test_large_values_do_not_tie_in_bfloat16(head):
    torch.manual_seed(0)
    network = make_network("small", 4, (84, 84), 6, **head)
    output = network.head.value.output if head else network.head
    with torch.no_grad():
        output.bias += 8  # where numbers of bfloat16 are 1/32 apart, and then 1/16
    low_precision = LowPrecisionCopy(network, torch.bfloat16)
    pixels = torch.randint(0, 256, (64, 4, 84, 84), dtype=torch.uint8)
    with torch.no_grad():
        exact, narrow = network(pixels), low_precision.module(pixels)
    assert narrow.dtype == torch.float32
    assert all(len(values.unique()) == 6 for values in narrow)
    torch.testing.assert_close(
        narrow - narrow.mean(1, keepdim=True), exact - exact.mean(1, keepdim=True), rtol=0, atol=0.01
    )
    narrowed = [
        name for name, parameter in low_precision.module.named_parameters() if parameter.dtype == torch.bfloat16
    ]
    assert "torso.0.weight" in narrowed
    assert not [name for name in narrowed if "output" in name or name.startswith("head.weight")]
