"""Projection as an upper bound on norms, and to a norm that is given as a number."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import nap
from tests.nap.test_project import LAYERS, NETWORKS, OPTIMIZERS, Operations, encoder, mlp, neurons, update

RADII: tuple[str | float, ...] = ("initial", "unit", 0.5, 3.0)


def literal(layer: nn.Module, moved: Tensor, limits: list[float]) -> list[list[float]]:
    """The neurons of a layer's weight, each cut to its limit where it is longer, one weight at a time."""
    rows = neurons(layer, "weight", moved)
    norms = [sum(w * w for w in row) ** 0.5 for row in rows]
    cut = [limit / norm if norm > limit else 1.0 for norm, limit in zip(norms, limits, strict=True)]
    return [[w * factor for w in row] for row, factor in zip(rows, cut, strict=True)]


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from(sorted(LAYERS)),
    radius=st.sampled_from(RADII),
    factor=st.floats(0.01, 30),
    seed=st.integers(0, 99),
)
def test_a_neuron_is_cut_to_its_limit_or_stays_to_the_bit(
    kind: str, radius: str | float, factor: float, seed: int
) -> None:
    torch.manual_seed(seed)
    layer = LAYERS[kind]()
    before = layer.weight.detach().clone()
    projection = nap.Projection(layer, mode="neuron", radius=radius, bound=True, include=lambda *_: True)
    first = [sum(w * w for w in row) ** 0.5 for row in neurons(layer, "weight", before)]
    given_number = 1.0 if radius == "unit" else radius
    limits = [norm if radius == "initial" else float(given_number) for norm in first]
    start = torch.tensor(literal(layer, before, limits), dtype=torch.float64)
    torch.testing.assert_close(
        torch.tensor(neurons(layer, "weight", layer.weight.detach())), start.float(), atol=1e-6, rtol=1e-5
    )
    layer.weight.data.mul_(factor).add_(torch.randn_like(before), alpha=0.3)
    moved = layer.weight.detach().clone()
    projection()
    expected, now = literal(layer, moved, limits), neurons(layer, "weight", layer.weight.detach())
    for row, old, wanted, limit in zip(now, neurons(layer, "weight", moved), expected, limits, strict=True):
        assert row == pytest.approx(wanted, rel=1e-4, abs=1e-6)
        if sum(w * w for w in old) ** 0.5 < 0.9999 * limit:
            assert row == old
    once = layer.weight.detach().clone()
    projection()
    torch.testing.assert_close(layer.weight.detach(), once, rtol=1e-6, atol=0)


@settings(max_examples=15, deadline=None)
@given(
    network=st.sampled_from(sorted(NETWORKS)),
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
    radius=st.sampled_from(RADII),
    affine=st.sampled_from(["free", "decay", "joint"]),
    mode=st.sampled_from(["frobenius", "neuron"]),
)
def test_no_norm_is_above_its_limit_after_an_update(
    network: str, optimizer: str, radius: str | float, affine: str, mode: str
) -> None:
    module, x = NETWORKS[network][0](), NETWORKS[network][1]
    made = OPTIMIZERS[optimizer](module.parameters())
    bounded = nap.Projection(module, mode=mode, radius=radius, affine=affine, bound=True).attach(made)
    for _ in range(3):
        update(module, x, made)
        limits = bounded.initial_norms
        assert all((norm <= limits[name] * (1 + 1e-5)).all() for name, norm in bounded.norms().items())
    assert any((norm < 0.999 * bounded.initial_norms[name]).any() for name, norm in bounded.norms().items()) or (
        radius in ("initial", 0.5, "unit")
    )


@pytest.mark.parametrize("mode", ["frobenius", "neuron"])
def test_a_number_is_the_norm_of_every_unit_at_once(mode: str) -> None:
    module = encoder()
    projection = nap.Projection(module, mode=mode, radius=2.0)
    for norm in projection.norms().values():
        torch.testing.assert_close(norm, torch.full_like(norm, 2.0), rtol=1e-6, atol=0)
    for parameter in module.parameters():
        parameter.data.mul_(0.3)
    projection()
    assert all(((norm - 2).abs() < 1e-5).all() for norm in projection.norms().values())


def test_what_starts_at_zero_may_grow_up_to_a_number() -> None:
    layer = nn.Linear(3, 4, bias=False)
    nn.init.zeros_(layer.weight)
    projection = nap.Projection(layer, mode="neuron", radius=2.0, bound=True, include=lambda *_: True)
    assert not layer.weight.any()
    assert projection.left_at_zero == []
    layer.weight.data.fill_(5)
    projection()
    torch.testing.assert_close(layer.weight.detach().norm(dim=1), torch.full((4,), 2.0))
    other = nn.Linear(3, 4, bias=False)
    nn.init.zeros_(other.weight)
    free = nap.Projection(other, bound=True, include=lambda *_: True)
    assert free.left_at_zero == ["weight"]  # its own initial norm would hold it at zero


def test_joint_cuts_scale_and_offset_and_lets_them_shrink() -> None:
    module = mlp(3, 6, 2)
    norm = next(part for part in module.modules() if isinstance(part, nn.LayerNorm))
    projection = nap.Projection(module, affine="joint", bound=True)
    for factor, expected in ((0.5, 0.5 * 6**0.5), (8.0, 6**0.5)):
        norm.weight.data.mul_(factor)
        projection()
        assert norm.weight.norm().item() == pytest.approx(expected, rel=1e-5)


def test_a_noisy_pair_is_cut_by_one_factor_and_split_blocks_each_by_its_own() -> None:
    layer = nn.Linear(6, 4, bias=False)
    layer.sigma = nn.Parameter(torch.full((4, 6), 0.3))
    layer.parameter_spec = nap.ParameterSpec(coscaled={"sigma": "weight"}, initial={"sigma": 0.3})
    projection = nap.Projection(layer, radius=1.0, bound=True, include="weight", split={"weight": 2})
    layer.weight.data[:2] = 3.0
    layer.sigma.data[:2] = 4.0
    layer.weight.data[2:] = layer.sigma.data[2:] = 0.1
    projection()
    scale = 1 / (5 * 12**0.5)
    torch.testing.assert_close(layer.weight.detach()[:2], torch.full((2, 6), 3 * scale))
    torch.testing.assert_close(layer.sigma.detach()[:2], torch.full((2, 6), 4 * scale))
    assert (layer.weight[2:] == 0.1).all()
    assert (layer.sigma[2:] == 0.1).all()


def test_stacked_projections_cut_each_network_as_alone() -> None:
    modules = [mlp(3, 6, 4, 2) for _ in range(3)]
    alone = copy.deepcopy(modules)
    stacks: dict[int, Tensor] = {}
    for parameters in zip(*(module.parameters() for module in modules), strict=True):
        stacked = torch.stack([parameter.detach() for parameter in parameters])
        for i, parameter in enumerate(parameters):
            parameter.data = stacked[i]
        stacks[id(parameters[0])] = stacked
    options: dict[str, Any] = {"radius": 2.0, "bound": True, "affine": "joint"}
    together = [nap.Projection(module, **options) for module in modules]
    single = [nap.Projection(module, **options) for module in alone]
    whole = nap.StackedProjection(together, lambda parameter: stacks[id(parameter)])
    for factor in (0.4, 7.0):
        for module, twin in zip(modules, alone, strict=True):
            for p, q in zip(module.parameters(), twin.parameters(), strict=True):
                p.data.mul_(factor)
                q.data.mul_(factor)
        whole.project()
        for projection in single:
            projection.project()
        for module, twin in zip(modules, alone, strict=True):
            torch.testing.assert_close(module.state_dict(), twin.state_dict(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("mode", ["frobenius", "neuron"])
def test_it_compiles_as_one_graph_and_nothing_waits_for_the_device(mode: str) -> None:
    torch._dynamo.reset()
    module = encoder()
    twin = copy.deepcopy(module)
    projection, eager = (nap.Projection(m, mode=mode, radius=0.7, bound=True, affine="joint") for m in (module, twin))
    compiled = torch.compile(projection.project, fullgraph=True, backend="aot_eager")
    for part in (module, twin):
        for parameter in part.parameters():
            parameter.data.mul_(1.7).add_(0.01)
    compiled()
    with Operations() as seen:
        eager()
    torch.testing.assert_close(module.state_dict(), twin.state_dict())
    assert not any("_local_scalar_dense" in name or "_to_copy" in name for name in seen.names)


def test_a_saved_state_and_a_copy_keep_the_bound() -> None:
    module = mlp(3, 5, 2)
    first = nap.Projection(module, mode="neuron", bound=True)
    state = copy.deepcopy(first.state_dict())
    other = copy.deepcopy(module)
    for parameter in other.parameters():
        parameter.data.mul_(2)
    second = nap.Projection(other, mode="neuron", bound=True)
    second.load_state_dict(state)
    second()
    torch.testing.assert_close(second.norms(), first.norms())
    third = copy.deepcopy(module)
    for parameter in third.parameters():
        parameter.data.mul_(0.5)
    shrunk = nap.snapshot(third)
    first.for_module(third)()
    assert all(map(torch.equal, nap.snapshot(third).values(), shrunk.values()))


def test_every_counts_and_a_bad_option_is_one_line() -> None:
    module = mlp(3, 5, 2)
    optimizer = torch.optim.SGD(module.parameters(), 0.0)
    projection = nap.Projection(module, radius=1.0, bound=True, every=2).attach(optimizer)
    lengths = []
    for _ in range(4):
        module[0].weight.data.mul_(3 / module[0].weight.norm())
        update(module, torch.randn(4, 3), optimizer)
        lengths.append(round(float(projection.norms()["0.weight"]), 3))
    assert lengths == [3.0, 1.0, 3.0, 1.0]
    bad: list[tuple[dict[str, Any], str]] = [
        ({"bound": True, "update": "fixed"}, "bound=True has no effect with update=.fixed."),
        ({"radius": 0.0}, "radius=0.0 must be a number above 0, 'initial' or 'unit'"),
        ({"radius": float("inf")}, "radius=inf must be a number above 0"),
        ({"radius": float("nan")}, "radius=nan must be a number above 0"),
        ({"radius": -1}, "radius=-1 must be a number above 0"),
        ({"radius": True}, "radius=True must be a number above 0"),
        ({"radius": None}, "radius=None must be a number above 0"),
    ]
    for options, message in bad:
        with pytest.raises(ValueError, match=message) as error:
            nap.Projection(module, **options)
        assert "\n" not in str(error.value)
