"""What `nap.graph` says of a layer with further parameters of its own."""

import copy

import pytest
import torch
from torch import nn

import nap
from nap.graph import ParameterSpec, find_weights, hidden_units, parameter_spec


class Noisy(nn.Linear):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.weight_sigma = nn.Parameter(torch.full_like(self.weight, 0.5))
        self.parameter_spec = ParameterSpec(coscaled={"weight_sigma": "weight"}, initial={"weight_sigma": 0.5})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        noise = self.weight_sigma * torch.randn_like(self.weight) if self.training else 0
        return nn.functional.linear(x, self.weight + noise, self.bias)


def test_a_layer_that_states_its_parameters_is_projected_with_them_and_so_is_its_copy() -> None:
    model = nn.Sequential(Noisy(4, 6), nn.ReLU(), nn.Linear(6, 2))
    for each in (model, copy.deepcopy(model)):
        projection = nap.Projection(each)
        with torch.no_grad():
            each[0].weight.mul_(3)
            each[0].weight_sigma.mul_(3)
        share = each[0].weight_sigma.norm() / each[0].weight.norm()
        projection.project()
        torch.testing.assert_close(projection.norms(), projection.initial_norms)
        torch.testing.assert_close(each[0].weight_sigma.norm() / each[0].weight.norm(), share)


def test_its_units_have_the_entries_of_the_noise_with_what_they_start_at() -> None:
    [layer] = hidden_units(nn.Sequential(Noisy(4, 6), nn.ReLU(), nn.Linear(6, 2))).layers
    [(slot, first)] = layer.noise
    assert (slot.name, first, slot.values.shape) == ("weight_sigma", 0.5, (6, 4))


def test_a_layer_that_states_nothing_has_nothing() -> None:
    assert parameter_spec(nn.Linear(2, 2)) == ParameterSpec()
    assert find_weights(nn.Linear(2, 2))["weight"].coscaled_params == []


def test_a_coscaled_parameter_needs_an_initial_value() -> None:
    with pytest.raises(ValueError, match="coscaled has 'sigma', whose initial value is not given"):
        ParameterSpec(coscaled={"sigma": "weight"})
