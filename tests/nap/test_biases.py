"""Which biases `normalize` drops, and what the model computes afterwards."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import nap

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
IMAGES = torch.randn(8, 2, 9, 9, generator=torch.Generator().manual_seed(1))


def mlp(norm: Callable[[int], nn.Module] | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    middle = [] if norm is None else [norm(8)]
    return nn.Sequential(nn.Linear(6, 8), *middle, nn.ReLU(), nn.Linear(8, 3))


def convolution(norm: Callable[[int], nn.Module]) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 8, 3), norm(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 49, 3))


def outputs(model: nn.Module, x: Tensor) -> list[Tensor]:
    """In train mode, then in eval mode."""
    with torch.no_grad():
        return [model.train(mode)(x) for mode in (True, False)]


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_a_model_with_norms_of_its_own_computes_the_same_after_normalize(norm: Callable[[int], nn.Module]) -> None:
    model = mlp(norm)
    before = outputs(model, X)
    report = nap.normalize(model)
    for one, other in zip(outputs(model, X), before, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert report.dropped_biases == []
    assert report.projected_only == {"0.weight": "keeps its bias"}


@pytest.mark.parametrize(
    ("build", "x"),
    [
        (lambda: mlp(nn.BatchNorm1d), X),
        (lambda: mlp(lambda n: nn.BatchNorm1d(n, track_running_stats=False)), X),
        (lambda: convolution(nn.BatchNorm2d), IMAGES),
        (lambda: convolution(nn.InstanceNorm2d), IMAGES),
        (lambda: convolution(lambda n: nn.InstanceNorm2d(n, affine=True, track_running_stats=True)), IMAGES),
    ],
)
def test_a_batch_norm_takes_the_bias_over(build: Callable[[], nn.Module], x: Tensor) -> None:
    model, plain = build(), build()
    for one in (model, plain):
        outputs(one, x)  # moves the running mean
    assert nap.normalize(model).dropped_biases == ["0.bias"]
    assert model[0].bias is None
    for one, other in zip(outputs(model, x) + outputs(model, x), outputs(plain, x) + outputs(plain, x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_batch_norm_that_two_layers_feed_takes_no_bias() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.norm = nn.Linear(6, 8), nn.Linear(6, 8), nn.BatchNorm1d(8)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.one(x)) + self.norm(self.two(x))

    model = Shared()
    assert nap.normalize(model).dropped_biases == []
    assert model.one.bias is not None


@pytest.mark.parametrize(
    ("norm", "biases", "dropped"),
    [
        ("layer", "replaced", ["0.bias"]),
        ("layer", "drop", ["0.bias"]),
        ("layer", "keep", []),
        ("rms", "replaced", []),
        ("rms", "drop", ["0.bias"]),
        ("rms", "keep", []),
    ],
)
def test_a_bias_goes_where_a_new_offset_takes_its_place(norm: str, biases: str, dropped: list[str]) -> None:
    for model in (mlp(), nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)):
        plain = isinstance(model, nn.Sequential)
        report = nap.normalize(model, norm=norm, biases=biases)
        assert report.dropped_biases == [name if plain else "linear1.bias" for name in dropped]
        assert ((model[0] if plain else model.linear1).bias is None) == bool(dropped)
        name = "0.weight" if plain else "linear1.weight"
        assert (name in report.scale_invariant) == bool(dropped)
        assert ("biases dropped:\n  " in str(report)) == bool(dropped)
        again = nap.normalize(model, norm=norm, biases=biases)
        assert again.dropped_biases == []


def test_an_unknown_rule_for_biases_names_the_near_match() -> None:
    with pytest.raises(ValueError, match="biases='replace' is unknown; did you mean 'replaced'"):
        nap.normalize(mlp(), biases="replace")


class ReadsItsBias(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(x))) + self.body.bias.sum()


def test_a_bias_that_the_code_reads_stays() -> None:
    model = ReadsItsBias()
    assert nap.normalize(model).dropped_biases == []
    model(X)
