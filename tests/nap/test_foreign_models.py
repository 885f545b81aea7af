"""Normalize-and-Project on models that nobody here wrote: torch's transformers, and those of another library."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import nap

TOKENS, CLASSES, WIDTH = 17, 5, 32


def tokens() -> Tensor:
    return torch.randint(0, TOKENS, (4, 8), generator=torch.Generator().manual_seed(0))


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def padding() -> Tensor:
    """[4, 6] bool, true where a sequence has ended."""
    return torch.arange(6) >= torch.tensor([6, 4, 2, 6])[:, None]


def torch_encoder(norm_first: bool, activation: Any = "relu") -> nn.Module:
    layer = nn.TransformerEncoderLayer(WIDTH, 4, 48, 0.0, activation, batch_first=True, norm_first=norm_first)
    return nn.TransformerEncoder(layer, 3, enable_nested_tensor=not norm_first)


def language_model(kind: str, **options: Any) -> nn.Module:
    library = pytest.importorskip("transformers")
    sizes = {"hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    if kind == "GPT2":
        sizes = {"n_layer": 2, "n_embd": WIDTH, "n_head": 2, "n_positions": 16}
        options |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = getattr(library, f"{kind}Config")(vocab_size=TOKENS, bos_token_id=0, eos_token_id=0, **sizes, **options)
    return getattr(library, f"{kind}LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM")(config)


def bert() -> nn.Module:
    library = pytest.importorskip("transformers")
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "num_labels": CLASSES}
    sizes = {"hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    return library.BertForSequenceClassification(library.BertConfig(vocab_size=TOKENS, **sizes, **no_dropout))


def image_model(kind: str, **options: Any) -> nn.Module:
    library = pytest.importorskip("transformers")
    config = getattr(library, f"{kind}Config")(hidden_sizes=[8, 16], num_labels=CLASSES, **options)
    return getattr(library, f"{kind}ForImageClassification")(config)


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], dict[str, Tensor]]]] = {
    "post-norm encoder": (
        lambda: torch_encoder(False),
        lambda: {"src": normal(4, 6, WIDTH), "src_key_padding_mask": padding()},
    ),
    "pre-norm encoder": (
        lambda: torch_encoder(True, "gelu"),
        lambda: {"src": normal(4, 6, WIDTH), "src_key_padding_mask": padding()},
    ),
    "encoder and decoder": (
        lambda: nn.Transformer(WIDTH, 4, 2, 2, 48, 0.0, nn.SiLU(), batch_first=True),
        lambda: {"src": normal(4, 6, WIDTH), "tgt": normal(4, 3, WIDTH)},
    ),
    "GPT-2": (lambda: language_model("GPT2"), lambda: {"input_ids": tokens()}),
    "GPT-2 untied": (lambda: language_model("GPT2", tie_word_embeddings=False), lambda: {"input_ids": tokens()}),
    "Llama": (lambda: language_model("Llama", num_key_value_heads=1), lambda: {"input_ids": tokens()}),
    "GPT-NeoX": (
        lambda: language_model("GPTNeoX", hidden_dropout=0.0, attention_dropout=0.0),
        lambda: {"input_ids": tokens()},
    ),
    "BERT": (bert, lambda: {"input_ids": tokens()}),
    "ResNet": (
        lambda: image_model("ResNet", embedding_size=8, depths=[2, 2], layer_type="basic"),
        lambda: {"pixel_values": normal(4, 3, 32, 32)},
    ),
    "ResNet bottleneck": (
        lambda: image_model("ResNet", embedding_size=8, depths=[1, 2], layer_type="bottleneck"),
        lambda: {"pixel_values": normal(4, 3, 32, 32)},
    ),
    "ConvNext": (
        lambda: image_model("ConvNext", depths=[1, 2], num_stages=2),
        lambda: {"pixel_values": normal(4, 3, 32, 32)},
    ),
}
OUTPUTS = {
    "GPT-2": "transformer.wte.weight",
    "BERT": "classifier.weight",
    "ResNet": "classifier.1.weight",
    "ResNet bottleneck": "classifier.1.weight",
    "ConvNext": "classifier.weight",
} | dict.fromkeys(["GPT-2 untied", "Llama", "GPT-NeoX"], "lm_head.weight")


def case(name: str, **options: str) -> tuple[nn.Module, dict[str, Tensor], nap.Report]:
    torch.manual_seed(0)
    model = MODELS[name][0]()
    inputs = MODELS[name][1]()
    return model, inputs, nap.normalize(model, example_inputs=inputs, **options)


def run(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """The model's output without the padded positions, which are nobody's."""
    out = model(**inputs)
    out = out if isinstance(out, Tensor) else out.logits
    return out[~inputs["src_key_padding_mask"]] if "src_key_padding_mask" in inputs else out


@torch.no_grad()
def stir(model: nn.Module, inputs: dict[str, Tensor]) -> None:
    """Takes a model away from its initial zeros and ones, which hide what scale would do."""
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.add_(0.1 * torch.randn_like(parameter))
    for _ in range(5):
        run(model.train(), inputs)
    model.eval()


def change(model: nn.Module, inputs: dict[str, Tensor], name: str, factor: float = 3.0) -> float:
    """The relative change of the output when the weight is multiplied by a factor."""
    weight = nap.snapshot(model, copy=False)[name]
    with torch.no_grad():
        before = run(model, inputs)
        weight.mul_(factor)
        after = run(model, inputs)
        weight.div_(factor)
    return float((after - before).norm() / before.norm())


pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")


@pytest.mark.parametrize("name", MODELS)
def test_norms_hold_at_every_step_and_the_loss_falls(name: str) -> None:
    model, inputs, report = case(name)
    optimizer = torch.optim.Adam(model.parameters(), lr=torch.tensor(3e-3), fused=True)
    projection = nap.Projection(model).attach(optimizer)
    assert set(projection.names) == {*report.scale_invariant, *report.projected_only}
    assert report.outputs == ([OUTPUTS[name]] if name in OUTPUTS else [])
    with torch.no_grad():
        shape = run(model, inputs).shape
    target = torch.arange(shape.numel() // shape[-1]) % shape[-1]
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = F.cross_entropy(run(model, inputs).flatten(0, -2), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        for weight, norm in projection.norms().items():
            torch.testing.assert_close(norm, projection.initial_norms[weight], rtol=1e-5, atol=0)
    assert torch.tensor(losses).isfinite().all()
    assert losses[-1] < 0.9 * losses[0]
    projection.check()


@pytest.mark.parametrize(
    ("name", "norm"), [*((name, "layer") for name in MODELS), ("GPT-2", "rms"), ("ConvNext", "rms")]
)
def test_scale_reaches_the_output_only_where_the_report_says(name: str, norm: str) -> None:
    model, inputs, report = case(name, norm=norm)
    stir(model, inputs)
    free = {weight: change(model, inputs, weight) for weight in report.scale_invariant}
    assert all(value < 1e-3 for value in free.values()), free  # ConvNext's own norms have an eps of 1e-6
    scaled = {weight: change(model, inputs, weight, 30) for weight in [*report.projected_only, *report.outputs]}
    assert all(value > 1e-4 for value in scaled.values()), scaled


@pytest.mark.parametrize("name", MODELS)
def test_every_matrix_is_named_once(name: str) -> None:
    model, _, report = case(name)
    named = [*report.scale_invariant, *report.projected_only, *report.outputs, *report.left_out]
    assert len(named) == len(set(named))
    assert {name.split("[")[0] for name in named} == {n for n, p in model.named_parameters() if p.ndim > 1}


class Nonlinearities(TorchFunctionMode):
    """Records every nonlinearity that runs: the name of the module that called it, and whether its input is normal."""

    NAMES = ("relu", "gelu", "silu", "tanh", "sigmoid", "elu", "leaky_relu", "softplus")

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.names = {id(part): name for name, part in model.named_modules()}
        self.stack: list[str] = []
        self.inside = 0
        self.seen: list[tuple[str, bool]] = []

    def enter(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.stack.append(self.names.get(id(module), ""))
        if is_activation(module):
            self.inside or self.seen.append((self.stack[-1], is_normal(args[0])))
            self.inside += 1

    def leave(self, module: nn.Module, args: object, out: object) -> None:
        self.stack.pop()
        self.inside -= is_activation(module)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.inside and func.__name__.rstrip("_") in self.NAMES:
            self.seen.append((self.stack[-1], is_normal(args[0])))
        return func(*args, **kwargs or {})


def is_activation(module: nn.Module) -> bool:
    return type(module).__module__ in ("torch.nn.modules.activation", "transformers.activations") and not isinstance(
        module, nn.MultiheadAttention
    )


def is_normal(x: Tensor) -> bool:
    """Whether a norm's output, as far as its scale can tell: over features, or over a batch of images."""
    features = 1 if x.ndim > 3 else -1
    over = [x.square().mean(features), x.square().mean([i for i in range(x.ndim) if i != features % x.ndim])]
    return any(bool((mean - 1).abs().max() < 0.01) for mean in over)


@contextmanager
def watched(model: nn.Module) -> Iterator[Nonlinearities]:
    mode = Nonlinearities(model)
    hooks = [
        nn.modules.module.register_module_forward_pre_hook(mode.enter),
        nn.modules.module.register_module_forward_hook(mode.leave),
    ]
    with mode:
        yield mode
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("name", MODELS)
def test_every_nonlinearity_that_runs_is_normalised_or_listed(name: str) -> None:
    model, inputs, report = case(name)
    with torch.no_grad(), watched(model) as mode:
        run(model.train(), inputs)
    listed = dict(report.not_handled)
    assert mode.seen
    assert [place for place, normal in mode.seen if not normal and place not in listed] == []
    assert sum(normal for _, normal in mode.seen) >= 2


@pytest.mark.parametrize("name", MODELS)
def test_every_mode_computes_the_same(name: str) -> None:
    model, inputs, _ = case(name)
    if "ResNet" not in name:  # whose batch norms differ between train and eval, as they should
        trained = run(model.train(), inputs)
        torch.testing.assert_close(run(model.eval(), inputs), trained, rtol=1e-4, atol=1e-5)
    expected = run(model.eval(), inputs)
    with torch.no_grad():
        torch.testing.assert_close(run(model, inputs), expected, rtol=1e-4, atol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(run(model, inputs), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_state_dicts_and_copies_hold_the_whole_model(name: str) -> None:
    model, inputs, report = case(name)
    for parameter in model.parameters():
        parameter.add_(0.01 * torch.randn_like(parameter))
    expected = run(model.eval(), inputs)
    twin = copy.deepcopy(model)
    torch.testing.assert_close(run(twin, inputs), expected, rtol=0, atol=0)
    assert nap.analyze(twin, inputs).scale_invariant == report.scale_invariant
    saved = io.BytesIO()
    torch.save(model.state_dict(), saved)
    saved.seek(0)
    fresh = MODELS[name][0]()
    nap.normalize(fresh, example_inputs=inputs)
    fresh.load_state_dict(torch.load(saved))
    torch.testing.assert_close(run(fresh.eval(), inputs), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", MODELS)
def test_a_second_normalize_adds_nothing(name: str) -> None:
    model, _, report = case(name)
    keys, structure = list(model.state_dict()), str(model)
    again = nap.normalize(model)
    assert (list(model.state_dict()), str(model)) == (keys, structure)
    assert again == replace(report, dropped_biases=[])


@pytest.mark.parametrize("name", MODELS)
def test_report_reads_as_text(name: str) -> None:
    _, _, report = case(name)
    lines = str(report).splitlines()
    assert all(len(line) < 300 and "Proxy" not in line and "Traceback" not in line for line in lines), str(report)
    assert len(lines) < 35
    assert len(set(lines)) == len(lines)


def test_a_tied_embedding_is_the_output_layer() -> None:
    _, _, report = case("GPT-2")
    assert report.tied == {"transformer.wte.weight": ["lm_head.weight"]}
    assert "transformer.wte.weight (tied: lm_head.weight)" in str(report)
    assert case("GPT-2 untied")[2].projected_only["transformer.wte.weight"] == "feeds a residual sum"


def test_a_transposed_linear_gets_its_norm_and_loses_its_bias() -> None:
    model, _, report = case("GPT-2")
    layer = model.transformer.h[0].mlp.c_fc
    assert "transformer.h.0.mlp.c_fc.weight" in report.scale_invariant
    assert "bias" not in layer._parameters
    assert "transformer.h.0.mlp.c_fc.bias" not in model.state_dict()
    assert isinstance(model.transformer.h[0].mlp.act, nap.NormalizedActivation)
