"""What a trace does not show by itself: hooks, TorchScript, torch.func, parts that only other methods call."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nap
from tests.nap.test_flow import change, normal


@torch.jit.script
def scripted(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


class Between(nn.Module):
    """Two layers with a function between them."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
        self.norm, self.head, self.function = nn.LayerNorm(8, eps=1e-12), nn.Linear(8, 3), function

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.second(self.function(self.first(x)))))


@pytest.mark.parametrize("function", [scripted, torch.vmap(torch.tanh)], ids=["TorchScript", "vmap"])
def test_code_that_torch_does_not_show_is_listed(function: Callable[[Tensor], Tensor]) -> None:
    model = Between(function)
    report = nap.normalize(model, example_inputs=normal(4, 8))
    assert report.scale_invariant == ["second.weight"]
    assert list(report.projected_only) == ["first.weight"]
    assert report.outputs == ["head.weight"]
    assert report.not_handled


@pytest.mark.parametrize("run", [False, True])
def test_what_a_forward_hook_computes_is_a_part_of_the_flow(run: bool) -> None:
    model = Between(nn.Identity())
    model.first.register_forward_hook(lambda module, args, out: torch.tanh(out))
    model.second.register_forward_hook(lambda module, args, out: out + args[0])
    report = nap.normalize(model, example_inputs=normal(4, 8) if run else None)
    assert report.scale_invariant == []
    assert report.not_handled[0][0].startswith("tanh()")
    assert change(model, normal(4, 8), "second.weight") > 0.01


@pytest.mark.parametrize("run", [False, True])
def test_a_forward_of_the_instance_is_unknown(run: bool) -> None:
    model = Between(nn.Identity())
    layer = model.second
    layer.forward = lambda x: torch.tanh(F.linear(x, layer.weight))
    report = nap.normalize(model, example_inputs=normal(4, 8) if run else None)
    assert report.scale_invariant == []
    assert report.outputs_unknown == ["second.weight"]
    assert report.not_handled[0][0] == "second"
    assert change(model, normal(4, 8), "second.weight") > 0.01


class ComputedScale(nn.Module):
    """The scale of its norm comes from a layer, as in an adaptive layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.scale, self.head = nn.Linear(8, 8), nn.Linear(8, 8, bias=False), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.layer_norm(self.body(x), (8,), self.scale(x.mean(0))))


class KeptStatistics(nn.Module):
    """An instance norm that is called as a function and has running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv1d(8, 8, 1, bias=False), nn.Conv1d(8, 3, 1)
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("var", torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x[None].mT)
        return self.head(F.instance_norm(x, self.mean, self.var, use_input_stats=self.training))


class Summed(nn.Module):
    """Layers called as functions, to whose products something is added before the norm."""

    def __init__(self) -> None:
        super().__init__()
        self.free = nn.Parameter(torch.randn(8, 8))
        self.body, self.bias, self.head = (nn.Linear(8, 8, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        first = F.layer_norm(torch.addmm(x, x, self.free), (8,))
        return self.head(F.layer_norm(F.linear(first, self.body.weight, self.bias(x.mean(0))), (8,)))


@pytest.mark.parametrize("name", ["free", "body.weight"])
def test_a_sum_inside_one_function_is_no_scale_invariance(name: str) -> None:
    model = Summed()
    assert change(model, normal(4, 8), name) > 0.1
    assert nap.analyze(model).projected_only[name] == "feeds a sum"


@pytest.mark.parametrize(("kind", "name"), [(ComputedScale, "scale.weight"), (KeptStatistics, "body.weight")])
def test_a_norm_called_as_a_function_may_follow_the_scale(kind: type[nn.Module], name: str) -> None:
    model = kind().eval()
    assert change(model, normal(4, 8), name) > 0.1
    assert name in nap.analyze(model).projected_only


class Squashed(nn.Module):
    """A policy that bounds its log standard deviation, draws an action and bounds that."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.mean, self.log_std = nn.Linear(8, 8), nn.Linear(8, 3), nn.Linear(8, 3)
        self.critic = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.body(x))
        std = self.log_std(x).clamp(-5, 2).exp()
        return torch.tanh(self.mean(x) + std * torch.randn_like(std))

    def value(self, x: Tensor) -> Tensor:
        return self.critic(x)


@pytest.mark.parametrize("run", [False, True])
def test_bounds_behind_bounds_and_parts_that_the_forward_does_not_call(run: bool) -> None:
    model = Squashed()
    report = nap.normalize(model, example_inputs=normal(4, 8) if run else None)
    assert report.outputs == ["mean.weight", "log_std.weight", "critic.0.weight", "critic.2.weight"]
    assert report.outputs_unknown == ["critic.0.weight", "critic.2.weight"]
    assert [name for name, _ in report.not_handled] == ["critic"]
    nap.normalize(model.critic)
    assert nap.analyze(model).not_handled == []
