"""What `normalize` does to networks of many shapes, held against what the networks then compute."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import nap


def sparse_frames(batch: int = 4, seed: int = 0) -> Tensor:
    """Frames /255 that are black but for a few small sprites, some of them dim: [B, 4, 84, 84] in 0..1."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.zeros(batch, 4, 84, 84)
    for frame in frames:
        for brightest in (2, 8, 64, 256):
            row, column = torch.randint(0, 80, (2,), generator=generator).tolist()
            frame[:, row : row + 2, column : column + 2] = torch.randint(1, brightest, (1,), generator=generator).item()
    return frames / 255


def nature_cnn() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(4, 16, 8, 4), nn.ReLU(), nn.Conv2d(16, 16, 4, 2), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(16 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, 6)),
    )


class Functional(nn.Module):
    """A dueling network with functional activations, a `view`, an optional argument and a stored intermediate."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 8, 4)
        self.hidden = nn.Linear(8 * 20 * 20, 32)
        self.value = nn.Linear(32, 1)
        self.advantage = nn.Linear(32, 6)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = F.relu(self.conv(x))
        x = x.view(x.size(0), -1)
        self.features = torch.relu(self.hidden(x))
        x = self.features
        if mask is not None:
            x = x * mask
        advantage = self.advantage(x)
        return self.value(x) + advantage - advantage.mean(1, keepdim=True)


class ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.relu_after_sum = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu_after_sum(x + self.conv2(self.relu(self.conv1(x))))


class ResidualCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 8, 8, 8)
        self.pool = nn.MaxPool2d(2)
        self.block1, self.block2 = ResidualBlock(8), ResidualBlock(8)
        self.head = nn.Linear(8 * 25, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block2(self.block1(self.pool(self.stem(x)))).flatten(1))


class SharedReLU(nn.Module):
    """One ReLU module for every call: after a layer, after a BatchNorm, after a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.norm = nn.BatchNorm1d(8)
        self.relu = nn.ReLU()
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x))
        x = self.relu(self.norm(self.second(x)))
        return self.head(self.relu(x + self.third(x)))


class Encoder(nn.Module):
    def __init__(self, norm_first: bool = False, activation: str = "relu", layers: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 16)
        layer = nn.TransformerEncoderLayer(
            16, 2, 32, dropout=0.0, activation=activation, batch_first=True, norm_first=norm_first
        )
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=not norm_first)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        return self.head(self.encoder(self.embed(x), src_key_padding_mask=padding).mean(1))


class Attention(nn.Module):
    """Attention of plain linears: q and k with a norm of their own, and a gated MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.q_norm, self.k_norm, self.norm = nn.RMSNorm(8, eps=1e-12), nn.RMSNorm(8, eps=1e-12), nn.LayerNorm(16)
        self.gate, self.up, self.down = nn.Linear(16, 24), nn.Linear(16, 24), nn.Linear(24, 16)
        self.act = nn.SiLU()
        self.policy = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, _ = x.shape
        q = self.q_norm(self.q(x).view(batch, time, 2, 8)).transpose(1, 2)
        k = self.k_norm(self.k(x).view(batch, time, 2, 8)).transpose(1, 2)
        v = self.v(x).view(batch, time, 2, 8).transpose(1, 2)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, time, 16)
        x = self.norm(x + self.out(attended))
        x = x + self.down(self.act(self.gate(x)) * self.up(x))
        return torch.tanh(self.policy(x.mean(1)))


class Reused(nn.Module):
    """One layer called three times under functional activations, and a residual sum that is the output."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 4), nn.Linear(6, 4)
        self.act = nn.ReLU()
        self.down = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = torch.tanh(self.layer(x))
        x = self.first(x) + self.second(x)
        return x + self.down(self.act(x))


class NoisyLinear(nn.Module):
    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.mean, self.bias = nn.Parameter(torch.randn(fan_out, fan_in)), nn.Parameter(torch.zeros(fan_out))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.mean, self.bias)


class Untraceable(nn.Module):
    """Branches on its input, which torch.fx cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
        self.last = nn.ReLU()
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 1:
            x = x[None]
        return self.head(self.last(self.body(x)))


STACKED = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10], [3, 3, 1, 0, 2]])
SUM, VALUES, LOGITS = "feeds a residual sum", "forms attention values", "forms attention logits"


def vectors(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def encoder_weights(prefix: str) -> dict[str, str]:
    parts = {"q": LOGITS, "k": LOGITS, "v": VALUES}
    attention = {f"{prefix}self_attn.in_proj_weight[{part}]": why for part, why in parts.items()}
    return attention | {f"{prefix}self_attn.out_proj.weight": SUM, f"{prefix}linear2.weight": SUM}


ENCODER_ONLY = {"embed.weight": SUM} | encoder_weights("encoder.layers.0.") | encoder_weights("encoder.layers.1.")
ENCODER_FREE = ["encoder.layers.0.linear1.weight", "encoder.layers.1.linear1.weight"]
UNNORMED = "feeds another layer with no norm between"
BATCH_NORM = "feeds a BatchNorm, whose running statistics do not follow its scale in eval mode"
CASES = {
    "nature": (nature_cnn, sparse_frames(), ["0.weight", "2.weight", "4.weight", "7.weight"], {}, ["9.weight"]),
    "functional": (
        *(Functional, sparse_frames(), ["conv.layer.weight", "hidden.layer.weight"], {}),
        ["value.weight", "advantage.weight"],
    ),
    "residual": (
        *(ResidualCNN, sparse_frames(), ["block1.conv1.weight", "block2.conv1.weight"]),
        {"stem.weight": UNNORMED, "block1.conv2.weight": SUM, "block2.conv2.weight": SUM},
        ["head.weight"],
    ),
    "post-norm encoder": (Encoder, STACKED, ENCODER_FREE, ENCODER_ONLY, ["head.weight"]),
    "pre-norm gelu encoder": (
        *(lambda: Encoder(True, "gelu"), STACKED, ENCODER_FREE, ENCODER_ONLY),
        ["head.weight"],
    ),
    "encoder layer": (
        *(lambda: nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True), vectors(3, 5, 16)),
        *(["linear1.weight"], encoder_weights(""), []),
    ),
    "attention": (
        *(Attention, vectors(3, 5, 16), ["gate.weight"]),
        {
            "q.weight": "keeps its bias",
            "k.weight": "keeps its bias",
            "v.weight": "forms attention logits or values",
            "out.weight": SUM,
            "up.weight": "feeds a product",
            "down.weight": SUM,
        },
        ["policy.weight"],
    ),
    "shared relu": (
        *(SharedReLU, vectors(7, 6), ["first.layer.weight"]),
        {"second.weight": BATCH_NORM, "third.weight": SUM},
        ["head.weight"],
    ),
    "reused": (
        *(Reused, vectors(7, 6), ["layer.layer.weight"], {"first.weight": SUM, "second.weight": SUM}),
        ["down.weight"],
    ),
    "untraceable": (
        *(Untraceable, vectors(7, 6), ["body.0.weight", "body.2.weight"], {}, ["head.weight"]),
    ),
}  # fmt: skip


def case(name: str, **options: str) -> tuple[nn.Module, Tensor, nap.Report]:
    torch.manual_seed(0)
    module = CASES[name][0]()
    return module, CASES[name][1], nap.normalize(module, **options)


def matrix(module: nn.Module, name: str) -> Tensor:
    return nap.snapshot(module, copy=False)[name]


def change(module: nn.Module, x: Tensor, name: str, factor: float) -> float:
    """The relative change of the output when the weight is multiplied by a factor."""
    with torch.no_grad():
        before = module(x)
        matrix(module, name).mul_(factor)
        after = module(x)
        matrix(module, name).div_(factor)
    return float((after - before).norm() / before.norm())


@pytest.mark.parametrize("name", CASES)
def test_report_lists_exactly_the_expected_weights(name: str) -> None:
    _, _, report = case(name)
    _, _, free, only, outputs = CASES[name]
    assert report.scale_invariant == free
    assert report.projected_only == only
    assert report.outputs == outputs


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_scale_reaches_the_output_only_where_the_report_says(name: str, norm: str, factor: float) -> None:
    module, x, report = case(name, norm=norm)
    module.eval()
    changes = {weight: change(module, x, weight, factor) for weight in nap.weight_norms(module)}
    assert all(changes[weight] < 1e-4 for weight in report.scale_invariant), changes
    assert all(changes[weight] > 1e-4 for weight in [*report.projected_only, *report.outputs]), changes


@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize("conv_axes", ["channels", "channels_and_space"])
@settings(max_examples=5, deadline=None)
@given(factor=st.floats(0.5, 2.0), seed=st.integers(0, 99))
def test_nature_cnn_is_scale_invariant_on_sparse_frames(norm: str, conv_axes: str, factor: float, seed: int) -> None:
    torch.manual_seed(seed)
    module = nature_cnn()
    report = nap.normalize(module, norm=norm, conv_axes=conv_axes, biases="drop")
    assert report.scale_invariant == ["0.weight", "2.weight", "4.weight", "7.weight"]
    x = sparse_frames(2, seed)
    assert all(change(module, x, weight, factor) < 1e-4 for weight in report.scale_invariant)


@pytest.mark.parametrize(
    "name", ["nature", "post-norm encoder", "pre-norm gelu encoder", "encoder layer", "functional"]
)
def test_train_and_eval_agree(name: str) -> None:
    module, x, _ = case(name)
    trained = module.train()(x)
    module.eval()
    with torch.no_grad():
        torch.testing.assert_close(module(x), trained)
        torch.testing.assert_close(torch.inference_mode()(module)(x), trained)


def test_encoder_in_eval_mode_takes_a_padding_mask() -> None:
    module, x, _ = case("post-norm encoder")
    padding = torch.zeros_like(x, dtype=torch.bool)
    padding[1, 3:] = True
    expected = module.train()(x, padding)
    with torch.no_grad():
        torch.testing.assert_close(module.eval()(x, padding), expected)


@pytest.mark.parametrize("name", CASES)
def test_a_second_normalize_adds_nothing(name: str) -> None:
    module, _, report = case(name)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    structure = str(module)
    again = nap.normalize(module)
    assert str(module) == structure
    assert module.state_dict().keys() == before.keys()
    assert (again.scale_invariant, again.projected_only) == (report.scale_invariant, report.projected_only)


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_copies_pickles_and_state_dicts_of_normalised_modules(name: str) -> None:
    module, x, _ = case(name)
    module.eval()
    expected = module(x)
    torch.testing.assert_close(copy.deepcopy(module)(x), expected, rtol=0, atol=0)
    torch.testing.assert_close(pickle.loads(pickle.dumps(module))(x), expected, rtol=0, atol=0)
    torch.manual_seed(1)
    fresh = CASES[name][0]()
    nap.normalize(fresh)
    saved = io.BytesIO()
    torch.save(module.state_dict(), saved)
    saved.seek(0)
    fresh.load_state_dict(torch.load(saved))
    torch.testing.assert_close(fresh.eval()(x), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_every_parameter_left_is_used(name: str) -> None:
    module, x, _ = case(name)
    module(x).square().sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_what_could_not_be_normalised_is_listed_with_the_reason() -> None:
    handled = dict(case("shared relu")[2].not_handled)
    assert list(handled) == ["relu"]
    assert "shared by several calls" in handled["relu"]
    untraceable = case("untraceable")[2]
    assert [name for name, _ in untraceable.not_handled] == ["Untraceable", "last"]
    assert untraceable.outputs_unknown == untraceable.outputs
    noisy = nap.normalize(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), NoisyLinear(4, 8), nn.ReLU(), nn.Linear(8, 2)))
    assert noisy.not_handled == []
    assert noisy.scale_invariant == ["0.weight"]
    assert noisy.projected_only == {"2.mean": "keeps its bias"}
    recurrent = nn.Sequential(nn.LSTM(3, 4))
    assert nap.normalize(recurrent).not_handled[0][0] == "0"
    for name in ("nature", "functional", "residual", "post-norm encoder", "attention"):
        assert case(name)[2].not_handled == []


def test_residual_relu_gets_its_norm_after_the_sum() -> None:
    module, _, _ = case("residual")
    assert isinstance(module.block1.relu_after_sum, nap.NormalizedActivation)
    assert module.block1.conv2.bias is not None
    assert module.block1.conv1.bias is None


def test_existing_norms_are_kept_and_get_no_second_one() -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Dropout(0.1), nn.ReLU(), nn.Linear(8, 2))
    report = nap.normalize(module)
    assert [type(layer) for layer in module] == [nn.Linear, nn.LayerNorm, nn.Dropout, nn.ReLU, nn.Linear]
    assert module[0].bias is not None
    assert report.projected_only == {"0.weight": "keeps its bias"}
    assert nap.normalize(module, biases="drop").scale_invariant == ["0.weight"]
    assert module[0].bias is None


def test_tracing_leaves_no_stand_in_behind() -> None:
    module, x, _ = case("functional")
    assert "features" not in module.__dict__
    module(x)
    kept = module.features
    nap.analyze(module)
    assert module.features is kept


@settings(max_examples=20, deadline=None)
@given(
    channels=st.integers(1, 9),
    shape=st.sampled_from([(5,), (3, 4), (2, 3, 2)]),
    norm=st.sampled_from(["layer", "rms"]),
    channels_last=st.booleans(),
)
def test_channel_norm_is_eq_of_a_literal_loop(
    channels: int, shape: tuple[int, ...], norm: str, channels_last: bool
) -> None:
    x = vectors(2, channels, *shape)
    if channels_last and len(shape) == 2:
        x = x.to(memory_format=torch.channels_last)
    layer = nap.ChannelNorm(channels, len(shape), norm)
    torch.nn.init.normal_(layer.weight)
    if layer.bias is not None:
        torch.nn.init.normal_(layer.bias)
    expected = torch.empty_like(x, memory_format=torch.contiguous_format)
    flat_in, flat_out = x.flatten(2), expected.view(2, channels, -1)
    for b in range(2):
        for i in range(flat_in.shape[2]):
            column = flat_in[b, :, i].double()
            column = column - column.mean() if norm == "layer" else column
            column = column / (column.square().mean() + layer.eps).sqrt() * layer.weight.double()
            flat_out[b, :, i] = (column if layer.bias is None else column + layer.bias.double()).detach()
    out = layer(x)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer(x[0]), expected[0], rtol=1e-4, atol=1e-4)
    last = torch.channels_last if len(shape) == 2 else torch.contiguous_format
    assert out.is_contiguous() == x.is_contiguous() or channels_last
    assert not x.is_contiguous(memory_format=last) or out.is_contiguous(memory_format=last)


def test_rms_over_channels_and_space_is_eq_of_a_literal_mean() -> None:
    x = vectors(3, 4, 5, 6)
    layer = nap.ChannelSpaceRMSNorm(4, 2)
    torch.nn.init.normal_(layer.weight)
    expected = torch.stack([frame / frame.square().mean().sqrt() * layer.weight[:, None, None] for frame in x])
    torch.testing.assert_close(layer(x), expected)


def test_rms_over_channels_and_space_of_halves_is_that_of_floats() -> None:
    layer, x = nap.ChannelSpaceRMSNorm(3, 2), 300 * torch.randn(2, 3, 5, 4)
    for dtype in (torch.float16, torch.bfloat16):
        torch.testing.assert_close(copy.deepcopy(layer).to(dtype)(x.to(dtype)), layer(x.to(dtype).float()).to(dtype))
        assert (copy.deepcopy(layer).to(dtype)(torch.zeros_like(x, dtype=dtype)) == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize("conv_axes", ["channels", "channels_and_space"])
def test_black_frames_are_safe(dtype: torch.dtype, norm: str, conv_axes: str) -> None:
    module = nature_cnn().to(dtype)
    nap.normalize(module, norm=norm, conv_axes=conv_axes, biases="drop")
    black = torch.zeros(2, 4, 84, 84, dtype=dtype)
    assert (module[:9](black) == 0).all()
    module(black).square().sum().backward()
    module(sparse_frames().to(dtype)).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize("conv_axes", ["channels", "channels_and_space"])
def test_a_layer_of_one_unit_gets_no_norm_and_the_report_says_so(norm: str, conv_axes: str) -> None:
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 1, 3), nn.Tanh(), nn.Flatten(), nn.Linear(36, 4), nn.ReLU(), nn.Linear(4, 1), nn.Softplus())
    module = nn.Sequential(*layers, nn.Linear(1, 3))
    report = nap.normalize(module, norm=norm, conv_axes=conv_axes)
    alone = ["5.weight", "6"] if conv_axes == "channels_and_space" else ["0.weight", "5.weight", "1", "6"]
    assert list(report.left_out) == alone
    assert all("one unit" in why for why in report.left_out.values())
    assert report.not_handled == []
    assert "5.weight: has one unit" in str(report)
    assert {"0.weight", "3.weight", "5.weight"} - set(nap.Projection(module).names) == set(alone) - {"1", "6"}
    assert nap.Projection(module, include=["5"]).names[-1] == "5.weight"
    assert module[5].bias is not None
    assert module(torch.rand(5, 1, 8, 8)).std(0).gt(1e-6).all()  # not the same for every input


def test_norms_take_the_device_and_dtype_of_the_layer() -> None:
    module = nature_cnn().double()
    nap.normalize(module)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float64}


def test_a_normalised_network_compiles_as_one_graph() -> None:
    for name in ("nature", "functional"):
        module, x, _ = case(name)
        torch._dynamo.reset()
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), module(x))


def test_bad_options_name_the_near_match() -> None:
    with pytest.raises(ValueError, match="did you mean 'layer'"):
        nap.normalize(nature_cnn(), norm="layr")
    with pytest.raises(ValueError, match="did you mean 'channels_and_space'"):
        nap.normalize(nature_cnn(), conv_axes="channel_and_space")


def test_report_reads_as_text() -> None:
    text = str(case("residual")[2])
    assert "scale-invariant:\n  block1.conv1.weight" in text
    assert "  block1.conv2.weight: feeds a residual sum" in text
