"""`normalize` and `Projection` on models as users write them, held against what the models then compute."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import nap


class FusedAttention(nn.Module):
    """Attention with one linear for queries, keys and values, and a functional MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.fc1, self.fc2, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        batch, time, width = x.shape
        q, k, v = self.qkv(self.norm(x)).view(batch, time, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        logits = q @ k.transpose(-1, -2) / 8**0.5
        if mask is not None:
            logits = logits.masked_fill(mask, -1e9)
        x = x + self.out((logits.softmax(-1) @ v).transpose(1, 2).reshape(batch, time, width))
        x = x + self.fc2(F.gelu(self.fc1(x)))
        return self.head(x.mean(1))


class BasicBlock(nn.Module):
    """torchvision's residual block: one in-place ReLU for both calls."""

    def __init__(self, fan_in: int, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(fan_in, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Sequential(nn.Conv2d(fan_in, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += self.downsample(x)
        return self.relu(out)


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.squeeze, self.excite = nn.Conv2d(4, 8, 3), nn.Linear(8, 4), nn.Linear(4, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.conv(x))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean([2, 3])))))
        return self.head(F.adaptive_avg_pool2d(x * gate[:, :, None, None], 1).flatten(1))


class Keywords(nn.Module):
    """Calls by keyword, a loop over layers, and a mode that changes the flow."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.relu = nn.Linear(4, 8), nn.ReLU()
        self.body = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
        self.extra, self.head = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(input=self.first(input=x))
        for layer in self.body:
            x = F.relu(input=layer(x))
        if not self.training:
            x = x + self.extra(x)
        return self.head(torch.tanh(self.extra(x)))


class Optional(nn.Module):
    """A layer that goes straight into a norm only if the optional argument is left out."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.head = nn.Linear(4, 4), nn.LayerNorm(4, eps=1e-12), nn.Linear(4, 2)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        y = self.layer(x)
        if skip is not None:
            y = y + skip
        return self.head(F.relu(self.norm(y)))


class Tied(nn.Module):
    def __init__(self, product: bool) -> None:
        super().__init__()
        self.embed, self.layer, self.relu, self.product = nn.Embedding(7, 8), nn.Linear(8, 8), nn.ReLU(), product

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.layer(self.embed(x)))
        return x @ self.embed.weight.T if self.product else F.linear(x, self.embed.weight)


class OwnLinear(nn.Module):
    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(fan_out, fan_in)), nn.Parameter(torch.zeros(fan_out))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.t() + self.bias


class OwnNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-8)


class OwnActivation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.slope * x)


class Doubled(nn.Module):
    """Affine: no nonlinearity."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x + 1


class GatedHalf(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return F.silu(a) * b


class SharedAcross(nn.Module):
    """An activation that a traceable part and an untraceable forward share; the output's squash is in a part."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.body = nn.Sequential(nn.Linear(4, 8), self.relu)
        self.layer = nn.Linear(8, 6)
        self.head = nn.Sequential(nn.Linear(6, 2), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 1:
            x = x[None]
        return self.head(torch.tanh(self.relu(self.layer(self.body(x)))))


class SilentSubclass(nn.TransformerEncoderLayer):
    def forward(self, src: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return super().forward(src, *args, **kwargs)


def rows() -> Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def images() -> Tensor:
    return torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def sequences() -> Tensor:
    return torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(0))


def mlp(wrap: Callable[[nn.Module], nn.Module] = lambda layer: layer) -> nn.Sequential:
    return nn.Sequential(wrap(nn.Linear(4, 8)), nn.ReLU(), wrap(nn.Linear(8, 8)), nn.ReLU(), nn.Linear(8, 2))


def own_modules() -> nn.Module:
    return nn.Sequential(
        *(OwnLinear(4, 8), OwnActivation(), OwnLinear(8, 8), OwnNorm(8), Doubled(), nn.ReLU()),
        *(nn.Linear(8, 16), GatedHalf(), nn.Linear(8, 2)),
    )


# model, input, scale-invariant weights, output weights, names of what is not handled
CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], list[str], list[str], list[str]]] = {
    "fused attention": (FusedAttention, sequences, ["fc1.layer.weight"], ["head.weight"], []),
    "residual blocks": (
        lambda: nn.Sequential(BasicBlock(4, 8), BasicBlock(8, 8), nn.Flatten(), nn.Linear(512, 3)),
        *(images, [], ["3.weight"], ["0.relu", "1.relu"]),
    ),
    "squeeze and excite": (
        *(SqueezeExcite, images, ["conv.layer.weight", "squeeze.layer.weight", "excite.layer.weight"]),
        *(["head.weight"], []),
    ),
    "transposed convolutions": (
        lambda: nn.Sequential(nn.ConvTranspose2d(4, 6, 3), nn.ReLU(), nn.ConvTranspose2d(6, 3, 3), nn.Sigmoid()),
        *(images, ["0.weight"], ["2.weight"], []),
    ),
    "keywords": (
        *(Keywords, rows, ["first.weight", "body.0.layer.weight", "body.1.layer.weight"], ["head.weight"]),
        ["tanh() in Keywords.forward"],
    ),
    "optional": (Optional, rows, [], ["head.weight"], []),
    "own modules": (
        *(own_modules, rows, ["0.weight"], ["8.weight"], ["silu() in GatedHalf.forward (7)"]),
    ),
    "shared across": (
        *(SharedAcross, rows, ["body.0.layer.weight"], ["layer.weight", "head.0.weight"]),
        ["head.1", "SharedAcross", "relu"],
    ),
    "encoder subclass": (
        lambda: nn.Sequential(SilentSubclass(16, 2, 32, 0.0, batch_first=True), nn.Linear(16, 2)),
        *(sequences, [], ["0.self_attn.out_proj.weight", "0.linear1.weight", "0.linear2.weight", "1.weight"]),
        ["Sequential", "0"],
    ),
    "weight norm": (
        *(lambda: mlp(parametrizations.weight_norm), rows, [], ["4.weight"], ["0", "2"]),
    ),
    "spectral norm": (
        *(lambda: mlp(parametrizations.spectral_norm), rows, [], ["4.weight"], ["0", "2"]),
    ),
    "tied by a product": (
        *(lambda: Tied(True), lambda: torch.arange(5), ["layer.weight"], ["embed.weight"], []),
    ),
    "tied by a function": (
        *(lambda: Tied(False), lambda: torch.arange(5), ["layer.weight"], ["embed.weight"], []),
    ),
    "data parallel": (
        *(lambda: nn.DataParallel(mlp()), rows, ["module.0.weight", "module.2.weight"], ["module.4.weight"], []),
    ),
}  # fmt: skip


def case(name: str) -> tuple[nn.Module, Tensor, nap.Report]:
    torch.manual_seed(0)
    model = CASES[name][0]()
    return model, CASES[name][1](), nap.normalize(model)


@pytest.mark.parametrize("name", CASES)
def test_report_says_what_was_done(name: str) -> None:
    model, _, report = case(name)
    _, _, free, outputs, not_handled = CASES[name]
    assert report.scale_invariant == free
    assert report.outputs == outputs
    assert [place for place, _ in report.not_handled] == not_handled
    assert set(nap.Projection(model).names) == {*free, *report.projected_only}
    named = {place.split("[")[0] for place in [*free, *report.projected_only, *outputs, *report.left_out]}
    assert named == {name for name, parameter in model.named_parameters() if parameter.ndim > 1}


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_scale_invariant_weights_are(name: str) -> None:
    model, x, report = case(name)
    for mode in (True, False):
        model.train(mode)
        for weight in report.scale_invariant:
            before = model(x)
            nap.snapshot(model, copy=False)[weight].mul_(3)
            torch.testing.assert_close(model(x), before, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_every_parameter_trains_and_copies_compute_the_same(name: str) -> None:
    model, x, _ = case(name)
    optimizer = torch.optim.Adam(model.parameters(), lr=torch.tensor(1e-2), fused=True)
    projection = nap.Projection(model).attach(optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    assert all(p.grad is not None for n, p in model.named_parameters() if "extra" not in n)
    for weight, norm in projection.norms().items():
        torch.testing.assert_close(norm, projection.initial_norms[weight])
    model.eval()
    twin = copy.deepcopy(model)
    torch.testing.assert_close(twin(x), model(x), rtol=0, atol=0)
    assert nap.analyze(twin) == nap.analyze(model)


def test_a_decoder_layer_keeps_its_norm_in_a_copy() -> None:
    layer = nn.TransformerDecoderLayer(16, 2, 32, 0.0, batch_first=True)
    nap.normalize(layer)
    twin = copy.deepcopy(layer)
    assert twin.activation is twin._modules["activation"]
    torch.testing.assert_close(twin(sequences(), sequences()), layer(sequences(), sequences()), rtol=0, atol=0)


def test_untraced_functions_are_named() -> None:
    reasons = dict(case("shared across")[2].not_handled)
    assert "it seems to call tanh, which got no norm" in reasons["SharedAcross"]
    assert "branches on its input" in reasons["SharedAcross"]
    assert "may only bound the output" in reasons["head.1"]


def test_unknown_functions_are_listed_unless_they_make_the_output() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.mean, self.std = (nn.Linear(4, 4) for _ in range(4))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = torch.sin(self.b(self.a(x + torch.exp(x)).clamp(min=0)))
            return torch.tanh(self.mean(x)), self.std(x).clamp(-5, 2).exp()

    report = nap.normalize(Odd())
    assert [place for place, _ in report.not_handled] == ["clamp() in Odd.forward", "sin() in Odd.forward"]
    assert report.outputs == ["mean.weight", "std.weight"]


def test_what_has_no_forward_and_what_has_no_weight() -> None:
    model = nn.ModuleDict({"memory": nn.LSTM(4, 8), "body": nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))})
    report = nap.normalize(model)
    assert [place for place, _ in report.not_handled] == ["ModuleDict", "memory"]
    assert report.outputs == ["body.2.weight"] == report.outputs_unknown
    assert list(report.left_out) == ["memory.weight_ih_l0", "memory.weight_hh_l0"]
    assert report.scale_invariant == ["body.0.weight"]
    assert report.projected_only == {}
    assert str(nap.normalize(nn.Flatten())) == "no weight matrix and no nonlinearity found"


@pytest.mark.parametrize("attribute", ["weight_norm", "spectral_norm"])
def test_old_style_computed_weights_are_listed(attribute: str) -> None:
    with pytest.warns(FutureWarning) if attribute == "weight_norm" else torch.no_grad():
        model = mlp(getattr(torch.nn.utils, attribute))
    report = nap.normalize(model)
    assert [place for place, _ in report.not_handled] == ["0", "2"]
    assert set(report.left_out.values()) == {"another weight is computed from it"}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: torch.compile(mlp(), backend="eager"), "compiled: normalise the model first"),
        (lambda: nn.Sequential(torch.compile(mlp(), backend="eager")), "0 is compiled"),
        (lambda: torch.jit.script(mlp()), "scripted: normalise the model first"),
        (lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.LazyLinear(2)), "2 is lazy and has no weight yet"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_finished_and_unfinished_models_are_refused_untouched(model: Callable[[], nn.Module], message: str) -> None:
    made = model()
    keys = list(made.state_dict())
    with pytest.raises(ValueError, match=message):
        nap.normalize(made)
    assert list(made.state_dict()) == keys


def test_in_place_compiled_and_wrapped_models_are_projected_as_what_they_hold() -> None:
    model = mlp()
    nap.normalize(model)
    names = nap.Projection(model).names
    assert names == ["0.weight", "2.weight"]
    compiled = torch.compile(model, backend="eager")
    assert nap.Projection(compiled).names == [f"_orig_mod.{name}" for name in names]
    assert nap.Projection(nn.DataParallel(model)).names == [f"module.{name}" for name in names]
    model.compile(backend="eager")
    assert nap.Projection(model).names == names
    with pytest.raises(ValueError, match="is compiled"):
        nap.normalize(model)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_analysis_leaves_modes_and_random_numbers_as_they_were() -> None:
    models = [own_modules(), Keywords(), torch.jit.script(mlp()), nn.Sequential(SilentSubclass(16, 2, 32), OwnNorm(16))]
    for model in models:
        list(model.modules())[-1].eval()
        modes, state = [part.training for part in model.modules()], torch.get_rng_state()
        nap.analyze(model)
        assert [part.training for part in model.modules()] == modes
        assert torch.equal(torch.get_rng_state(), state)


def test_a_stack_is_one_line_of_the_report() -> None:
    model = nn.ModuleDict({"layers": nn.ModuleList(mlp() for _ in range(12))})
    text = str(nap.normalize(model))
    assert "layers.{0,1,2,3,4,5,6,7,8,9,10,11}.0.weight" in text
    assert len(text.splitlines()) < 13


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("the observations have to be a batch of vectors, on the device of the network. Convert first.\nSee there.",
         "the observations have to be a batch of vectors, on the device of the network"),
        ("word " * 99, "word " * 59 + "..."),
    ],
)  # fmt: skip
def test_why_a_model_cannot_be_traced_is_a_whole_sentence(message: str, said: str) -> None:
    class Strict(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            raise TypeError(message)

    ((_, why),) = nap.normalize(Strict()).not_handled
    fault = f"its forward fails on stand-in values, TypeError: {said}"
    assert why == f"cannot be traced ({fault}), so its parts are treated one by one"
