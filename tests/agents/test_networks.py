import pytest
import torch

from agents.names import NETWORKS
from agents.networks.convolution import PixelConv2d
from agents.networks.encoders import make_network

SHAPE = (84, 84)


def pixels(batch=2):
    return torch.randint(0, 256, (batch, 4, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_pixels_are_scaled_to_the_unit_interval():
    conv = PixelConv2d(4, 8, 5, 5)
    plain = torch.nn.functional.conv2d(pixels().float() / 255, conv.weight, conv.bias, stride=5)
    torch.testing.assert_close(conv(pixels()), plain)


def test_the_stored_weight_keeps_its_scale_and_receives_the_scaled_gradient():
    conv = PixelConv2d(4, 8, 5, 5, bias=False)
    conv(pixels()).square().sum().backward()
    weight = conv.weight.detach().clone().requires_grad_()
    torch.nn.functional.conv2d(pixels().float() / 255, weight, stride=5).square().sum().backward()
    torch.testing.assert_close(conv.weight.grad, weight.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("name", "millions"), [("nature", 1.69), ("dopamine", 4.05), ("small", 0.2)])
def test_sizes(name, millions):
    network = make_network(name, 4, SHAPE, 6)
    assert network(pixels(3)).shape == (3, 6)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.02)


@pytest.mark.parametrize("name", NETWORKS)
def test_memory_format_and_precision_change_nothing_but_rounding(name):
    torch.manual_seed(0)
    network = make_network(name, 4, SHAPE, 6)
    plain = network(pixels())
    torch.testing.assert_close(network.to(memory_format=torch.channels_last)(pixels()), plain)
    torch.testing.assert_close(network.bfloat16()(pixels()).float(), plain, rtol=0.05, atol=0.02)
