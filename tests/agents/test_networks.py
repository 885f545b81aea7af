import pytest
import torch
from torch import nn

from agents.names import NETWORKS
from agents.networks.convolution import PixelConv2d
from agents.networks.encoders import Encoder, Residual, make_network
from experiment.config import ConfigError

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


@pytest.mark.parametrize(
    ("name", "millions"),
    [("nature", 1.69), ("dopamine", 4.05), ("small", 0.2), ("impala", 1.09), ("impala:width=0.25", 0.26)],
)
def test_sizes(name, millions):
    network = make_network(name, 4, SHAPE, 6)
    assert network(pixels(3)).shape == (3, 6)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.02)


@pytest.mark.parametrize("name", NETWORKS)
def test_with_pooling_the_hidden_layer_reads_the_mean_of_each_channel(name):
    torch.manual_seed(0)
    network = make_network(name, 4, SHAPE, 6, pool=True)
    linear = next(part for part in network.torso if isinstance(part, nn.Linear))
    convolution = [part for part in network.torso.modules() if isinstance(part, nn.Conv2d)][-1]
    assert linear.in_features == convolution.out_channels
    seen = {}
    features = list(network.torso)[: list(network.torso).index(linear) - 2]
    features[-1].register_forward_hook(lambda _, args, out: seen.update(last=out))
    linear.register_forward_hook(lambda _, args, out: seen.update(read=args[0]))
    network(pixels())
    torch.testing.assert_close(seen["read"], seen["last"].mean((2, 3)))


@pytest.mark.parametrize("width", [0.0625, 0.25, 0.5, 1, 2])
def test_the_width_of_impala_multiplies_its_channels(width):
    network = make_network(f"impala:width={width}", 4, (21, 21), 6)
    shapes = [part.weight.shape[:2] for part in network.torso.children() if isinstance(part, nn.Conv2d)]
    a, b = int(16 * width), int(32 * width)
    assert shapes == [(a, 4), (b, a), (b, b)]
    assert sum(isinstance(part, nn.Conv2d) for part in network.modules()) == 15


def test_its_residual_blocks_are_the_identity_without_their_last_convolution():
    block = Residual(3)
    x = torch.randn(2, 3, 5, 5)
    inner = torch.nn.functional.conv2d(x.relu(), block.conv1.weight, block.conv1.bias, padding=1).relu()
    added = torch.nn.functional.conv2d(inner, block.conv2.weight, block.conv2.bias, padding=1)
    torch.testing.assert_close(block(x), x + added)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("impala:width=0", "--network impala:width=0: width=0: it has to be from 0.0625, one channel, to 16"),
        ("impala:width=nan", "from 0.0625"),
        ("impala:width=wide", "--network: impala: width=wide: it has to be a number"),
        ("impala:widht=2", "--network: impala has no option 'widht'; did you mean 'width'?"),
        ("nature:width=2", "--network: nature has no option 'width'"),
    ],
)
def test_wrong_options_of_a_named_network_are_refused_in_one_line(given, said):
    with pytest.raises(ConfigError) as refused:
        make_network(given, 4, SHAPE, 6)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


class Flat(Encoder):
    """An encoder whose features have no positions."""

    def __init__(self, stack, frame_shape):
        super().__init__()
        self.register_parameter("unused", nn.Parameter(torch.zeros(1)))

    def forward(self, x):
        return self.images(x).flatten(1)


def test_pooling_refuses_features_without_positions():
    with pytest.raises(ConfigError, match=r"--pool gap takes features \[B, channels, H, W\], and forward gives"):
        make_network(f"{__name__}:Flat", 4, SHAPE, 6, pool=True)


@pytest.mark.parametrize("name", NETWORKS)
def test_memory_format_and_precision_change_nothing_but_rounding(name):
    torch.manual_seed(0)
    network = make_network(name, 4, SHAPE, 6)
    plain = network(pixels())
    torch.testing.assert_close(network.to(memory_format=torch.channels_last)(pixels()), plain)
    torch.testing.assert_close(network.bfloat16()(pixels()).float(), plain, rtol=0.05, atol=0.02)
