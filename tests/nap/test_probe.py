"""The probe leaves everything as it was, and reports what the metrics of the features themselves are."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import nap
from nap.metrics.probe import CHANGES, METRICS

FEATURE_METRICS = [name for name in METRICS if not name.startswith("policy_churn")]


class Noisy(nn.Module):
    """Counts its calls in a buffer, draws noise in eval mode too, from the global and from its own generator."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()), persistent=False)
        self.generator = torch.Generator().manual_seed(1)

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return x + torch.rand_like(x) + torch.rand(x.shape, generator=self.generator)


class Frozen(nn.BatchNorm1d):
    """A norm whose flag is its own: `train` does not reach it."""

    def train(self, mode: bool = True) -> Frozen:
        return self


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.first(x)))


class Twice(nn.Module):
    """One activation module, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.act = nn.Linear(6, 5), nn.Linear(5, 7), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.b(self.act(self.a(x))))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 3))


def batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), Noisy(), Frozen(8), nn.GELU())


def normalized() -> nn.Module:
    made = mlp()
    nap.normalize(made)
    return made


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)
    )


def transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(6, 2, 12, batch_first=True)
    made = nn.Sequential(nn.Unflatten(1, (1, 6)), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))
    nap.normalize(made)
    return made


def in_place_on_the_input() -> nn.Module:
    return nn.Sequential(nn.LeakyReLU(inplace=True), nn.Linear(6, 3), nn.ELU(), nn.Linear(3, 3), nn.Hardtanh(0, 1))


MODELS = [mlp, batch_norm, normalized, conv, transformer, Twice, in_place_on_the_input]


def everything(model: nn.Module, x: Tensor) -> dict[str, Any]:
    """All that a probe could have changed, by value and by identity."""
    state = {f"value {name}": value.clone() for name, value in model.state_dict(keep_vars=True).items()}
    parameters = dict(model.named_parameters()) | dict(model.named_buffers())
    return state | {
        "identities": {name: (id(p), p.data_ptr(), p._version) for name, p in parameters.items()},
        "buffers": {name: value.clone() for name, value in model.named_buffers()},
        "gradients": {name: None if p.grad is None else (id(p.grad), p.grad.clone()) for name, p in parameters.items()},
        "flags": {name: part.training for name, part in model.named_modules()},
        "hooks": {n: (dict(m._forward_hooks), dict(m._forward_pre_hooks)) for n, m in model.named_modules()},
        "own generators": [m.generator.get_state() for m in model.modules() if isinstance(m, Noisy)],
        "rng": torch.get_rng_state(),
        "batch": x.clone(),
        "grad mode": torch.is_grad_enabled(),
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


@settings(max_examples=40, deadline=None)
@given(make=st.sampled_from(MODELS), flags=st.lists(st.booleans(), min_size=8, max_size=8), seed=st.integers(0, 99))
def test_measuring_changes_nothing(make: Callable[[], nn.Module], flags: list[bool], seed: int) -> None:
    torch.manual_seed(seed)
    model, x = make(), torch.randn(5, 6)
    model(x.clone()).square().sum().backward()
    for flag, part in zip(flags, model.modules(), strict=False):
        part.training = flag
    probe = nap.Probe(model, x, FEATURE_METRICS)
    before = everything(model, x)
    first, second = probe.measure(), probe.measure()
    assert same(everything(model, x), before)
    assert all(math.isfinite(float(value)) or name.startswith("linear_cka") for name, value in second.items())
    assert all(value.shape == () and value.dtype is torch.float32 for value in second.values())
    unchanging = {name: value for name, value in second.items() if name in first}
    assert same(unchanging, first), "the same model and batch, measured twice"
    changes = [v for name, v in second.items() if name.startswith(("covariance_change", "pattern_change"))]
    assert all(float(value) == 0 for value in changes)


def test_a_failing_forward_leaves_nothing_behind() -> None:
    model, x = batch_norm(), torch.randn(5, 6)
    probe = nap.Probe(model, x)
    probe.measure()
    before, kept = everything(model, x), probe.state_dict()
    model[5].forward = lambda x: x.nonsense
    with pytest.raises(AttributeError, match="nonsense"):
        probe.measure()
    assert same(everything(model, x), before)
    assert same(probe.state_dict(), kept)


def test_it_reports_the_metrics_of_the_features() -> None:
    torch.manual_seed(0)
    model, x = mlp().eval(), torch.randn(9, 6)
    pre = [model[0](x).detach(), model[:4](x).detach()]
    post = [pre[0].relu(), pre[1].tanh()]
    thresholds = [f"feature_rank_lyle_{eps}" for eps in (0.05, 0.1, 0.2, 0.4)]
    found = nap.Probe(model, x, [*FEATURE_METRICS, "dormant_sokar_0.5", "srank_kumar_0.2", *thresholds]).measure()
    for name, features, inputs in zip(("1", "4"), post, pre, strict=True):
        expected = {
            "erank_roy": nap.erank_roy(features),
            "srank_kumar_0.01": nap.srank_kumar(features),
            "srank_kumar_0.2": nap.srank_kumar(features, 0.2),
            "approximate_rank_yang_0.01": nap.approximate_rank_yang(features),
            "stable_rank": nap.stable_rank(features),
            "feature_rank_lyle_0.01": nap.feature_rank_lyle(features),
            "dormant_sokar_0.5": nap.dormant_sokar(features, 0.5),
            "dormant_dohare_0.01": nap.dormant_dohare(features),
            "dead_units": nap.dead_units(features),
            "linearised_units": nap.linearised_units(inputs),
        }
        expected |= {name: nap.feature_rank_lyle(features, float(name[18:])) for name in thresholds}
        for metric, value in expected.items():
            assert float(found[f"{metric}/{name}"]) == pytest.approx(float(value), rel=1e-5), metric
    assert float(found["dormant_sokar_0.5"]) == pytest.approx(float(nap.dormant_sokar(post, 0.5)))
    assert float(found["dead_units"]) == pytest.approx(float(nap.dead_units(post)))
    assert float(found["linearised_units"]) == pytest.approx(float(nap.linearised_units(pre)))


def test_a_convolution_is_one_row_per_input_and_its_units_are_channels() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 2, 7, 7)
    model = nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU())
    model[0].bias.data[1] = -99.0
    out = model(x).detach()
    for memory in (torch.contiguous_format, torch.channels_last):
        found = nap.Probe(model.to(memory_format=memory), x.to(memory_format=memory)).measure()
        assert float(found["erank_roy/1"]) == pytest.approx(float(nap.erank_roy(out.flatten(1))), rel=1e-4)
        assert float(found["dead_units/1"]) == pytest.approx(1 / 5)
        channels = out.movedim(1, -1).flatten(0, -2)
        assert float(found["dormant_sokar_0.025/1"]) == pytest.approx(float(nap.dormant_sokar(channels)))
    positions = nap.Probe(model, x, layers={"1": -1}).measure()
    assert float(positions["erank_roy/1"]) == pytest.approx(float(nap.erank_roy(out.flatten(0, -2))), rel=1e-4)


def test_positions_are_rows_and_are_thinned() -> None:
    model, x = nn.Sequential(nn.Linear(3, 6), nn.ReLU()), torch.randn(4, 5, 3)
    rows = model(x).detach().flatten(0, 1)
    full = nap.Probe(model, x, ["erank_roy", "dead_units"]).measure()
    assert float(full["erank_roy/1"]) == pytest.approx(float(nap.erank_roy(rows)), rel=1e-5)
    thin = nap.Probe(model, x, ["erank_roy", "dead_units"], max_rows=7).measure()
    kept = rows[[i * 20 // 7 for i in range(7)]]
    assert float(thin["erank_roy/1"]) == pytest.approx(float(nap.erank_roy(kept)), rel=1e-5)
    assert same(thin["dead_units"], full["dead_units"])


def test_changes_are_since_the_previous_call_and_since_the_first() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4)), torch.randn(6, 3)
    probe = nap.Probe(model, x, [name for name in METRICS if name.removesuffix("_from_first") in CHANGES])
    seen = []
    for call in range(3):
        features, values = model[:2](x).detach(), model(x).detach()
        found = probe.measure()
        seen.append((nap.feature_covariance(features), nap.activation_pattern(features), features, values))
        assert ("covariance_change/1" in found) == ("policy_churn" in found) == (call > 0)
        for suffix, old in (("", seen[max(0, call - 1)]), ("_from_first", seen[0])):
            if call == 0 and not suffix:
                continue
            expected = [
                nap.covariance_change(old[0], seen[-1][0]),
                nap.pattern_change(old[1], seen[-1][1]),
                nap.linear_cka(old[2], features),
            ]
            names = (f"covariance_change{suffix}/1", f"pattern_change{suffix}/1", f"linear_cka{suffix}/1")
            assert [float(found[name]) for name in names] == pytest.approx(list(map(float, expected)), abs=1e-6)
            assert float(found[f"policy_churn{suffix}"]) == float(nap.policy_churn(old[3], values))
        for parameter in model.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)


def test_state_goes_on_exactly_and_owns_its_memory() -> None:
    torch.manual_seed(0)
    model, x = mlp(), torch.randn(5, 6)
    probe = nap.Probe(model, x, FEATURE_METRICS)
    probe.measure()
    model[0].weight.data.mul_(-1)
    probe.measure()
    saved = copy.deepcopy(probe.state_dict())
    other = nap.Probe(model, torch.zeros(2, 6), FEATURE_METRICS)
    other.load_state_dict(probe.state_dict())
    model[0].weight.data.add_(0.5)
    x.zero_()
    assert same(probe.measure(), other.measure())
    assert not same(probe.state_dict(), saved)
    again = nap.Probe(model, x, FEATURE_METRICS)
    again.load_state_dict(saved)
    assert same(again.measure(), nap_again(model, saved))


def nap_again(model: nn.Module, saved: dict[str, Any]) -> dict[str, Tensor]:
    probe = nap.Probe(model, torch.zeros(1, 6), FEATURE_METRICS)
    probe.load_state_dict(saved)
    return probe.measure()


def names(probe: nap.Probe) -> set[str]:
    return {name.partition("/")[2] for name in probe.measure() if "/" in name}


def test_which_layers_are_hidden() -> None:
    x = torch.randn(5, 6)
    assert names(nap.Probe(normalized(), x)) == {"1", "4"}
    assert names(nap.Probe(Twice(), x)) == {"act", "act[1]"}
    policy = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2), nn.Tanh())
    assert names(nap.Probe(policy, x)) == {"1"}
    assert names(nap.Probe(policy, x, layers=["3", "1"])) == {"1", "3"}
    assert names(nap.Probe(transformer(), x)) == {"1.layers.0.activation", "1.layers.1.activation"}
    assert names(nap.Probe(Functional(), x, layers=["first"])) == {"first"}


def test_linearised_units_of_a_normalised_activation_are_read_after_the_norm() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    nap.normalize(model)
    model[1].norm.bias.data = torch.tensor([9.0, 9, 0, 0, 0, 0, 0, -9])
    found = nap.Probe(model, torch.randn(64, 6)).measure()
    assert float(found["linearised_units/1"]) == pytest.approx(2 / 8)
    assert float(found["dead_units/1"]) == pytest.approx(1 / 8)


def test_functions_and_unknown_names_are_refused_with_the_way_out() -> None:
    x = torch.randn(5, 6)
    with pytest.raises(ValueError, match=r"relu\(\) is called as a function in Functional.*first, last"):
        nap.Probe(Functional(), x)
    with pytest.raises(ValueError, match=r"no nonlinearity is a module in Linear"):
        nap.Probe(nn.Linear(6, 3), x)
    with pytest.raises(ValueError, match=r"relu\(\) .*layers.0.linear1"):
        nap.Probe(nn.TransformerEncoder(nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), 1), x)
    with pytest.raises(ValueError, match="did you mean 'first'"):
        nap.Probe(Functional(), x, layers=["frist"])
    with pytest.raises(ValueError, match="did you mean 'srank_kumar'"):
        nap.Probe(mlp(), x, ["srank_kuma"])
    for metric in ("erank_roy_0.1", "srank_kumar_nan", "srank"):
        with pytest.raises(ValueError, match="unknown"):
            nap.Probe(mlp(), x, [metric])
    with pytest.raises(ValueError, match="not one string"):
        nap.Probe(mlp(), x, "erank_roy")
    unused = Functional()
    unused.spare = nn.ReLU()
    with pytest.raises(ValueError, match="does not call spare"):
        nap.Probe(unused, x, layers=["first", "spare"]).measure()
    with pytest.raises(ValueError, match=r"policy_churn needs a model whose output is a tensor \[batch, actions\]"):
        nap.Probe(Twice(), (x[:, None],), ["policy_churn"]).measure()
    with pytest.raises(ValueError, match="puts out no tensor"):
        nap.Probe(nn.Sequential(nn.LSTM(6, 3)), x, layers=["0"]).measure()


def test_features_that_are_not_finite_give_nan() -> None:
    model, x = mlp(), torch.randn(5, 6)
    model[0].weight.data[0, 0] = math.nan
    probe = nap.Probe(model, x, METRICS)
    probe.measure()
    found = probe.measure()  # the changes too, with policy churn
    assert {"policy_churn", "pattern_change/1", "covariance_change_from_first/4"} <= found.keys()
    assert all(math.isnan(float(value)) for value in found.values())


def test_a_compiled_model_is_probed_without_compiling_again() -> None:
    compilations = []

    def backend(graph: Any, _: Any) -> Any:
        compilations.append(graph)
        return graph.forward

    torch.manual_seed(0)
    x = torch.randn(5, 6)
    model = mlp()
    expected = nap.Probe(model, x).measure()
    outer = torch.compile(model, backend=backend)
    inner = nn.Sequential(torch.compile(copy.deepcopy(model), backend=backend))
    own = copy.deepcopy(model)
    own.compile(backend=backend)
    for compiled in (outer, inner, own):
        compiled(x)
        count = len(compilations)
        found = nap.Probe(compiled, x, layers=["*1", "*4"]).measure()
        compiled(x)
        assert len(compilations) == count
        assert sorted(map(float, found.values())) == sorted(map(float, expected.values()))
    assert same(nap.Probe(outer, x).measure(), expected)


def test_nothing_waits_for_the_device() -> None:
    """On the meta device any read of a value fails; ranks are left out, as their eigenvalues wait."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8), nn.ReLU()).to("meta")
    metrics = [name for name in FEATURE_METRICS if name not in nap.metrics.probe.RANKS]
    probe = nap.Probe(model, torch.zeros(5, 1, 6, 6, device="meta"), metrics)
    probe.measure()
    assert len(probe.measure()) == 2 * len(metrics) + 4
