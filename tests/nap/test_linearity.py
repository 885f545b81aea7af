"""What `analyze` lists as not linear: everything that it does not know to be linear, and nothing that it does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nap

Form = Callable[[Tensor, Tensor], Tensor]


class Between(nn.Module):
    """An operation on the outputs of two layers, and a layer that reads it."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.LazyLinear(2)
        self.form = form
        self.mask = nn.Buffer(torch.arange(8) % 2 == 0)
        self.map = nn.Parameter(torch.randn(8, 8))
        self(torch.randn(4, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.form(self.first(x), self.second(x)))


def swapped(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, 0] = x[:, 1].exp()
    return x


UNLINEAR: dict[str, Form] = {
    "where": lambda x, y: torch.where(x > 0, x, 0.1 * x),
    "step": lambda x, y: x * (x > 0),
    "masked fill": lambda x, y: x.masked_fill(x < 0, 0),
    "maximum": lambda x, y: torch.maximum(x, torch.zeros_like(x)),
    "max of a constant": lambda x, y: torch.max(x, torch.zeros(())),
    "maxout": lambda x, y: x.view(-1, 4, 2).max(-1).values,
    "amax": lambda x, y: x.view(-1, 4, 2).amax(-1),
    "square": lambda x, y: x * x,
    "power": lambda x, y: x**3,
    "product": lambda x, y: x * y,
    "in-place product": lambda x, y: x.mul_(y),
    "mix by a computed share": lambda x, y: torch.lerp(torch.ones(8), x, y),
    "division": lambda x, y: x / y,
    "reciprocal": lambda x, y: 1 / x,
    "matrix product": lambda x, y: x @ y.T @ torch.ones(len(y), 8),
    "einsum": lambda x, y: torch.einsum("bi,bi->b", x, y)[:, None],
    "softmax": lambda x, y: x.softmax(-1),
    "functional softmax": lambda x, y: F.softmax(x, -1),
    "log-softmax": lambda x, y: F.log_softmax(x, -1),
    "softmax of one layer weighs another": lambda x, y: x.softmax(-1) * y,
    "logsumexp": lambda x, y: x.logsumexp(-1, keepdim=True),
    "round": lambda x, y: x.round(),
    "floor": lambda x, y: torch.floor(x),
    "sign": lambda x, y: x.sign(),
    "absolute": lambda x, y: abs(x),
    "comparison": lambda x, y: (x > y).float(),
    "clamp": lambda x, y: x.clamp(min=0),
    "sort": lambda x, y: x.sort(-1).values,
    "top-k": lambda x, y: x.topk(4).values,
    "cumprod": lambda x, y: x.cumprod(-1),
    "sine": lambda x, y: torch.sin(x),
    "exponential": lambda x, y: x.exp(),
    "root": lambda x, y: (x * x + 1).sqrt(),
    "norm": lambda x, y: x.norm(dim=-1, keepdim=True),
    "remainder": lambda x, y: x % 1,
    "floor division": lambda x, y: x // 2,
    "distance": lambda x, y: torch.cdist(x, y) @ torch.ones(len(x), 8),
    "variance": lambda x, y: x.var(-1, keepdim=True),
    "set item": lambda x, y: swapped(x),
    "error function": lambda x, y: torch.erf(x),
    "arc tangent of two": lambda x, y: torch.atan2(x, y),
}
LINEAR: dict[str, Form] = {
    "sum": lambda x, y: x + y,
    "difference": lambda x, y: 2 - x - 3 * y,
    "in-place sum": lambda x, y: x.add_(y),
    "scalars": lambda x, y: -x / 2 * 3.0,
    "mean": lambda x, y: x.view(-1, 4, 2).mean(-1),
    "concatenation": lambda x, y: torch.cat([x, y], -1),
    "stack": lambda x, y: torch.stack([x, y]).sum(0),
    "reshapes": lambda x, y: x.view(-1, 2, 4).permute(0, 2, 1).reshape(-1, 8),
    "unbind": lambda x, y: sum(x.view(-1, 2, 4).unbind(1)),
    "split": lambda x, y: x.chunk(2, -1)[0] + x.split(4, -1)[1],
    "weight": lambda x, y: torch.einsum("bi,oi->bo", x, torch.ones(3, 8)),
    "pad": lambda x, y: F.pad(x, (1, 1)),
    "interpolate": lambda x, y: F.interpolate(x[:, None], size=16)[:, 0],
    "roll and flip": lambda x, y: x.roll(1, -1).flip(-1),
    "cumsum": lambda x, y: x.cumsum(-1),
    "mask": lambda x, y: x * (torch.arange(8) > 3),
    "masked fill": lambda x, y: x.masked_fill(torch.arange(8) > 3, 0.0),
    "where": lambda x, y: torch.where(torch.arange(8) > 3, x, y),
    "dropout": lambda x, y: F.dropout(x, 0.1),
    "pooling": lambda x, y: F.avg_pool1d(x[:, None], 2)[:, 0],
    "attention": lambda x, y: F.scaled_dot_product_attention(x[None], y[None], y[None])[0],
    "attention by hand": lambda x, y: (x @ y.T / 8**0.5).softmax(-1) @ y,
    "masked attention by hand": lambda x, y: torch.bmm(
        F.dropout((x @ y.T).masked_fill(torch.ones(len(x), len(x)).triu(1) > 0, -1e9).softmax(-1), 0.1)[None], y[None]
    )[0],
    "noise": lambda x, y: x + torch.randn_like(x) * y,
    "scatter": lambda x, y: torch.zeros_like(x).index_add(0, torch.zeros(len(x), dtype=torch.long), x),
    "mean of messages": lambda x, y: torch.zeros_like(x).scatter_reduce(
        0, torch.zeros(4, 8, dtype=torch.long), x, "mean"
    ),
    "count as x": lambda x, y: x / torch.ones(()).expand_as(x),
    "gather": lambda x, y: x.gather(1, torch.zeros(len(x), 4, dtype=torch.long)),
    "index": lambda x, y: x[:, [0, 2]],
    "triangle": lambda x, y: x.tril(),
    "Fourier transform": lambda x, y: torch.fft.rfft(x).real,
    "to and back": lambda x, y: x.double().float().detach().contiguous(),
}


def listed(form: Form) -> list[tuple[str, str]]:
    return nap.analyze(Between(form), torch.randn(4, 8)).not_handled


@pytest.mark.parametrize("name", UNLINEAR)
def test_what_is_not_linear_is_listed(name: str) -> None:
    found = listed(UNLINEAR[name])
    assert any("linear" in why for _, why in found), found
    assert all(place.endswith("() in Between.forward") for place, _ in found)


@pytest.mark.parametrize("name", LINEAR)
def test_what_is_linear_is_not_listed(name: str) -> None:
    assert listed(LINEAR[name]) == []


@pytest.mark.parametrize("name", ["square", "product", "softmax", "step", "sort", "absolute", "where", "power"])
def test_a_trace_lists_the_same_as_a_run(name: str) -> None:
    model = Between(UNLINEAR[name])
    traced = nap.analyze(model).not_handled
    assert traced
    assert nap.analyze(model, torch.randn(4, 8)).not_handled == traced


@pytest.mark.parametrize(
    "form",
    [
        lambda x, y: F.layer_norm(x, (8,)) ** 2,
        lambda x, y: F.layer_norm(x, (8,)) * y,
        lambda x, y: torch.sigmoid(F.layer_norm(x, (8,))) * y,
        lambda x, y: F.relu(F.layer_norm(x, (8,))) ** 2,
    ],
)
def test_what_follows_a_norm_or_another_nonlinearity_is_not_listed_again(form: Form) -> None:
    assert listed(form) == []


def test_what_only_bounds_the_output_is_not_listed() -> None:
    class Policy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            logits = self.layer(x)
            return logits.log_softmax(-1), logits.argmax(-1)

    for inputs in (None, torch.randn(3, 8)):
        report = nap.analyze(Policy(), inputs)
        assert (report.outputs, report.not_handled) == (["layer.weight"], [])
