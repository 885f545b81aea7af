"""The two networks: norms, biases, shapes, parameters counted by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import nap
from studies.warm_start.config import WarmStartConfig
from studies.warm_start.networks import ResNet18, make_network, small_cnn

NETWORKS = {
    "cnn": lambda: small_cnn((3, 16, 16), 10, 4, 8, (2, 2, 1)),
    "resnet18": lambda: ResNet18((3, 16, 16), 10, 2),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_nonlinearity_has_a_normalised_input(name):
    network = NETWORKS[name]()
    report = nap.analyze(network)
    assert not report.not_handled
    assert not report.projected_only
    assert not report.left_out
    assert report.outputs == ["head.weight"]
    assert len(report.scale_invariant) == {"cnn": 4, "resnet18": 20}[name]
    before = [(key, value.shape) for key, value in network.state_dict().items()]
    modules = [type(part) for part in network.modules()]
    assert not nap.normalize(network, conv_axes="channels_and_space").not_handled
    assert [(key, value.shape) for key, value in network.state_dict().items()] == before
    assert [type(part) for part in network.modules()] == modules


@pytest.mark.parametrize("name", NETWORKS)
def test_a_nonlinearity_sees_zero_mean_and_unit_variance(name):
    network = NETWORKS[name]()
    inputs = []
    for part in network.modules():
        if isinstance(part, nn.ReLU):
            part.register_forward_pre_hook(lambda _, args: inputs.append(args[0].detach().flatten(1)))
    network(torch.randn(5, 3, 16, 16))
    assert len(inputs) == {"cnn": 4, "resnet18": 17}[name]
    for x in inputs:
        torch.testing.assert_close(x.mean(1), torch.zeros(5), rtol=0, atol=1e-4)
        torch.testing.assert_close(x.var(1, correction=0), torch.ones(5), rtol=0, atol=1e-2)


def test_a_norm_over_channels_alone_is_each_positions_own():
    network = small_cnn((3, 16, 16), 10, 8, 8, (2, 2, 1), "channels")
    inputs: list[torch.Tensor] = []
    network.relu2.register_forward_pre_hook(lambda _, args: inputs.append(args[0].detach()))
    network(torch.randn(5, 3, 16, 16))
    torch.testing.assert_close(inputs[0].mean(1), torch.zeros(5, 4, 4), rtol=0, atol=1e-5)
    torch.testing.assert_close(inputs[0].var(1, correction=0), torch.ones(5, 4, 4), rtol=0, atol=1e-2)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_head_alone_has_a_bias(name):
    layers = {name: part for name, part in NETWORKS[name]().named_modules() if isinstance(part, nn.Linear | nn.Conv2d)}
    assert [name for name, part in layers.items() if part.bias is not None] == ["head"]


def test_without_norms_every_layer_is_followed_by_its_nonlinearity_and_has_a_bias():
    network = small_cnn((3, 16, 16), 10, 4, 8, (2, 2, 1), "none")
    parts = [type(part) for part in network if not isinstance(part, nn.Identity | nn.Flatten)]
    assert parts == [nn.Conv2d, nn.ReLU] * 3 + [nn.Linear, nn.ReLU, nn.Linear]
    assert all(part.bias is not None for part in network if isinstance(part, nn.Linear | nn.Conv2d))
    normal = NETWORKS["cnn"]().state_dict()
    assert {name for name in network.state_dict() if name.endswith("weight")} <= normal.keys()  # the same layers


@settings(deadline=None, max_examples=25)
@given(st.tuples(*[st.sampled_from([1, 2, 4])] * 3), st.integers(3, 33), st.integers(3, 33), st.sampled_from([1, 3]))
def test_the_cnn_fits_every_stride_and_size(strides, height, width, channels):
    network = small_cnn((channels, height, width), 7, 2, 3, strides)
    assert network(torch.rand(2, channels, height, width)).shape == (2, 7)


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (32, 32), (9, 17)])
def test_the_resnet_fits_every_size(size):
    network = ResNet18((1, *size), 7, 2)
    shapes = []
    for stage in network.stages:
        stage.register_forward_hook(lambda *args: shapes.append(args[2].shape[1:]))
    assert network(torch.rand(2, 1, *size)).shape == (2, 7)
    assert [shape[0] for shape in shapes] == [2, 2, 4, 4, 8, 8, 16, 16]
    assert shapes[1][1:] == size
    assert shapes[-1][1] == -(-size[0] // 8)


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_parameters_are_those_counted_by_hand():
    convolutions, norms = 3 * 32 * 25 + 2 * 32 * 32 * 9, 3 * 2 * 32 + 2 * 256
    hidden, head = 32 * 8 * 8 * 256, 256 * 10 + 10
    with torch.device("meta"):
        cnn = make_network(WarmStartConfig().resolved(), (3, 32, 32), 10)
        resnet = make_network(WarmStartConfig(network="resnet18").resolved(), (3, 32, 32), 10)
    assert count(cnn) == convolutions + norms + hidden + head == 548_394
    first, later = 4 * 64 * 64 * 9, sum(w * w // 2 * 9 + 3 * w * w * 9 + w * w // 2 for w in (128, 256, 512))
    usual_norms = 2 * (64 + 4 * 64 + 5 * (128 + 256 + 512))
    usual = 3 * 64 * 9 + first + later + usual_norms + 512 * 10 + 10
    assert usual == 11_173_962  # the CIFAR ResNet-18 with batch norm, as published
    assert count(resnet) == usual + 2 * 2 * (64 + 128 + 256 + 512)  # and a norm on each of the eight sums


def test_the_draw_depends_on_the_generator_alone():
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(NETWORKS["cnn"]().state_dict()["conv2.weight"])
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
