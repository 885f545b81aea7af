"""How `nap` follows a model: by running it on example inputs, or by tracing; and that the model stays as it was."""

from __future__ import annotations

import copy
import pickle
import random
from collections import deque
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nap


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def change(model: nn.Module, inputs: Any, name: str, factor: float = 3.0) -> float:
    """The relative change of the output when a weight is multiplied by a factor."""
    weight = dict(model.named_parameters())[name]
    outs = []
    with torch.no_grad():
        for scale in (1.0, factor):
            weight.mul_(scale)
            out = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
            outs.append(torch.cat([part.flatten() for part in out]) if isinstance(out, tuple) else out)
        weight.div_(factor)
    return float((outs[1] - outs[0]).norm() / outs[0].norm())


class ActorCritic(nn.Module):
    """Branches on the shape of its input; the layer registered last is no output."""

    def __init__(self) -> None:
        super().__init__()
        self.actor, self.critic = nn.Linear(8, 3), nn.Linear(8, 1)
        self.body = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.ndim == 1:
            x = x[None]
        h = self.body(x)
        return self.actor(h), self.critic(h)


def test_a_forward_that_branches_is_followed_by_running_it() -> None:
    model = ActorCritic()
    report = nap.normalize(model, example_inputs=normal(5, 4))
    assert report.outputs == ["actor.weight", "critic.weight"]
    assert report.scale_invariant == ["body.0.weight", "body.2.weight"]
    assert (report.not_handled, report.outputs_unknown) == ([], [])
    assert nap.Projection(model).names == report.scale_invariant
    slow = [group for group in nap.param_groups(model, 1.0, rates="fast-features") if group["lr"] == 0.1]
    assert {id(p) for group in slow for p in group["params"]} == {
        id(p) for part in (model.actor, model.critic) for p in part.parameters()
    }


def test_where_the_flow_is_unknown_every_layer_with_nothing_known_behind_it_is_an_output() -> None:
    model = ActorCritic()
    report = nap.normalize(model)
    assert report.outputs == report.outputs_unknown == ["actor.weight", "critic.weight", "body.2.weight"]
    assert report.scale_invariant == ["body.0.weight"]
    assert nap.Projection(model).names == ["body.0.weight"]
    assert "maybe output, so not projected: nothing is known of what follows; give example_inputs=" in str(report)


def test_outputs_may_be_named() -> None:
    model = ActorCritic()
    report = nap.normalize(model, outputs=["actor", "critic.weight"])
    assert report.outputs == ["actor.weight", "critic.weight"]
    assert report.outputs_given == ["actor", "critic.weight"]
    assert report.outputs_unknown == []
    assert nap.Projection(model).names == ["body.0.weight", "body.2.weight"]
    assert "output, not projected (given):\n  actor.weight\n  critic.weight" in str(report)
    assert nap.Projection(model, outputs=["body.2"]).names == ["actor.weight", "critic.weight", "body.0.weight"]
    groups = nap.param_groups(model, 1.0, rates="fast-features", outputs=["critic"])
    assert sum(p.numel() for group in groups if group["lr"] == 0.1 for p in group["params"]) == 9
    with pytest.raises(ValueError, match="outputs has 'actr', which has no weight; did you mean 'actor'"):
        nap.analyze(model, outputs=["actr"])


def test_the_kinds_of_example_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor, extra: dict[str, Tensor] | None = None) -> Tensor:
            h = self.a(x)
            return self.b(F.layer_norm(h, (8,)) if extra is None else F.layer_norm(h + extra["h"], (8,)))

    x, extra = normal(3, 4), {"h": normal(3, 8)}
    model = Two()
    model.a.bias = None
    free = {inputs: nap.analyze(model, given).scale_invariant for inputs, given in {
        "tensor": x, "tuple": (x,), "dict": {"x": x}, "tuple of two": (x, extra), "two": {"x": x, "extra": extra},
        "list": [x, (x, extra)],
    }.items()}  # fmt: skip
    assert {name for name, found in free.items() if found} == {"tensor", "tuple", "dict"}
    with pytest.raises(ValueError, match="the forward of Two fails on example_inputs, RuntimeError: mat1 and mat2"):
        nap.analyze(model, normal(3, 5))


class OptionalNorm(nn.Module):
    """A norm of one tensor; with a second one, another function."""

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-12)
        return x if residual is None else x + residual


class GatedNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor, gate: Tensor | float = 1.0) -> Tensor:
        return self.scale * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-12) * gate


class TwoFeeds(nn.Module):
    def __init__(self, norm: nn.Module, second: bool) -> None:
        super().__init__()
        self.a, self.b, self.head = (nn.Linear(8, 8, bias=False) for _ in range(3))
        self.norm, self.second = norm, second

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.a(x), self.b(x)) if self.second else self.norm(self.a(x)))


@pytest.mark.parametrize("norm", [OptionalNorm, GatedNorm])
@pytest.mark.parametrize("run", [True, False])
def test_a_role_holds_for_the_call_that_was_checked_and_no_other(norm: type[nn.Module], run: bool) -> None:
    x = normal(5, 8)
    for second in (True, False):
        model = TwoFeeds(norm(), second)
        report = nap.analyze(model, x if run else None)
        assert ("a.weight" in report.scale_invariant) is not second
        assert all(change(model, x, name) < 1e-3 for name in report.scale_invariant)
    assert change(TwoFeeds(norm(), True), x, "b.weight") > 0.1


@dataclass
class Output:
    values: Tensor
    extra: dict[str, Any]


class Counter:
    def __init__(self) -> None:
        self.calls = 0


class Stateful(nn.Module):
    """Keeps activations, counts, draws random numbers, fills buffers and caches: everything that a run could leave."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.head = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)
        self.steps, self.seen, self.cache, self.counter = 0, deque(maxlen=3), {}, Counter()
        self.total = nn.Buffer(torch.zeros(()))

    def forward(self, x: Tensor) -> Output:
        h = self.norm(self.layer(x))
        self.features = h
        self.seen.append(h)
        self.cache.setdefault("bias", self.head.bias + 1)
        self.steps += 1
        self.counter.calls += 1
        self.total += 1
        random.random()
        return Output(self.head(F.relu(h + 0 * torch.rand(8))), {"h": h})


class Locked(Stateful):
    """Cannot be copied."""

    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("holds a lock")


def state(model: nn.Module) -> tuple[Any, ...]:
    numpy = pytest.importorskip("numpy")
    attributes = [
        (name, [(key, repr(value)) for key, value in vars(part).items() if key not in ("_modules", "counter")])
        for name, part in model.named_modules()
    ]
    counter = model.get_submodule("").counter.calls if isinstance(model, Stateful) else 0
    draws = random.getstate(), str(numpy.random.get_state()), torch.get_rng_state().tolist()
    identities = [id(value) for value in [*model.parameters(), *model.buffers()]]
    return attributes, counter, draws, identities, {key: value.tolist() for key, value in model.state_dict().items()}


@pytest.mark.parametrize("kind", [Stateful, Locked])
@pytest.mark.parametrize("run", [True, False])
def test_analysis_leaves_the_model_and_the_generators_as_they_were(kind: type[nn.Module], run: bool) -> None:
    model, inputs = kind(), normal(5, 4)
    model.norm.eval()
    before, kept = state(model), inputs.clone()
    report = nap.analyze(model, inputs if run else None)
    assert report.outputs == ["head.weight"]
    assert state(model) == before
    assert torch.equal(inputs, kept)
    assert not hasattr(model, "features")
    assert list(model.cache) == list(model.seen) == []
    pickle.dumps(model.state_dict())
    pickle.loads(pickle.dumps(model))
    model(inputs)
    assert isinstance(model.features, Tensor)


def test_a_normalised_model_that_stores_activations_can_be_pickled_and_copied() -> None:
    for inputs in (None, normal(5, 4)):
        model = Stateful()
        nap.normalize(model, example_inputs=inputs)
        twin = pickle.loads(pickle.dumps(copy.deepcopy(model))).eval()
        assert twin(normal(5, 4)).values.shape == (5, 2)


class InPlace(nn.Module):
    """Writes into its values through views, without the order of a plain flow."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(8, 8, bias=False), nn.Linear(8, 4, bias=False), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        half = h[:, :4]
        half += self.b(x)  # h too
        return self.head(F.layer_norm(h, (8,), eps=1e-12))


def test_values_written_through_a_view_are_followed() -> None:
    model, x = InPlace(), normal(5, 8)
    report = nap.analyze(model, x)
    assert report.scale_invariant == []
    assert change(model, x, "b.weight") > 0.1
    assert report.outputs == ["head.weight"]


def test_numbers_read_from_values_are_no_scale_invariance() -> None:
    class Returned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Linear(8, 8, bias=False), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.layer(x)
            return self.head(F.layer_norm(h, (8,)) * float(h.norm()))

    assert nap.analyze(Returned(), normal(5, 8)).scale_invariant == []


def test_a_report_is_kept_until_the_model_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    model = ActorCritic()
    forward = ActorCritic.forward
    monkeypatch.setattr(ActorCritic, "forward", lambda self, x: runs.append(1) or forward(self, x))
    first = nap.normalize(model, example_inputs=normal(5, 4))
    done = len(runs)
    nap.Projection(model)
    second = nap.analyze(model)
    second.outputs.clear()
    nap.param_groups(model, 1e-3, rates="slow-features")
    assert len(runs) == done
    assert nap.analyze(model).outputs == first.outputs
    model.actor = nn.Linear(8, 6)
    model.extra = 3
    assert nap.analyze(model).outputs == first.outputs
    assert len(runs) > done


class Experts(nn.Module):
    """A stack of gated experts as three-dimensional parameters, used one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(normal(3, 12, 8)), nn.Parameter(normal(3, 8, 6))
        self.act, self.table = nn.SiLU(), nn.Parameter(normal(3, 5, 8))

    def forward(self, x: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        for i in range(len(self.up)):
            gate, up = F.linear(x, self.up[i]).chunk(2, -1)
            out = out + F.linear(self.act(gate) * up, self.down[i])
        return out + self.table[0].mean(0)


def test_each_matrix_of_a_stack_of_experts_keeps_its_own_norm() -> None:
    model = nn.Sequential(nn.Linear(8, 8), Experts(), nn.Linear(8, 2))
    report = nap.normalize(model, example_inputs=normal(5, 8))
    stacks = [f"1.{name}[{i}]" for name in ("up", "down") for i in range(3)]
    assert list(report.projected_only) == ["0.weight", *stacks]
    assert list(report.left_out) == ["1.table[0]", "1.table[1]", "1.table[2]"]
    assert "1.up[0..2]: feeds a nonlinearity without a norm" in str(report)
    projection = nap.Projection(model)
    assert projection.names == ["0.weight", *stacks]
    before = {name: norm.item() for name, norm in projection.initial_norms.items()}
    with torch.no_grad():
        model[1].up.mul_(torch.tensor([2.0, 3.0, 0.5])[:, None, None])
    projection.project()
    for i in range(3):
        assert model[1].up[i].norm().item() == pytest.approx(before[f"1.up[{i}]"], rel=1e-6)
    projection.check()


class StandardisedConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / weight.square().mean((1, 2, 3), keepdim=True).sqrt()
        return F.conv2d(x, weight, self.bias)


class Direct(nn.Module):
    """Weights that are used without a module's call."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(normal(8, 8)) for _ in range(3))
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        x = F.rms_norm(F.linear(x, self.a), (8,), eps=1e-12)
        return torch.einsum("bi,io->bo", self.scale * F.relu(F.rms_norm(x @ self.b.T, (8,), eps=1e-12)), self.c)


@pytest.mark.parametrize("run", [True, False])
def test_weights_used_without_a_call_are_analysed(run: bool) -> None:
    model, x = Direct(), normal(5, 8)
    report = nap.analyze(model, x if run else None)
    assert (report.scale_invariant, report.outputs) == (["a", "b"], ["c"])
    assert (report.not_handled, report.left_out) == ([], {})
    assert all(change(model, x, name) < 1e-4 for name in ("a", "b"))
    assert nap.Projection(model).names == ["a", "b"]


@pytest.mark.parametrize("run", [True, False])
def test_the_activation_behind_a_weight_standardised_convolution_gets_its_norm(run: bool) -> None:
    model = nn.Sequential(StandardisedConv(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 2))
    x = normal(4, 3, 6, 6)
    report = nap.normalize(model, example_inputs=x if run else None)
    assert (report.not_handled, report.outputs) == ([], ["3.weight"])
    assert report.projected_only == {"0.weight": "another weight is computed from it"}
    assert isinstance(model[1], nap.NormalizedActivation)
    assert model(x).shape == (4, 2)


class FusedGate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate_up, self.act, self.down = nn.Linear(8, 24, bias=False), nn.SiLU(), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.dropout(self.act(F.dropout(gate, 0.1, self.training)) * up, 0.1, self.training))


def test_a_fused_gate_gets_a_norm_of_its_own_width() -> None:
    model, x = FusedGate(), normal(5, 8)
    report = nap.normalize(model, example_inputs=x)
    assert (report.not_handled, report.outputs) == ([], ["down.weight"])
    assert model.act.norm.normalized_shape == (12,)
    assert report.projected_only == {"gate_up.weight": "feeds a product"}
    assert model(x).shape == (5, 2)


class MaybeNone(nn.Module):
    """Calls its activation with None, and pools features before another."""

    def __init__(self) -> None:
        super().__init__()
        self.act, self.a, self.b, self.head = nn.SiLU(), nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(8, 2)
        self.pool = nn.MaxPool1d(2)

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        embedded = None if time is None else self.act(time)
        h = self.pool(self.a(x)).relu()
        return self.head(h if embedded is None else h + embedded)


@pytest.mark.parametrize("run", [True, False])
def test_pooled_features_and_an_unused_activation(run: bool) -> None:
    model, x = MaybeNone(), normal(5, 8)
    nap.normalize(model, example_inputs=x if run else None)
    assert model(x).shape == (5, 2)


@pytest.mark.parametrize("run", [True, False])
def test_a_model_on_meta_is_analysed_alike(run: bool) -> None:
    x = normal(5, 4)
    real = ActorCritic()
    with torch.device("meta"):
        meta = ActorCritic()
    reports = [nap.normalize(model, example_inputs=x if run else None) for model in (real, meta)]
    assert reports[0] == reports[1]
    assert [type(part) for part in real.modules()] == [type(part) for part in meta.modules()]
    assert real.state_dict().keys() == meta.state_dict().keys()
    assert [(n, p.shape) for n, p in real.named_parameters()] == [(n, p.shape) for n, p in meta.named_parameters()]


def test_complex_weights_are_analysed_and_projected() -> None:
    model = nn.Sequential(nn.Linear(4, 8, dtype=torch.complex64), nn.Linear(8, 2, dtype=torch.complex64))
    report = nap.analyze(model, torch.randn(3, 4, dtype=torch.complex64))
    assert (list(report.projected_only), report.outputs) == (["0.weight"], ["1.weight"])
    projection = nap.Projection(model)
    with torch.no_grad():
        model[0].weight.mul_(3)
    projection.project()
    torch.testing.assert_close(projection.norms(), projection.initial_norms)


def test_the_activation_behind_message_passing_gets_its_norm() -> None:
    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.act, self.head = nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)

        def forward(self, x: Tensor, edges: Tensor) -> Tensor:
            h = self.layer(x)
            out = torch.zeros_like(h).index_add(0, edges[1], h.index_select(0, edges[0]))
            return self.head(self.act(out))

    model, inputs = Graph(), (normal(4, 4), torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]]))
    report = nap.normalize(model, example_inputs=inputs)
    assert (report.not_handled, report.outputs) == ([], ["head.weight"])
    assert model.act.norm.normalized_shape == (8,)
    assert model(*inputs).shape == (4, 2)


class Unrolled(nn.Module):
    """Many sums of a value and a function of it, before the first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(60):
            x = x + 0.1 * torch.sin(x)
        return self.head(torch.tanh(self.body(x.relu())))


def test_the_analysis_of_a_chain_of_sums_does_not_double_with_each() -> None:
    report = nap.normalize(Unrolled())
    assert report.outputs == ["head.weight"]
    assert report.scale_invariant == ["body.layer.weight"]
