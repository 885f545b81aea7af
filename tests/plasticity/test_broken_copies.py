"""Faults seen in the field, put into copies of the methods: the checks that ours pass fail for each of these.

Those against the contract of all methods are in test_testing.py.
"""

from itertools import product

import pytest
import torch
from torch import nn

import nap
from plasticity.hare_tortoise import HareTortoise
from plasticity.l2_init import L2Init
from plasticity.loops import Loop, cnn, mlp
from plasticity.nap import NaP
from plasticity.redo import ReDo
from plasticity.reset import Reset
from tests.plasticity.test_redo import check_one_recycling


class KeepsMoments(ReDo):
    """Adam's moments left in place."""

    def recycle(self, dormant):
        optimizer, self.optimizer = self.optimizer, torch.optim.SGD(self.optimizer.param_groups[0]["params"])
        super().recycle(dormant)
        self.optimizer = optimizer


class WrongColumns(ReDo):
    """Another unit's outgoing weights zeroed."""

    def recycle(self, dormant):
        before = [[slot.values.clone() for slot in layer.columns] for layer in self.layers]
        super().recycle(dormant)
        with torch.no_grad():
            for layer, kept, units in zip(self.layers, before, dormant, strict=True):
                for slot, values in zip(layer.columns, kept, strict=True):
                    slot.values.copy_(values)
                    slot.values[units.roll(1)] = 0.0


class IntoACopy(ReDo):
    """Re-initialisation written into the copy that boolean indexing makes."""

    def recycle(self, dormant):
        rows = [layer.weight.values.clone() for layer in self.layers]
        super().recycle(dormant)
        for layer, before, units in zip(self.layers, rows, dormant, strict=True):
            layer.weight.values.copy_(before)
            layer.weight.values[units].uniform_(-0.1, 0.1)


class NotRelative(ReDo):
    """The threshold taken for the activation itself and not for its share of the layer's mean."""

    def recycle(self, dormant):
        super().recycle([size <= self.tau for size in self.sizes])


class OneMinibatch(ReDo):
    """The mean taken over the last minibatch alone."""

    def after_update(self, update, features=None):
        torch._foreach_zero_(self.sizes)
        super().after_update(update, features)


OPTIONS = {"period": 6, "tau": 0.6, "samples": 64}


@pytest.mark.parametrize(
    ("broken", "build"),
    [*product([KeepsMoments, WrongColumns, IntoACopy, NotRelative], [mlp, cnn]), (OneMinibatch, mlp)],
)
def test_a_broken_recycling_is_noticed(broken, build):
    check_one_recycling(ReDo(**OPTIONS), build)
    with pytest.raises(AssertionError):
        check_one_recycling(broken(**OPTIONS), build)


def check_normalize_and_project(method):
    """AssertionError unless a norm is before each nonlinearity and each update ends at the first norms."""
    loop = Loop(mlp, method)
    activations = [part for part in loop.network if not isinstance(part, nn.Linear)]
    assert all(isinstance(part, nap.NormalizedActivation) for part in activations)
    weights = [loop.network[0].weight, loop.network[2].weight]
    first = [weight.norm().item() for weight in weights]
    for _ in range(4):
        loop.step()
        assert [weight.norm().item() for weight in weights] == pytest.approx(first, rel=1e-5)
    norm = loop.network[1].norm
    joint = (norm.weight.square().sum() + norm.bias.square().sum()).sqrt().item()
    assert joint == pytest.approx(16**0.5, rel=1e-5)


class NoNorms(NaP):
    def __init__(self):
        super().__init__(affine="free")

    def prepare(self, network):
        pass


class Rarely(NaP):
    def __init__(self):
        super().__init__(every=10_000)


class JointOfTwo(NaP):
    """The joint norm of scale and offset set to √2 instead of √d."""

    def after_update(self, update, features=None):
        super().after_update(update, features)
        for scale, offset in self.projection._affine:
            joint = (scale.square().sum() + offset.square().sum()).sqrt().detach()
            scale.data.mul_(2**0.5 / joint)
            offset.data.mul_(2**0.5 / joint)


@pytest.mark.parametrize("broken", [NoNorms, Rarely, JointOfTwo])
def test_what_is_called_nap_and_is_not_is_noticed(broken):
    check_normalize_and_project(NaP())
    with pytest.raises(AssertionError):
        check_normalize_and_project(broken())


def check_regularisation(method):
    """AssertionError unless the penalty is of every parameter."""
    loop = Loop(mlp, method)
    first = [parameter.detach().clone() for parameter in loop.network.parameters()]
    loop.step()
    pairs = zip(loop.network.parameters(), first, strict=True)
    expected = sum(0.05 * (now - before).square().sum().item() for now, before in pairs)
    assert method.penalty().item() == pytest.approx(expected, rel=1e-4)


class Assigns(L2Init):
    """A loop over parameters that assigns instead of adds."""

    def penalty(self):
        for parameter, initial in self._pairs:
            loss = 0.5 * self.strength * (parameter - initial).square().sum()
        return loss


def test_a_penalty_of_the_last_parameter_alone_is_noticed():
    check_regularisation(L2Init(0.1))
    with pytest.raises(AssertionError):
        check_regularisation(Assigns(0.1))


def check_separation(method):
    """AssertionError if the slow weights move with the optimiser's step after a reset."""
    loop = Loop(mlp, method)
    loop.step()
    slow = [value.clone() for value in method.state_dict()["tortoise"]]
    loop.learn()
    assert all(map(torch.equal, method.state_dict()["tortoise"], slow))


class Aliased(HareTortoise):
    """`fast.data = slow.data`: after a reset both are one."""

    def attach(self, network, target, optimizer):
        super().attach(network, target, optimizer)
        self.parameters = list(network.parameters())

    def after_update(self, update, features=None):
        super().after_update(update, features)
        for fast, slow in zip(self.parameters, self._tortoise, strict=True):
            fast.data = slow


def test_slow_weights_that_are_the_fast_ones_are_noticed():
    check_separation(HareTortoise(0.5, period=1))
    with pytest.raises(AssertionError):
        check_separation(Aliased(0.5, period=1))


def check_seed(kind):
    """AssertionError unless the same seed draws the same weights and another seed others, none the initial ones."""
    loops = [Loop(mlp, kind(period=1, layers=("all",), **seed)) for seed in ({"seed": 1}, {"seed": 1}, {"seed": 2}, {})]
    for loop in loops:
        loop.step()
    one, same, other, default = (loop.network[0].weight for loop in loops)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(default, mlp()[0].weight)


class DrawnAsTheNetwork(Reset):
    """Fresh weights that are the initial ones, drawn from the same seed."""

    def __init__(self, seed=0, **options):
        super().__init__(seed=seed, **options)


def test_fresh_weights_that_are_the_initial_ones_are_noticed():
    check_seed(Reset)
    with pytest.raises(AssertionError):
        check_seed(DrawnAsTheNetwork)
