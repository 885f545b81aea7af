import pytest
import torch
from torch import nn

import nap
from agents.names import NETWORKS
from agents.networks.encoders import make_network
from nap.graph import hidden_units
from plasticity.layers import choose_layers, draw_layer, draw_network, hidden_layers
from plasticity.loops import INPUTS, cnn, mlp


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("build", [mlp, cnn, *NETWORKS])
def test_a_units_columns_are_those_that_read_it_and_its_rows_those_that_make_it(build, normalized):
    """By touching them: noise in a unit's own numbers moves that feature alone; zero columns make it unread."""
    network = make_network(build, 4, (52, 52), 3) if isinstance(build, str) else build()
    shape = (4, 52, 52) if isinstance(build, str) else INPUTS[build]
    inputs = torch.randint(0, 256, (3, *shape), dtype=torch.uint8) if isinstance(build, str) else torch.randn(3, *shape)
    if normalized:
        nap.normalize(network)
    caught = {}
    for name, part in network.named_modules():
        part.register_forward_hook(lambda _, args, out, name=name: caught.update({name: out.detach()}))
    layers = hidden_layers(network)
    network(inputs)
    assert [layer.units for layer in layers] == [caught[layer.name].shape[1] for layer in layers]
    for layer in layers:
        with torch.no_grad():
            network(inputs)
            before, unit = caught[layer.name], layer.units // 2
            assert all(slot.values.shape[0] == layer.units for slot in layer.slots)
            for slot in layer.affine.values() if normalized else [layer.weight, layer.bias]:
                slot.values[unit] += 10.0 if slot.name == "bias" else 0.1
            network(inputs)
            moved = (caught[layer.name] - before).abs().transpose(0, 1).flatten(1).sum(1)
            assert moved[unit] > 0
            assert moved.count_nonzero() == 1
            for slot in layer.columns:
                slot.values[unit] = 0
            output = network(inputs)
            handle = network.get_submodule(layer.name).register_forward_hook(
                lambda _, args, out, unit=unit: out.index_fill(1, torch.tensor([unit]), 7.0)
            )
            torch.testing.assert_close(network(inputs), output)
            handle.remove()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("normalized", [False, True])
def test_a_fresh_draw_is_distributed_as_the_network_is_at_its_start(name, normalized):
    torch.manual_seed(0)
    network = make_network(name, 4, (84, 84), 6)
    if normalized:
        nap.normalize(network)
    layers = choose_layers(network, ("all",))
    fresh = draw_network(network, layers, torch.Generator().manual_seed(1))
    for key, value in network.named_parameters():
        assert fresh[key].shape == value.shape
        if value.numel() > 500:  # of so many uniform draws the largest is close to the bound
            assert fresh[key].abs().max() == pytest.approx(value.abs().max().item(), rel=0.02)
        assert torch.equal(fresh[key], value) == (value.unique().numel() == 1)


def test_a_fresh_embedding_keeps_its_padding_at_zero():
    drawn = draw_layer(nn.Embedding(5, 3, padding_idx=-2), torch.Generator())["weight"]
    assert drawn[3].tolist() == [0, 0, 0]
    assert drawn.count_nonzero() == 12


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.inner, self.outer = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.act1, self.act2, self.head = nn.ReLU(), nn.ReLU(), nn.Linear(8, 2)

    def forward(self, x):
        x = self.act1(self.first(x))
        return self.head(x + self.outer(self.act2(self.inner(x))))


class Functions(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


class Shared(Functions):
    def __init__(self):
        super().__init__()
        self.act, self.inner = nn.ReLU(), nn.Linear(8, 8)

    def forward(self, x):
        return self.second(self.act(self.inner(self.act(self.first(x)))))


class Skips(Functions):
    def __init__(self):
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, x):
        x = self.first(x)
        return self.second(self.act(x)) + x.sum(-1, keepdim=True)


def test_what_cannot_be_mapped_is_left_out_with_the_reason():
    found = hidden_units(Residual())
    assert [layer.name for layer in found.layers] == ["act2"]
    assert "add" in found.left_out["act1"]
    assert list(found.outputs) == ["head"]


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (Functions(), "function"),
        (Shared(), "several calls"),
        (Skips(), "something else"),
        (nn.Sequential(nn.Linear(2, 2)), "no nonlinearity"),
        (nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.ReLU(), nn.Conv2d(4, 2, 3)), "groups"),
        (nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.BatchNorm1d(4), nn.Linear(4, 2)), "feeds BatchNorm1d"),
    ],
)
def test_a_network_with_nothing_to_work_on_is_refused_with_the_reason(network, said):
    with pytest.raises(ValueError, match=said):
        hidden_layers(network)


def test_a_bounded_output_is_no_hidden_layer():
    network = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2), nn.Tanh())
    assert [layer.name for layer in hidden_layers(network)] == ["1"]


def test_draws_are_those_of_the_constructors():
    for layer in (nn.Linear(40, 30), nn.Conv2d(3, 20, 4), nn.Embedding(30, 20), nn.LayerNorm(5), nn.GroupNorm(2, 4)):
        fresh = draw_layer(layer, torch.Generator().manual_seed(0))
        for name, parameter in layer.named_parameters():
            assert fresh[name].shape == parameter.shape
            assert fresh[name].std(correction=0).item() == pytest.approx(parameter.std(correction=0).item(), rel=0.4)
            assert fresh[name].mean().item() == pytest.approx(parameter.mean().item(), abs=0.15)
    with pytest.raises(ValueError, match="PReLU"):
        draw_layer(nn.PReLU(), torch.Generator())


def test_layers_are_chosen_by_name_part_or_role():
    network = make_network("small", 4, (44, 44), 3)
    assert choose_layers(network, ["output"]) == ["head"]
    assert choose_layers(network, ["torso"]) == ["torso.0", "torso.2", "torso.5"]
    assert choose_layers(network, ["head", "torso.[05]"]) == ["torso.0", "torso.5", "head"]
    assert choose_layers(network, ["all"]) == ["torso.0", "torso.2", "torso.5", "head"]
    nap.normalize(network)
    assert choose_layers(network, ["torso.6"]) == ["torso.6.norm"]
