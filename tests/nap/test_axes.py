"""Where the features are behind moved axes, before a layer that reads them, and in what a normalised model loads."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nap
from nap.graph.norms import FlooredNorm


class Moved(nn.Module):
    """A convolution whose features are moved before the activation, as in the mixers of vision transformers."""

    def __init__(self, move: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.move, self.conv, self.relu, self.head = move, nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.relu(self.move(self.conv(x))).mean(1))


MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "flatten, transpose": lambda x: x.flatten(2).transpose(1, 2),
    "view, permute": lambda x: x.view(x.shape[0], 5, -1).permute(0, 2, 1),
    "permute, reshape": lambda x: x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, 5),
    "shortened": lambda x: x[:, :, :-1].flatten(2).transpose(-1, 1),
    "unsqueezed": lambda x: x.unsqueeze(1).permute(0, 3, 4, 2, 1).flatten(1, 2).squeeze(-1),
}


@pytest.mark.parametrize("name", MOVES)
def test_the_norm_covers_the_features_wherever_they_moved(name: str) -> None:
    model, x = Moved(MOVES[name]), torch.randn(4, 3, 9, 7)
    report = nap.normalize(model, example_inputs=x)
    assert not report.not_handled
    seen: list[Tensor] = []
    model.relu.activation.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(x)
    assert seen[0].shape[-1] == 5
    torch.testing.assert_close(seen[0].square().mean(-1), torch.ones(seen[0].shape[:-1]), rtol=1e-3, atol=1e-3)


def test_half_of_the_channels_of_a_convolution_get_their_norm() -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act, self.head = nn.Conv1d(3, 8, 1), nn.SiLU(), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            gate, value = self.conv(x).chunk(2, 1)
            return self.head((self.act(gate) * value).mean(-1))

    model, x = Gate(), torch.randn(4, 3, 6)
    assert not nap.normalize(model, example_inputs=x).not_handled
    assert model.act.norm.weight.shape == (4,)


def test_a_width_is_told_by_the_layer_that_reads_it() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.v = nn.Linear(6, 6), nn.Linear(6, 6)
            self.act, self.out = nn.ReLU(), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            q, v = (layer(x).view(*x.shape[:2], 2, 3).transpose(1, 2) for layer in (self.q, self.v))
            mixed = (q @ q.transpose(2, 3)).softmax(-1) @ v
            return self.out(F.dropout(self.act(mixed.transpose(1, 2).flatten(2)), 0.1, self.training))

    model, x = Mixed(), torch.randn(4, 5, 6)
    assert not nap.normalize(model, example_inputs=x).not_handled
    assert model.act.norm.weight.shape == (6,)


class Capped(nn.Module):
    """Attention whose logits are a sum of two products, capped by a tanh."""

    def __init__(self, weighs: bool) -> None:
        super().__init__()
        self.q, self.k, self.v, self.place = (nn.Linear(6, 6) for _ in range(4))
        self.weighs, self.head = weighs, nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x)
        logits = 5 * torch.tanh((q @ self.k(x).transpose(1, 2) + q @ self.place(x).transpose(1, 2)) / 5)
        return self.head(logits.softmax(-1) @ self.v(x) if self.weighs else logits.softmax(-1).sum(-1) @ self.v(x))


def test_a_cap_and_a_sum_of_products_are_part_of_attention() -> None:
    x = torch.randn(3, 6, 6)
    assert nap.normalize(Capped(True), example_inputs=x).not_handled == []


class Squashed(nn.Module):
    """A policy whose deviation is clamped and exponentiated, and whose action a tanh bounds."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU())
        self.mean, self.log_std = nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return torch.tanh(self.mean(x) + self.log_std(x).clamp(-20, 2).exp() * torch.randn(2))


@pytest.mark.parametrize("given", [torch.randn(3, 6), None])
def test_a_head_behind_bounds_is_an_output(given: Tensor | None) -> None:
    model = Squashed()
    report = nap.normalize(model, example_inputs=given)
    assert report.outputs == ["mean.weight", "log_std.weight"]
    assert not report.not_handled
    assert nap.Projection(model).names == report.scale_invariant


def test_a_maximum_over_neighbours_is_a_pool_unless_zero_takes_part() -> None:
    class Neighbours(nn.Module):
        def __init__(self, include_self: bool) -> None:
            super().__init__()
            self.include_self, self.message, self.head = include_self, nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            index = torch.tensor([0, 0, 1])[:, None].expand(3, 4)
            whole = x.new_zeros(2, 4)
            found = whole.scatter_reduce(0, index, self.message(x), "amax", include_self=self.include_self)
            return self.head(torch.relu(found))

    x = torch.randn(3, 4)
    reports = [nap.analyze(Neighbours(include_self), x).not_handled for include_self in (False, True)]
    assert [any("scatter_reduce" in name for name, _ in listed) for listed in reports] == [False, True]


def test_a_floor_comes_with_the_state_dict() -> None:
    def made(seed: int) -> nn.Sequential:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 2))

    first, second, x = made(0), made(1), 1e-6 * torch.randn(5, 4)
    nap.normalize(first)
    nap.normalize(second)
    floors = [[part.floor for part in model.modules() if isinstance(part, FlooredNorm)] for model in (first, second)]
    assert floors[0] != floors[1]
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    torch.testing.assert_close(second(x), first(x), rtol=0, atol=0)
    older = {name: value for name, value in first.state_dict().items() if not name.endswith("_extra_state")}
    second.load_state_dict(older)
