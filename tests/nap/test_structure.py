"""What `normalize` builds into a model, held against the tools that read the model afterwards."""

from __future__ import annotations

import copy
import pickle
import re
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nap

INPUT = torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(0))


class Functional(nn.Module):
    """A convolution and a linear layer before functions, and one before a module."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc, self.hidden = nn.Conv2d(1, 4, 3), nn.Linear(64, 16), nn.Linear(16, 16)
        self.act, self.head = nn.GELU(), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.conv(x)).flatten(1)
        x = F.relu(self.fc(x))
        return self.head(self.act(self.hidden(x)))


class Pooled(nn.Module):
    """Features that are pooled between each linear layer and its nonlinearity, by modules and by functions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(6, 12), nn.Linear(6, 12), nn.Linear(4, 8)
        self.pool, self.adaptive, self.act, self.tanh = nn.MaxPool1d(2), nn.AdaptiveAvgPool1d(4), nn.ReLU(), nn.Tanh()
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.pool(self.first(x)))
        x = self.tanh(self.adaptive(self.second(x)))
        return self.head(F.silu(F.avg_pool1d(self.third(x), kernel_size=2)))


class NoTime(nn.Module):
    """An activation that is called with None unless an optional argument is given."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.body, self.act, self.head = nn.Linear(4, 4), nn.Linear(4, 8), Lenient(), nn.Linear(8, 2)

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        self.act(None if time is None else self.embed(time))
        return self.head(F.relu(self.body(x)))


class Lenient(nn.ReLU):
    def forward(self, input: Tensor | None) -> Tensor | None:
        return None if input is None else super().forward(input)


class OtherLinear(nn.Module):
    """A linear layer of another library, which writes its own state_dict, and may be lazy."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        weight = torch.randn(outputs, max(inputs, 1)) / 3
        self.weight = nn.Parameter(weight) if inputs > 0 else nn.parameter.UninitializedParameter()
        self.bias = nn.Parameter(torch.randn(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def _save_to_state_dict(self, destination: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
        destination[prefix + "weight"] = self.weight.detach()
        if self.bias is not None:
            destination[prefix + "bias"] = self.bias.detach()


class OtherNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / x.square().mean(-1, keepdim=True).sqrt()


class OtherActivation(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def other() -> nn.Sequential:
    parts = (OtherLinear(4, 8), OtherActivation(), OtherLinear(8, 8), OtherNorm(), nn.ReLU())
    return nn.Sequential(*parts, nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2))


def normalized(**options: str) -> nn.Module:
    torch.manual_seed(0)
    model = Functional()
    nap.normalize(model, **options)
    return model.eval()


@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize("conv_axes", ["channels", "channels_and_space"])
def test_scripts_exports_and_pickles_compute_the_same(norm: str, conv_axes: str) -> None:
    model = normalized(norm=norm, conv_axes=conv_axes)
    expected = model(INPUT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch deprecates TorchScript, which is still in use
        scripted = torch.jit.script(model)
    for other in (scripted, torch.export.export(model, (INPUT,)).module(), copy.deepcopy(model)):
        torch.testing.assert_close(other(INPUT), expected)
    torch.testing.assert_close(pickle.loads(pickle.dumps(model))(INPUT), expected, rtol=0, atol=0)


def test_dynamic_quantisation_keeps_the_norm() -> None:
    model = normalized()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates this way of quantising, which is still in use
        quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    assert not isinstance(quantized.fc.layer, nn.Linear)
    assert (quantized(INPUT) - model(INPUT)).norm() < 0.05 * model(INPUT).norm()
    out = quantized.fc(torch.rand(3, 64) * 9)
    torch.testing.assert_close(out.std(-1, correction=0), torch.ones(3), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("target", [["fc.layer"], "all-linear"])
def test_a_low_rank_sum_is_inside_the_norm(target: str | list[str]) -> None:
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(normalized(), peft.LoraConfig(target_modules=target, r=2))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=3.0)
    out = model.get_base_model().fc(torch.rand(3, 64))
    torch.testing.assert_close(out.std(-1, correction=0), torch.ones(3), rtol=1e-3, atol=1e-3)


def test_a_normalised_layer_reads_as_the_layer() -> None:
    model = normalized()
    assert model.fc.in_features == 64
    assert model.fc.weight is model.fc.layer.weight
    model.fc.weight = nn.Parameter(torch.ones(16, 64))
    assert model.fc.weight is model.fc.layer.weight
    assert "fc.weight" not in dict(model.named_parameters())
    assert model.fc.bias is None
    assert not hasattr(model.fc, "kernel_size")
    assert model.conv.kernel_size == (3, 3)


def test_a_state_dict_with_the_norm_inside_the_layer_loads() -> None:
    model = normalized()
    old = {key.replace(".layer.", "."): value for key, value in model.state_dict().items()}
    assert {"fc.weight", "fc.norm.weight", "conv.weight", "conv.norm.bias"} <= old.keys()
    torch.manual_seed(1)
    fresh = Functional()
    nap.normalize(fresh)
    for state in (old, model.state_dict()):
        for parameter in fresh.parameters():
            nn.init.constant_(parameter, 7.0)
        fresh.load_state_dict(state)
        torch.testing.assert_close(fresh.eval()(INPUT), model(INPUT), rtol=0, atol=0)
    with pytest.raises(RuntimeError, match=r"Missing key.*fc\.layer\.weight"):
        fresh.load_state_dict({key: value for key, value in old.items() if key != "fc.weight"})


def test_a_norm_behind_pooled_features_has_their_width() -> None:
    model = Pooled()
    report = nap.normalize(model)
    assert [model.act.norm.weight.numel(), model.tanh.norm.weight.numel()] == [6, 4]
    assert model.third.norm.weight.numel() == 8  # the layer's own, before the pool
    assert model(torch.randn(3, 6)).isfinite().all()
    assert report.not_handled == []


def test_an_activation_called_with_none_is_followed_where_it_is_not() -> None:
    model = NoTime()
    report = nap.normalize(model)
    assert "body.layer.weight" in report.scale_invariant
    assert model(torch.randn(3, 4), torch.randn(3, 4)).shape == (3, 2)


def test_a_foreign_layer_without_its_bias_loads_into_another_model() -> None:
    one, two = other(), other()
    reports = [nap.normalize(model) for model in (one, two)]
    assert reports[0].dropped_biases == ["0.bias", "5.bias"]
    assert "0.bias" not in one.state_dict()
    two.load_state_dict(one.state_dict())
    x = torch.randn(4, 4)
    torch.testing.assert_close(two.eval()(x), one.eval()(x), rtol=0, atol=0)


def test_a_lazy_foreign_layer_is_refused() -> None:
    model = nn.Sequential(OtherLinear(4, 8), nn.ReLU(), OtherLinear(-1, 2))
    before = str(model)
    with pytest.raises(ValueError, match=r"nap\.normalize: 2 is lazy and has no weight yet: run one batch first"):
        nap.normalize(model)
    assert str(model) == before


@pytest.mark.parametrize("build", [other, Functional, Pooled])
def test_a_model_on_meta_gets_the_structure_of_one_with_values(build: type[nn.Module]) -> None:
    with torch.device("meta"):
        meta = build()
    assert next(meta.parameters()).is_meta
    real = build()
    reports = nap.normalize(meta), nap.normalize(real)
    assert re.sub("floor=.*", "", str(meta)) == re.sub("floor=.*", "", str(real))  # a share of the weight's length
    assert reports[0] == reports[1]
    meta.to_empty(device="cpu").load_state_dict(real.state_dict())
    x = {other: torch.randn(4, 4), Functional: INPUT, Pooled: torch.randn(3, 6)}[build]
    torch.testing.assert_close(meta.eval()(x), real.eval()(x), rtol=0, atol=0)


def test_complex_layers_are_left_alone_and_listed() -> None:
    model = nn.Sequential(nn.Linear(4, 8, dtype=torch.cfloat), nn.Tanh(), nn.Linear(8, 2, dtype=torch.cfloat))
    report = nap.normalize(model)
    assert report.not_handled == [("1", "its input is complex, and the norms here are of real numbers")]
    assert model(torch.randn(3, 4, dtype=torch.cfloat)).shape == (3, 2)
