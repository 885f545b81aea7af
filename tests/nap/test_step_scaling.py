"""The effective learning rate of each kind of optimiser against the angle that its steps turn a weight by."""

import math

import pytest
import torch
from torch import nn, optim

import nap


class Lamb(optim.Optimizer):
    """Lamb without decay: Adam's step at the length lr ||W|| (arXiv 1904.00962)."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state["step"] = state.get("step", 0) + 1
                mean = state.setdefault("mean", torch.zeros_like(p)).lerp_(p.grad, 0.1)
                square = state.setdefault("square", torch.zeros_like(p)).lerp_(p.grad.square(), 0.001)
                u = mean / (1 - 0.9 ** state["step"]) / (square / (1 - 0.999 ** state["step"])).sqrt().add(1e-6)
                p.sub_(u * group["lr"] * p.norm() / u.norm())


class LARS(optim.Optimizer):
    """LARS without momentum: the gradient at the length lr trust_coefficient ||W|| (arXiv 1708.03888)."""

    def __init__(self, params, lr, trust_coefficient=0.001):
        super().__init__(params, {"lr": lr, "trust_coefficient": trust_coefficient})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(p.grad * group["lr"] * group["trust_coefficient"] * p.norm() / p.grad.norm())


class Lion(optim.Optimizer):
    """The sign of an interpolated momentum (arXiv 2302.06675)."""

    def __init__(self, params, lr, betas=(0.9, 0.99)):
        super().__init__(params, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                mean = self.state[p].setdefault("mean", torch.zeros_like(p))
                p.sub_(torch.lerp(mean, p.grad, 1 - group["betas"][0]).sign() * group["lr"])
                mean.lerp_(p.grad, 1 - group["betas"][1])


class UnknownSign(Lion):
    pass


class UnknownTrust(LARS):
    pass


class OwnSGD(optim.Optimizer):
    """Gradient descent by a class that nap has not heard of."""

    def __init__(self, params, lr, noise=0.0):
        super().__init__(params, {"lr": lr, "noise": noise})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(p.grad * group["lr"] + torch.randn_like(p) * group["noise"])


class Half(OwnSGD):
    """The gradient divided by the root of its norm: no formula fits."""

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad.div_(p.grad.norm().sqrt())
        super().step()


class NeedsClosure(OwnSGD):
    def step(self, closure):
        closure()


OPTIMISERS = {
    "sgd": (2, lambda p: optim.SGD(p, 1e-4)),
    "sgd momentum": (2, lambda p: optim.SGD(p, 1e-5, momentum=0.9)),
    "asgd": (2, lambda p: optim.ASGD(p, 1e-4)),
    "own sgd": (2, lambda p: OwnSGD(p, 1e-4)),
    "adam": (1, lambda p: optim.Adam(p, 1e-3)),
    "adamw": (1, lambda p: optim.AdamW(p, 1e-3)),
    "adamax": (1, lambda p: optim.Adamax(p, 1e-3)),
    "nadam": (1, lambda p: optim.NAdam(p, 1e-3)),
    "radam": (1, lambda p: optim.RAdam(p, 1e-3)),
    "rmsprop": (1, lambda p: optim.RMSprop(p, 1e-3)),
    "adagrad": (1, lambda p: optim.Adagrad(p, 1e-2)),
    "adadelta": (1, lambda p: optim.Adadelta(p, 0.1, eps=1e-12)),
    "rprop": (1, lambda p: optim.Rprop(p, 1e-3, step_sizes=(1e-3, 1e-3))),
    "muon": (1, lambda p: optim.Muon(p, 1e-3, weight_decay=0)),
    "lion": (1, lambda p: Lion(p, 1e-4)),
    "unknown sign": (1, lambda p: UnknownSign(p, 1e-4)),
    "adafactor": (0, lambda p: optim.Adafactor(p, 1e-2)),
    "lamb": (0, lambda p: Lamb(p, 1e-2)),
    "lars": (0, lambda p: LARS(p, 5.0)),
    "unknown trust": (0, lambda p: UnknownTrust(p, 5.0)),
}
STEPS = 40


def turn(make, norm, steps=STEPS):
    """The mean angle per step of the second half, and the mean effective rate there, at weights of that norm."""
    random = torch.Generator().manual_seed(3)
    layer = nn.Linear(12, 10, bias=False)
    layer.weight.data = torch.randn(10, 12, generator=random)
    layer.weight.data *= norm / layer.weight.data.norm()
    optimizer, angles, rates = make(list(layer.parameters())), [], []
    for step in range(steps):
        inputs, wanted = torch.randn(32, 12, generator=random), torch.randn(32, 10, generator=random)
        before = nap.snapshot(layer)
        if step >= steps // 2:
            rates.append(float(nap.effective_lr(layer, optimizer)["weight"]))
        optimizer.zero_grad()
        (inputs @ (layer.weight / layer.weight.norm()).T - wanted).square().sum().backward()
        optimizer.step()
        angles.append(float(nap.rotation(before, nap.snapshot(layer))["weight"]))
    return sum(angles[steps // 2 :]) / len(rates), sum(rates) / len(rates)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_the_angle_per_step_follows_the_effective_rate_at_norms_1_and_10(name):
    exponent, make = OPTIMISERS[name]
    (angle, rate), (far_angle, far_rate) = (turn(make, norm) for norm in (1.0, 10.0))
    measured, claimed = (math.log10(one / other) for one, other in ((angle, far_angle), (rate, far_rate)))
    assert measured == pytest.approx(exponent, abs=0.15)
    assert claimed == pytest.approx(measured, abs=0.15)


@pytest.mark.parametrize(("name", "share"), [("lamb", 0.99), ("lars", 0.99), ("adafactor", 0.9)])
def test_a_relative_rate_is_the_angle_itself_but_for_clipping(name, share):
    angle, rate = turn(OPTIMISERS[name][1], 1.0)
    assert share <= angle / rate <= 1.01


def test_adafactor_has_a_least_size_and_a_largest_rate():
    layer = nn.Linear(10, 10, bias=False)
    layer.weight.data.fill_(1e-4)
    optimizer = optim.Adafactor(layer.parameters(), lr=0.3)
    assert float(nap.effective_lr(layer, optimizer)["weight"]) == pytest.approx(0.3 * 10)  # 1e-3 for a size of 1e-4
    layer.weight.data.fill_(1.0)
    for step in range(1, 17):
        layer.weight.grad = torch.ones(10, 10)
        optimizer.step()
        assert float(nap.effective_lr(layer, optimizer)["weight"]) == pytest.approx(min(0.3, step**-0.5))


def test_an_unknown_optimiser_is_tried_once_with_its_own_options_and_changes_nothing():
    layer, made = nn.Linear(3, 4), []

    class Watched(OwnSGD):
        def __init__(self, *args, **kwargs):
            made.append(self)
            super().__init__(*args, **kwargs)

    optimizer = Watched(layer.parameters(), lr=0.5, noise=1e-4)
    before, state = layer.weight.detach().clone(), torch.get_rng_state()
    counts = []
    for _ in range(3):
        rate = float(nap.effective_lr(layer, optimizer)["weight"])
        assert rate == pytest.approx(0.5 / float(before.norm()) ** 2)
        counts.append(len(made))
    assert counts[0] > 1
    assert len(set(counts)) == 1
    assert {other.param_groups[0]["noise"] for other in made} == {1e-4}
    assert torch.equal(layer.weight, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert not optimizer.state


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda p: Half(p, 1e-3), r"\^1\.5"),
        (lambda p: NeedsClosure(p, 1e-3), "cannot be tried .*closure"),
        (lambda p: optim.LBFGS(p), "cannot be tried .*closure"),
    ],
)
def test_an_optimiser_that_no_formula_fits_is_refused_in_one_line(make, why):
    layer = nn.Linear(3, 4)
    optimizer = make(list(layer.parameters()))
    with pytest.raises(ValueError, match=rf"{type(optimizer).__name__} .*{why}.*exponent=") as error:
        nap.effective_lr(layer, optimizer)
    assert "\n" not in str(error.value)
    norm = float(layer.weight.detach().norm())
    rates = {exponent: float(nap.effective_lr(layer, optimizer, exponent=exponent)["weight"]) for exponent in (0, 1, 2)}
    lr = optimizer.param_groups[0]["lr"]
    assert rates == pytest.approx({0: lr, 1: lr / norm, 2: lr / norm**2})


@pytest.mark.parametrize(
    ("name", "options", "exponent"),
    [
        ("FusedLAMB", {}, 0),
        ("PagedLion8bit", {}, 1),
        ("SOAP", {}, 1),
        ("Adafactor", {}, 0),
        ("Adafactor", {"scale_parameter": False}, 1),
    ],
)
def test_optimisers_of_other_libraries_are_known_by_name(name, options, exponent):
    layer = nn.Linear(3, 4)
    optimizer = type(name, (OwnSGD,), {})(layer.parameters(), 0.1)
    optimizer.param_groups[0].update(options)
    rate = float(nap.effective_lr(layer, optimizer)["weight"])
    assert rate == pytest.approx(0.1 / float(layer.weight.detach().norm()) ** exponent)


def test_a_rate_that_the_optimiser_keeps_to_itself_is_refused():
    layer = nn.Linear(3, 4)
    optimizer = type("Adafactor", (OwnSGD,), {})(layer.parameters(), 0.1)
    optimizer.param_groups[0]["lr"] = None
    with pytest.raises(ValueError, match="Adafactor has lr=None"):
        nap.effective_lr(layer, optimizer)
