"""The norms that a projection keeps are the true ones, and none is kept at almost zero."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nap
from nap.graph.weights import frobenius_norms

VALUES: dict[str, Callable[[int, int], Tensor]] = {
    "normal": torch.randn,
    "equal": lambda rows, columns: torch.full((rows, columns), 0.037),
    "heavy tails": lambda rows, columns: torch.randn(rows, columns) ** 3,
    "identity and 1e-4": lambda rows, columns: torch.eye(rows, columns) + 1e-4 * torch.randn(rows, columns),
    "identity and 1e-3": lambda rows, columns: torch.eye(rows, columns) + 1e-3 * torch.randn(rows, columns),
}
SHAPES = [(64, 64), (65, 64), (100, 100), (256, 576), (1, 9973), (999, 1001), (4096, 512), (2048, 2048)]


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_float32_norm_is_right_to_1e_6(values: str, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    value = VALUES[values](*shape)
    for form in (value, value.t(), value[::2], value[:, 1:], value.bfloat16()):
        (norm,) = frobenius_norms([form])
        assert norm.dtype is torch.float32
        assert abs(float(norm) / float(form.double().norm()) - 1) < 1e-6


def test_the_largest_and_channels_last_and_several_at_once() -> None:
    torch.manual_seed(0)
    large = torch.randn(4096, 4096)
    images = torch.randn(64, 32, 5, 5).contiguous(memory_format=torch.channels_last)
    values = [large, images, images[:, :, 1:], torch.zeros(100, 100), torch.randn(3), large[:70].half()]
    for norm, value in zip(frobenius_norms(values), values, strict=True):
        assert float(norm) == pytest.approx(float(value.double().norm()), rel=1e-6)


def test_up_to_4096_values_the_bits_are_those_of_one_foreach_call() -> None:
    values = [torch.randn(64, 64), torch.randn(4096), torch.randn(16, 4, 3, 3)]
    assert all(map(torch.equal, frobenius_norms(values), torch._foreach_norm(values)))


def test_an_identity_keeps_its_norm() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 2))
    nn.init.eye_(module[0].weight)
    nap.normalize(module)
    optimizer = torch.optim.Adam(module.parameters(), 1e-4)
    nap.Projection(module).attach(optimizer)
    for _ in range(20):
        optimizer.zero_grad()
        module(torch.randn(8, 1024)).square().mean().backward()
        optimizer.step()
    assert float(module[0].weight.detach().double().norm()) == pytest.approx(32, rel=1e-6)


# at zero, or almost


def three(scale: float) -> nn.Sequential:
    """Three layers; the second starts at `scale` times its usual values."""
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    with torch.no_grad():
        module[2].weight.mul_(scale)
    nap.normalize(module)
    return module


SECOND = next(name for name in nap.Projection(three(1.0)).names if not name.startswith("0"))


def second(module: nn.Module) -> Tensor:
    return module.get_parameter(SECOND)


@pytest.mark.parametrize("mode", ["frobenius", "neuron"])
@pytest.mark.parametrize("scale", [1e-3, 1e-8, 1e-20])
def test_a_matrix_that_starts_at_almost_zero_is_named_and_not_kept_there(mode: str, scale: float) -> None:
    module = three(scale)
    with pytest.warns(UserWarning, match=f"{SECOND} has outputs whose weights are almost zero.*initialise them larger"):
        projection = nap.Projection(module, mode=mode)
    assert projection.left_at_zero == [SECOND]
    with torch.no_grad():
        second(module).fill_(1)
    projection.project()
    assert (second(module) == 1).all()


@pytest.mark.parametrize("options", [{"radius": "unit"}, {"radius": "unit", "mode": "neuron"}])
def test_radius_unit_scales_it_up(options: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        projection = nap.Projection(three(1e-8), **options)
    assert projection.left_at_zero == []
    torch.testing.assert_close(projection.norms(), projection.initial_norms)


@pytest.mark.parametrize("scale", [1.0, 0.02])
def test_a_small_but_usual_start_is_kept(scale: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert nap.Projection(three(scale)).left_at_zero == []


@pytest.mark.parametrize("mode", ["frobenius", "neuron"])
@pytest.mark.parametrize("made", ["before the model is loaded", "after"])
def test_a_resume_leaves_alone_what_was_at_zero_in_the_run_that_saved(mode: str, made: str) -> None:
    module = three(0.0)
    projection = nap.Projection(module, mode=mode)
    optimizer = torch.optim.Adam(module.parameters(), 0.1)
    projection.attach(optimizer)
    module(torch.randn(8, 4)).square().mean().backward()
    optimizer.step()
    saved = copy.deepcopy((module.state_dict(), projection.state_dict()))
    for start in (0.0, 1.0):
        resumed = three(start)
        if made == "after":
            resumed.load_state_dict(saved[0])
        other = nap.Projection(resumed, mode=mode)
        other.load_state_dict(saved[1])
        resumed.load_state_dict(saved[0])
        assert other.left_at_zero == projection.left_at_zero == [SECOND]
        assert other.names == projection.names
        torch.testing.assert_close(other.initial_norms, projection.initial_norms)
        with torch.no_grad():
            second(resumed).fill_(1)
        other.project()
        assert (second(resumed) == 1).all()


def test_a_load_takes_up_what_is_at_zero_only_here() -> None:
    saved = nap.Projection(three(1.0)).state_dict()
    module = three(0.0)
    projection = nap.Projection(module)
    assert projection.left_at_zero == [SECOND]
    projection.load_state_dict(saved)
    assert projection.left_at_zero == []
    with torch.no_grad():
        second(module).normal_()
    projection.project()
    torch.testing.assert_close(second(module).norm(), saved["initial_norms"][SECOND])


def test_an_old_state_without_the_matrix_says_what_to_do() -> None:
    state = nap.Projection(three(0.0)).state_dict()
    del state["left_at_zero"]
    nap.Projection(three(0.0)).load_state_dict(state)
    projection = nap.Projection(three(1.0))
    before = projection.state_dict()
    with pytest.raises(ValueError, match=f"no initial norm of {SECOND}: it was at zero, excluded or missing"):
        projection.load_state_dict(state)
    torch.testing.assert_close(projection.state_dict(), before)


def test_a_model_on_meta_has_no_norms_to_keep() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(ValueError, match=r"0\.weight is on meta .* load its values first"):
        nap.Projection(model)
