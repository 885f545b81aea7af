"""Attach: a projection follows the true updates of its optimisers, or says in one line why it cannot."""

from __future__ import annotations

import copy
import warnings
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import nap


def net(*widths: int) -> nn.Sequential:
    widths = widths or (4, 8, 8, 2)
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    module = nn.Sequential(*layers[:-1])
    nap.normalize(module)
    return module


def train(module: nn.Module, *optimizers: Any, steps: int = 1) -> None:
    for _ in range(steps):
        for optimizer in optimizers:
            optimizer.zero_grad()
        module(torch.randn(16, 4)).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()


def adam(module: nn.Module, **options: Any) -> torch.optim.Adam:
    return torch.optim.Adam(module.parameters(), 0.1, **options)


def off(projection: nap.Projection) -> dict[str, float]:
    """How far each matrix is from its kept norm."""
    return {name: abs(float(norm / projection.initial_norms[name]) - 1) for name, norm in projection.norms().items()}


def held(projection: nap.Projection) -> bool:
    return max(off(projection).values()) < 1e-5


# parameters that are no longer the model's


def assign(module: nn.Sequential) -> None:
    module.load_state_dict({name: value.clone() for name, value in module.state_dict().items()}, assign=True)


CHANGES = {
    "assign": assign,
    "parametrization": lambda module: parametrizations.weight_norm(module[0]),
    "spectral norm": lambda module: nn.utils.spectral_norm(module[0]),
    "pruning": lambda module: prune.l1_unstructured(module[0], "weight", 0.5),
    "new layer": lambda module: module.__setitem__(0, nn.Linear(4, 8)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_replaced_parameter_is_refused_before_the_step(change: str) -> None:
    module = net()
    optimizer = adam(module)
    projection = nap.Projection(module).attach(optimizer)
    train(module, optimizer)
    CHANGES[change](module)
    before = {name: value.clone() for name, value in module.named_parameters()}
    with pytest.raises(ValueError, match=r"0\.weight was replaced .*: do that first, .* call nap\.Projection\(model\)"):
        train(module, optimizer)
    assert all(torch.equal(value, before[name]) for name, value in module.named_parameters())
    for call in (projection.project, projection.step):
        with pytest.raises(ValueError, match=r"0\.weight was replaced"):
            call()
    projection.detach()
    train(module, optimizer)


class Around(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def test_a_wrapper_put_around_a_layer_later_is_followed() -> None:
    module = net()
    optimizer = adam(module)
    projection = nap.Projection(module).attach(optimizer)
    module[0] = Around(module[0])
    train(module, optimizer, steps=3)
    assert held(projection)


@pytest.mark.parametrize("order", ["model first", "optimiser first", "with the projection", "projection first"])
def test_a_deepcopy_projects_its_own_module_and_counts_on(order: str) -> None:
    module = net()
    optimizer = adam(module)
    projection = nap.Projection(module, every=2).attach(optimizer)
    train(module, optimizer, steps=3)
    parts = {"m": module, "o": optimizer, "p": projection}
    keys = {"model first": "mo", "optimiser first": "om", "with the projection": "mop", "projection first": "pom"}[
        order
    ]
    copied = dict(zip(keys, copy.deepcopy([parts[key] for key in keys]), strict=True))
    before = projection.norms()
    train(copied["m"], copied["o"])
    of_copy = projection.for_module(copied["m"])
    assert held(of_copy)  # the fourth update
    if "p" in copied:
        assert copied["p"].updates == 4
        assert projection.updates == 3
    train(copied["m"], copied["o"])
    assert not held(of_copy)
    torch.testing.assert_close(projection.norms(), before)
    train(module, optimizer)
    assert held(projection)


def test_an_optimiser_of_other_parameters_is_refused() -> None:
    module = net()
    optimizer = adam(module)
    assign(module)
    with pytest.raises(ValueError, match="the optimiser holds none of the projected matrices: build it from"):
        nap.Projection(module).attach(optimizer)
    with pytest.raises(TypeError, match="attach takes an optimiser, not Sequential"):
        nap.Projection(module).attach(module)  # type: ignore[arg-type]


def test_norms_that_the_optimiser_does_not_hold_are_named() -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = adam(module)
    nap.normalize(module)
    nap.Projection(module).attach(optimizer)
    with pytest.warns(UserWarning, match=r"no attached optimiser holds 1\..*build the optimiser after nap\.normalize"):
        train(module, optimizer)


def test_a_resume_without_the_projections_state_is_noticed() -> None:
    module = net()
    optimizer = adam(module)
    first = nap.Projection(module).attach(optimizer)
    train(module, optimizer)
    saved = optimizer.state_dict()
    for state in ({}, first.state_dict()):
        resumed = adam(module)
        projection = nap.Projection(module).attach(resumed)
        resumed.load_state_dict(copy.deepcopy(saved))
        if state:
            projection.load_state_dict(state)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                train(module, resumed)
        else:
            with pytest.warns(UserWarning, match="call projection.load_state_dict"):
                train(module, resumed)


# several optimisers, and steps that are no updates


class ActorCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.actor, self.critic = net(), net()

    def forward(self, x: Tensor) -> Tensor:
        return self.actor(x) + self.critic(x)


@pytest.mark.parametrize("affine", ["free", "decay", "joint"])
def test_each_optimiser_counts_and_projects_what_it_holds(affine: str) -> None:
    module = ActorCritic()
    actor, critic = torch.optim.SGD(module.actor.parameters(), 5.0), torch.optim.SGD(module.critic.parameters(), 5.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        projection = nap.Projection(module, every=2, affine=affine).attach(actor, critic).attach(actor)
        train(module, critic)
        train(module, actor, critic)  # the critic's second update, the actor's first
    gaps = off(projection)
    assert all((gap < 1e-5) == name.startswith("critic") for name, gap in gaps.items()), gaps
    train(module, actor)
    assert held(projection)
    state = projection.state_dict()
    assert (projection.updates, state["further_updates"]) == (2, [2])
    other = nap.Projection(module, every=2, affine=affine).attach(actor, critic)
    other.load_state_dict(state)
    assert other.state_dict()["further_updates"] == [2]


def test_the_first_optimiser_projects_what_no_optimiser_holds() -> None:
    module = ActorCritic()
    optimizer = adam(module.actor)
    projection = nap.Projection(module).attach(optimizer)
    with torch.no_grad():
        module.critic[0].weight.mul_(3)
    with pytest.warns(UserWarning, match=r"no attached optimiser holds critic\..*attach\(first, second\)"):
        train(module, optimizer)
    assert held(projection)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("mode", ["frobenius", "neuron"])
@pytest.mark.parametrize("affine", ["decay", "joint"])
def test_a_step_that_a_grad_scaler_skips_is_no_update(fused: bool, mode: str, affine: str) -> None:
    torch.manual_seed(0)
    module = net()
    optimizer = adam(module, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=100)
    projection = nap.Projection(module, every=2, mode=mode, affine=affine, decay=0.5).attach(optimizer)

    def update(bad: bool) -> None:
        optimizer.zero_grad()
        scaler.scale(module(torch.randn(16, 4)).square().mean()).backward()
        if bad:
            module[0].weight.grad[0, 0] = torch.inf
        scaler.step(optimizer)
        scaler.update()

    gaps = []
    for bad in (False, True, False, True, True, False):
        before = [parameter.clone() for parameter in module.parameters()]
        update(bad)
        unchanged = all(map(torch.equal, module.parameters(), before))
        assert unchanged == bad
        gaps.append(
            max(
                float((norm / projection.initial_norms[name] - 1).abs().max())
                for name, norm in projection.norms().items()
            )
            < 1e-5
        )
    assert projection.updates == 3
    assert projection.state_dict()["updates"] == 3
    assert gaps == [False, False, True, True, True, False]
    update(bad=False)
    assert projection.updates == 4


# wrappers


class Wrapper(torch.optim.Optimizer):
    """As accelerate's: it has the interface of an optimiser, and neither its state nor its hooks."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer, self.accumulates = optimizer, False

    param_groups = property(lambda self: self.optimizer.param_groups)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad()

    def step(self, closure: Any = None) -> None:
        if not self.accumulates:
            self.optimizer.step(closure)


class Averaging:
    """As schedule-free's: its own `step` moves the weights after the step of the optimiser inside."""

    def __init__(self, base: torch.optim.Optimizer) -> None:
        self.base = base

    param_groups = property(lambda self: self.base.param_groups)
    state = property(lambda self: self.base.state)

    def zero_grad(self) -> None:
        self.base.zero_grad()

    @torch.no_grad()
    def step(self) -> None:
        self.base.step()
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.mul_(0.9)


def test_attach_goes_through_a_wrapper_and_does_not_count_accumulation() -> None:
    module = net()
    wrapper = Wrapper(adam(module))
    projection = nap.Projection(module).attach(wrapper)
    wrapper.accumulates = True
    train(module, wrapper, steps=2)
    assert projection.updates == 0
    wrapper.accumulates = False
    train(module, wrapper, steps=2)
    assert projection.updates == 2
    assert held(projection)


def test_a_wrapper_with_a_step_of_its_own_is_followed_and_copied() -> None:
    module = net()
    wrapper = Averaging(adam(module))
    projection = nap.Projection(module).attach(wrapper).attach(wrapper)
    train(module, wrapper, steps=2)
    assert projection.updates == 2
    assert held(projection)
    module2, wrapper2 = copy.deepcopy((module, wrapper))
    before = [parameter.clone() for parameter in module.parameters()]
    train(module2, wrapper2, steps=2)
    assert held(projection.for_module(module2))
    assert projection.updates == 2
    assert all(map(torch.equal, module.parameters(), before))
    projection.detach()
    train(module, wrapper)
    assert not held(projection)


def test_accelerates_optimiser() -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    module = net()
    prepared, optimizer = accelerator.prepare(module, adam(module))
    projection = nap.Projection(prepared).attach(optimizer)
    for _ in range(4):
        with accelerator.accumulate(prepared):
            accelerator.backward(prepared(torch.randn(16, 4)).square().mean())
            optimizer.step()
            optimizer.zero_grad()
    assert projection.updates == 2
    assert held(projection)


@pytest.mark.parametrize("wrapped", [False, True])
def test_schedule_frees_optimisers_and_their_weights_for_evaluation(wrapped: bool) -> None:
    schedulefree = pytest.importorskip("schedulefree")
    module = net()
    made = (
        schedulefree.ScheduleFreeWrapper(torch.optim.SGD(module.parameters(), 0.5))  # Adam fails in it
        if wrapped
        else schedulefree.AdamWScheduleFree(module.parameters(), lr=0.1)
    )
    projection = nap.Projection(module).attach(made)
    made.train()
    train(module, made, steps=20)
    assert projection.updates == 20
    assert held(projection)
    made.eval()
    evaluated = copy.deepcopy(module)
    made.train()
    averaged = projection.for_module(evaluated)
    assert not held(averaged)
    averaged.project()
    assert held(averaged)
    assert held(projection)


# averages


@pytest.mark.parametrize("affine", ["free", "decay", "joint"])
def test_an_average_of_the_weights_is_projected_by_name(affine: str) -> None:
    module = net()
    optimizer = adam(module)
    projection = nap.Projection(module, affine=affine).attach(optimizer)
    ema = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for _ in range(20):
        train(module, optimizer)
        ema.update_parameters(module)
    weights = [parameter.clone() for parameter in module.parameters()]
    scales = [norm.weight.clone() for norm in ema.modules() if isinstance(norm, nn.LayerNorm)]
    averaged = projection.for_module(ema)
    assert max(off(averaged).values()) > 1e-3
    averaged.project()
    assert averaged.names == projection.names
    assert held(averaged)
    assert all(map(torch.equal, module.parameters(), weights))
    after = [norm.weight for norm in ema.modules() if isinstance(norm, nn.LayerNorm)]
    assert all(map(torch.equal, scales, after)) == (affine != "joint")
    with torch.no_grad():
        ema.module[0].weight.mul_(2)
    averaged.project()
    assert held(averaged)
    assert held(projection)


def test_for_module_refuses_another_module() -> None:
    projection = nap.Projection(net())
    with pytest.raises(ValueError, match=r"the module has no 0\.weight of shape \(8, 4\): for_module takes a copy"):
        projection.for_module(net(5, 8, 8, 2))


def test_for_module_takes_up_a_module_whose_parameters_were_replaced() -> None:
    module = net()
    optimizer = adam(module)
    projection = nap.Projection(module).attach(optimizer)
    assign(module)
    with torch.no_grad():
        module[0].weight.mul_(3)
    optimizer = adam(module)
    projection = projection.for_module(module).attach(optimizer)
    train(module, optimizer)
    assert held(projection)
