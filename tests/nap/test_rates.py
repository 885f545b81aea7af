"""Parameter groups: every parameter once, decay where it belongs, rates by layer, and peak times shape."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import nap

LR = 1e-3


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))


def cnn() -> nn.Module:
    layers = (nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.ConvTranspose2d(4, 3, 2), nn.ReLU(), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(3 * 36, 2))


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=True)
    return nn.Sequential(nn.Embedding(7, 8), layer, nn.Linear(8, 3))


def tied() -> nn.Module:
    module = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 7))
    module[3].weight = module[0].weight
    return module


class Recurrent(nn.Module):
    """A free-standing parameter, a norm without scale, a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(5, 4))
        self.norm = nn.LayerNorm(4, elementwise_affine=False)
        self.rnn = nn.GRU(4, 3, batch_first=True)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.norm(x + self.positions))[0])


MODELS: dict[str, Callable[[], nn.Module]] = {
    "mlp": mlp,
    "cnn": cnn,
    "encoder": encoder,
    "tied": tied,
    "recurrent": Recurrent,
}
NORMS = (nn.LayerNorm, nn.RMSNorm, nn.BatchNorm2d, nap.ChannelNorm)


def peak_of(groups: list[dict[str, Any]]) -> dict[int, float]:
    return {id(parameter): float(group["lr"]) for group in groups for parameter in group["params"]}


def weighted_mean(groups: list[dict[str, Any]]) -> float:
    sizes = [sum(parameter.numel() for parameter in group["params"]) for group in groups]
    return sum(size * float(group["lr"]) for size, group in zip(sizes, groups, strict=True)) / sum(sizes)


@settings(max_examples=40, deadline=None)
@given(
    model=st.sampled_from(sorted(MODELS)),
    normalized=st.booleans(),
    rates=st.sampled_from(nap.RATES),
    weight_decay=st.sampled_from([0.0, 0.1]),
    scale_decay=st.sampled_from([0.0, 0.1, 1.0]),
    as_tensor=st.booleans(),
)
def test_every_parameter_is_in_one_group_with_its_decay_and_the_group_has_its_own_rate(
    model: str, normalized: bool, rates: str, weight_decay: float, scale_decay: float, as_tensor: bool
) -> None:
    module = MODELS[model]()
    if normalized:
        nap.normalize(module)
    norms = [part for part in module.modules() if isinstance(part, NORMS)]
    scales = {id(norm.weight) for norm in norms if norm.weight is not None}
    if not scales:
        scale_decay = 0.0
    lr: Any = torch.tensor(LR, dtype=torch.float64) if as_tensor else LR
    groups = nap.param_groups(module, lr, weight_decay=weight_decay, scale_decay=scale_decay, rates=rates)
    owned = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(owned) == sorted(id(parameter) for parameter in module.parameters())
    for group in groups:
        assert isinstance(group["lr"], Tensor) is as_tensor
        for parameter in group["params"]:
            of_norm = any(parameter is p for norm in norms for p in norm.parameters())
            expected = weight_decay if parameter.ndim >= 2 and not of_norm else 0.0
            assert group["weight_decay"] == (scale_decay if id(parameter) in scales else expected)
    rate_tensors = [id(group["lr"]) for group in groups if as_tensor]
    assert len(set(rate_tensors)) == len(rate_tensors)
    assert id(lr) not in rate_tensors
    assert len({group["name"] for group in groups}) == len(groups)
    optimizer = torch.optim.AdamW(groups)
    assert len(optimizer.param_groups) == len(groups)


@pytest.mark.parametrize(("rates", "output", "other"), [("fast-features", 0.1, 1), ("slow-features", 1, 0.1)])
@pytest.mark.parametrize(("model", "outputs"), [("mlp", ["4."]), ("encoder", ["2."]), ("tied", ["0.", "3."])])
def test_the_output_layer_has_its_own_rate(
    rates: str, output: float, other: float, model: str, outputs: list[str]
) -> None:
    module = MODELS[model]()
    nap.normalize(module)
    peaks = peak_of(nap.param_groups(module, LR, rates=rates, weight_decay=0.1))
    for name, parameter in module.named_parameters():
        factor = output if name.startswith(tuple(outputs)) else other
        assert peaks[id(parameter)] == pytest.approx(LR * factor)


@settings(max_examples=30, deadline=None)
@given(
    model=st.sampled_from(sorted(MODELS)),
    factors=st.lists(st.floats(0.01, 100), min_size=20, max_size=20),
    decay=st.sampled_from([0.0, 0.1]),
    seed=st.integers(0, 99),
)
def test_even_ratio_makes_an_update_the_same_share_of_each_layer(
    model: str, factors: list[float], decay: float, seed: int
) -> None:
    torch.manual_seed(seed)
    module = MODELS[model]()
    for parameter, factor in zip(module.parameters(), factors, strict=False):
        parameter.data.mul_(factor)
    groups = nap.param_groups(module, LR, rates="even-ratio", weight_decay=decay)
    assert weighted_mean(groups) == pytest.approx(LR, rel=1e-5)
    peaks = peak_of(groups)
    shares = []
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.Embedding):
            shares.append(peaks[id(layer.weight)] / float(layer.weight.detach().abs().mean()))
            if getattr(layer, "bias", None) is not None and model != "tied":
                assert peaks[id(layer.bias)] == peaks[id(layer.weight)]
        if isinstance(layer, nn.MultiheadAttention) and layer.in_proj_weight is not None:
            shares.append(peaks[id(layer.in_proj_weight)] / float(layer.in_proj_weight.detach().abs().mean()))
        if isinstance(layer, NORMS) and layer.weight is not None:
            assert peaks[id(layer.weight)] == pytest.approx(LR)
    assert shares == pytest.approx([shares[0]] * len(shares), rel=1e-5)


def test_a_layer_of_zeros_can_still_move() -> None:
    module = mlp()
    nn.init.zeros_(module[4].weight)
    groups = nap.param_groups(module, LR, rates="even-ratio")
    assert peak_of(groups)[id(module[4].weight)] == pytest.approx(LR)
    assert weighted_mean(groups) == pytest.approx(LR, rel=1e-5)
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    assert set(peak_of(nap.param_groups(module, LR, rates="even-ratio")).values()) == {LR}


@settings(max_examples=30, deadline=None)
@given(
    schedule=st.sampled_from(sorted(set(nap.SCHEDULES) - {"constant"})),
    step=st.integers(0, 120),
    as_tensor=st.booleans(),
    decay=st.sampled_from([0.0, 0.1]),
)
def test_refreshed_rates_are_those_of_new_groups_times_the_shape_of_the_schedule(
    schedule: str, step: int, as_tensor: bool, decay: float
) -> None:
    torch.manual_seed(0)
    module = encoder()
    lr: Any = torch.tensor(LR, dtype=torch.float64) if as_tensor else LR
    optimizer = torch.optim.Adam(nap.param_groups(module, lr, rates="even-ratio", weight_decay=decay))
    tensors = [group["lr"] for group in optimizer.param_groups]
    options = {"warmup": 10} if schedule == "delayed-cosine" else {}
    made = nap.make_schedule(schedule, optimizer, 100, floor=0.1 * made_first_peak(optimizer), **options)
    made.move_to(step)
    shares = [rate / peak for rate, peak in zip(made.lr_at(step), made.peaks, strict=True)]
    for i, parameter in enumerate(module.parameters()):
        parameter.data.mul_(1 + i)
    fresh = nap.param_groups(module, LR, rates="even-ratio", weight_decay=decay)
    nap.refresh_rates(module, optimizer, made)
    expected = [share * group["lr"] for share, group in zip(shares, fresh, strict=True)]
    assert [float(group["lr"]) for group in optimizer.param_groups] == pytest.approx(expected, rel=1e-5)
    assert made.peaks == pytest.approx([group["lr"] for group in fresh], rel=1e-5)
    assert not as_tensor or all(g["lr"] is lr for g, lr in zip(optimizer.param_groups, tensors, strict=True))


def made_first_peak(optimizer: torch.optim.Optimizer) -> float:
    return float(optimizer.param_groups[0]["lr"])


def test_rates_are_refreshed_without_a_schedule_and_a_hidden_one_is_refused() -> None:
    module = mlp()
    optimizer = torch.optim.AdamW(nap.param_groups(module, torch.tensor(LR), rates="even-ratio"), fused=True)
    tensors = [group["lr"] for group in optimizer.param_groups]
    module[0].weight.data.mul_(10)
    nap.refresh_rates(module, optimizer)
    fresh = nap.param_groups(module, LR, rates="even-ratio")
    assert [float(rate) for rate in tensors] == pytest.approx([group["lr"] for group in fresh], rel=1e-5)
    assert all(group["lr"] is rate for group, rate in zip(optimizer.param_groups, tensors, strict=True))
    module(torch.randn(2, 3)).sum().backward()
    optimizer.step()
    nap.Cosine(optimizer, 10)
    with pytest.raises(ValueError, match="a schedule is at work"):
        nap.refresh_rates(module, optimizer)
    with pytest.raises(ValueError, match="needs the groups of param_groups"):
        nap.refresh_rates(module, torch.optim.SGD(module.parameters(), LR))


@settings(max_examples=20, deadline=None)
@given(
    model=st.sampled_from(sorted(MODELS)),
    frozen=st.integers(0, 3),
    scheduled=st.booleans(),
    factors=st.lists(st.floats(0.01, 100), min_size=20, max_size=20),
)
def test_refreshing_is_exact_and_idempotent_where_the_optimizer_lacks_layers(
    model: str, frozen: int, scheduled: bool, factors: list[float]
) -> None:
    module = MODELS[model]()
    groups = nap.param_groups(module, LR, rates="even-ratio", weight_decay=0.1)
    optimizer = torch.optim.AdamW(groups[frozen:] or groups)
    schedule = nap.Cosine(optimizer, 10) if scheduled else None
    first = [group["lr"] for group in optimizer.param_groups]
    nap.refresh_rates(module, optimizer, schedule)
    assert [group["lr"] for group in optimizer.param_groups] == first
    for parameter, factor in zip(module.parameters(), factors, strict=False):
        parameter.data.mul_(factor)
    for _ in range(3):
        nap.refresh_rates(module, optimizer, schedule)
        fresh = peak_of(nap.param_groups(module, LR, rates="even-ratio", weight_decay=0.1))
        now = peak_of(optimizer.param_groups)
        assert now == pytest.approx({key: fresh[key] for key in now}, rel=1e-9)


def test_even_ratio_of_no_layers_is_one_rate_and_sums_of_half_weights_do_not_overflow() -> None:
    assert set(peak_of(nap.param_groups(nn.LayerNorm(4), LR, rates="even-ratio")).values()) == {LR}
    module = nn.Sequential(nn.Linear(300, 300), nn.Linear(300, 2)).half()
    for layer, size in zip(module, (1, 2), strict=True):
        nn.init.constant_(layer.weight, size)  # 90,000 is more than a half can hold
    peaks = peak_of(nap.param_groups(module, LR, rates="even-ratio"))
    assert peaks[id(module[1].weight)] == pytest.approx(2 * peaks[id(module[0].weight)])


class ForeignNorm(nn.Module):
    """An RMSNorm over the channels of [N, C] or [N, C, H, W], with names and a shape of its own."""

    def __init__(self, scale: str, offset: str, shape: tuple[int, ...], around_one: bool) -> None:
        super().__init__()
        self.names, self.around_one = (scale, offset), around_one
        if offset:
            self.register_parameter(offset, nn.Parameter(torch.zeros(shape)))
        self.register_parameter(scale, nn.Parameter(torch.ones(shape)))

    def forward(self, x: Tensor) -> Tensor:
        scale, offset = (getattr(self, name) if name else 0 for name in self.names)
        normed = x / (x.square().mean(1, keepdim=True) + 1e-12).sqrt()
        return normed * (1 + scale if self.around_one else scale) + offset


@pytest.mark.parametrize(("scale", "offset"), [("scale", ""), ("gamma", "beta"), ("g", "b"), ("bias", "weight")])
@pytest.mark.parametrize("around_one", [False, True])
@pytest.mark.parametrize("space", [False, True])
def test_the_scale_of_a_foreign_norm_is_found_by_what_it_does(
    scale: str, offset: str, around_one: bool, space: bool
) -> None:
    layer, flat = (nn.Conv2d(3, 4, 1), nn.Flatten()) if space else (nn.Linear(3, 4), nn.Identity())
    norm = ForeignNorm(scale, offset, (1, 4, 1, 1) if space else (4,), around_one)
    module = nn.Sequential(layer, norm, nn.ReLU(), flat, nn.Linear(4, 2))
    groups = nap.param_groups(module, LR, weight_decay=0.1, scale_decay=0.3)
    decays = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    expected = {name: 0.1 if name.endswith(".weight") else 0.0 for name, _ in module.named_parameters()}
    expected |= {f"1.{offset}": 0.0} if offset else {}
    expected[f"1.{scale}"] = 0.3
    assert {name: decays[id(parameter)] for name, parameter in module.named_parameters()} == expected
    before = [parameter.detach().clone() for parameter in norm.parameters()]
    projection = nap.Projection(module, affine="decay", decay=0.5)
    for parameter in norm.parameters():
        parameter.data += 1
    projection()
    torch.testing.assert_close(list(norm.parameters()), [value + 0.5 for value in before])


def test_a_resumed_run_keeps_the_refreshed_peaks() -> None:
    runs = []
    for _ in range(2):
        torch.manual_seed(0)
        module = mlp()
        optimizer = torch.optim.Adam(nap.param_groups(module, torch.tensor(LR), rates="even-ratio"))
        runs.append((module, optimizer, nap.Cosine(optimizer, 100, floor=1e-5)))
    (module, optimizer, schedule), (_, other, resumed) = runs
    module[2].weight.data.mul_(7)
    schedule.move_to(30)
    nap.refresh_rates(module, optimizer, schedule)
    nap.load_optimizer_state(other, optimizer.state_dict())
    resumed.load_state_dict(schedule.state_dict())
    for made in (schedule, resumed):
        made.move_to(31)
    assert [float(group["lr"]) for group in other.param_groups] == [float(g["lr"]) for g in optimizer.param_groups]


def test_bad_options_are_one_clear_line() -> None:
    bad: list[tuple[dict[str, Any], str]] = [
        ({"rates": "fast-feature"}, "did you mean 'fast-features'"),
        ({"scale_decay": 0.1}, "no norm layer here has a scale"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0 must be one number, finite and at least 0"),
        ({"weight_decay": math.nan}, "weight_decay=nan"),
        ({"scale_decay": math.inf}, "scale_decay=inf"),
        ({"lr": -1e-3}, "lr=-0.001"),
        ({"lr": torch.tensor(math.nan)}, "lr=tensor.nan."),
        ({"lr": torch.ones(2)}, "must be one number"),
    ]
    for options, message in bad:
        with pytest.raises(ValueError, match=message) as error:
            nap.param_groups(mlp(), **{"lr": LR} | options)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="no output layer was found"):
        nap.param_groups(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)), LR, rates="slow-features")
