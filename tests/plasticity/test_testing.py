"""check_method names the rule that a method breaks. Each fault, some seen in the field, is in a small method."""

import ast
from pathlib import Path

import pytest
import torch
from torch import nn

import plasticity.testing
from plasticity.cbp import ContinualBackprop
from plasticity.method import Method, make_generator
from plasticity.reset import Reset
from plasticity.testing import check_method


class Noise(Method):
    """Adds a little noise to the first weight after every update: a method that keeps every rule."""

    wants_features = True

    def __init__(self, scale: float = 0.01, seed: int = 1):
        self.scale, self.seed = scale, seed

    def attach(self, network, target, optimizer):
        self.network, self.weight = network, next(network.parameters())
        self.generator = make_generator(network, self.seed)

    @torch.no_grad()
    def after_update(self, update, features=None):
        self.weight.add_(torch.randn(self.weight.shape, generator=self.generator), alpha=self.scale)

    def state_dict(self):
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state):
        self.generator.set_state(state["generator"])


class SaysOff(Noise):
    is_off = True


class Idle(Method):
    pass


class Random(Noise):
    def after_update(self, update, features=None):
        torch.seed()
        self.weight.data.add_(torch.randn_like(self.weight), alpha=self.scale)


class GlobalDraw(Noise):
    def after_update(self, update, features=None):
        self.weight.data.add_(torch.randn_like(self.weight), alpha=self.scale)


class Deaf(Noise):
    def attach(self, network, target, optimizer):
        super().attach(network, target, optimizer)
        self.generator = make_generator(network, 3)


class FixedSeed(Method):
    scale = 0.01
    after_update, state_dict, load_state_dict = Noise.after_update, Noise.state_dict, Noise.load_state_dict

    def attach(self, network, target, optimizer):
        self.weight, self.generator = next(network.parameters()), make_generator(network, 3)


class SavesAnArray(Noise):
    def state_dict(self):
        return super().state_dict() | {"seen": self.weight.detach().numpy()}


class NewModule(Noise):
    def after_update(self, update, features=None):
        super().after_update(update)
        self.network[-1] = nn.Linear(self.network[-1].in_features, 2)


class NewParameter(Noise):
    def after_update(self, update, features=None):
        super().after_update(update)
        self.network[0].weight = nn.Parameter(self.network[0].weight.detach().clone())


class LateBranch(Noise):
    def attach(self, network, target, optimizer):
        super().attach(network, target, optimizer)
        network.append(nn.Linear(2, 2))


class Explodes(Noise):
    def after_update(self, update, features=None):
        self.weight.data.mul_(1e30)


class SharesMemory(Noise):
    def after_update(self, update, features=None):
        super().after_update(update)
        if self.shared is not None:
            self.weight.data = self.shared.data

    def attach(self, network, target, optimizer):
        super().attach(network, target, optimizer)
        self.shared = None if target is None else next(target.parameters())


class Forgets(ContinualBackprop):
    """Ages and utilities that start again after a resume."""

    def load_state_dict(self, state):
        self.generator.set_state(state["generator"])


class SavesAnObject(Noise):
    def state_dict(self):
        return super().state_dict() | {"self": Idle()}


class CountsReads(Noise):
    def state_dict(self):
        self.scale *= 2
        return super().state_dict()


class Reads(Noise):
    def after_update(self, update, features=None):
        if self.weight.norm().item() > 0:
            super().after_update(update)


class Chooses(Noise):
    @torch.no_grad()
    def after_update(self, update, features=None):
        super().after_update(update)
        self.weight[self.weight > 1] *= 0.5


class CountsInThePenalty(Noise):
    steps = 0

    def after_update(self, update, features=None):
        super().after_update(update)
        self.steps = update

    def penalty(self):
        return self.weight.square().sum() * self.steps

    def state_dict(self):
        return super().state_dict() | {"steps": self.steps}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.steps = state["steps"]


class CountsInTheBatchPenalty(Noise):
    """Counts the losses, and not the updates."""

    def attach(self, network, target, optimizer):
        super().attach(network, target, optimizer)
        self.losses = torch.zeros(())

    def batch_penalty(self, batch):
        with torch.no_grad():
            self.losses.add_(1)
        return self.losses * self.weight.square().sum() * batch.inputs.mean()

    def state_dict(self):
        return super().state_dict() | {"losses": self.losses}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.losses.copy_(state["losses"])


class ReadsTheBatch(Noise):
    def batch_penalty(self, batch):
        return self.weight.square().sum() * batch.loss.item()


class TakesAReferenceUnasked(Noise):
    def batch_penalty(self, batch):
        return self.network(batch.reference).square().mean()


class PrintsInThePenalty(Noise):
    def penalty(self):
        print("penalty")
        return self.weight.square().sum()


class NeedsFp32(Noise):
    def after_update(self, update, features=None):
        super().after_update(update)
        h = next(iter(features.values())).flatten(1)
        torch.linalg.vector_norm(h @ torch.eye(h.shape[1]))


class NeedsATarget(Noise):
    def attach(self, network, target, optimizer):
        super().attach(network, target, optimizer)
        self.other = next(target.parameters())


class NeedsLearning(Noise):
    @torch.no_grad()
    def after_update(self, update, features=None):
        super().after_update(update)
        self.weight.add_(self.weight.grad, alpha=-0.01)


class RefusesInLines(Noise):
    def prepare(self, network):
        if isinstance(network, nn.Linear):
            raise ValueError("no\nhidden\nlayer")


class Crashes(Noise):
    def prepare(self, network):
        network[2].register_buffer("more", torch.zeros(1))


class RefusesAll(Noise):
    def prepare(self, network):
        raise ValueError("not this one")


BROKEN = {
    SaysOff: "Off, no bit differs from a run without it (on a mlp): weights differ",
    Idle: "It acts (on a mlp): nothing differs after 9 updates; give options with which it acts in that time, or",
    Random: "The same seed gives the same bits (on a mlp): two runs differ",
    GlobalDraw: "It draws from its own generator (on a mlp): torch's global generator moves",
    FixedSeed: "Another seed gives other bits (on a mlp): it draws random numbers, and its constructor takes no seed",
    Deaf: "Another seed gives other bits (on a mlp): it takes a seed",
    NewModule: "4.weight is another object after update 1: change parameters in place",
    NewParameter: "0.weight is another object after update 1",
    LateBranch: "the network uses 5.bias, 5.weight, which the optimiser does not own, after attach",
    Explodes: "0.weight or its moments are not finite after update",
    SharesMemory: "network and target share memory",
    SavesAnObject: "A run resumed from a checkpoint ends like an uninterrupted one (on a mlp): state_dict()['self']",
    SavesAnArray: "(on a mlp): state_dict()['seen'] is a ndarray: a checkpoint holds tensors, numbers, text, bytes",
    CountsReads: "Saving, measuring and the penalties change nothing (on a mlp): weights differ",
    Reads: "After an update it never waits for the device (on a mlp): it calls _local_scalar_dense",
    Chooses: "After an update it never waits for the device (on a mlp): it calls nonzero",
    CountsInThePenalty: "The loss is one compiled graph (on a mlp): it is compiled",
    CountsInTheBatchPenalty: "Saving, measuring and the penalties change nothing (on a mlp): weights differ",
    ReadsTheBatch: "After an update it never waits for the device (on a mlp): it calls _local_scalar_dense",
    TakesAReferenceUnasked: "It acts (on a mlp): TypeError",
    PrintsInThePenalty: "The loss is one compiled graph (on a mlp): Unsupported",
    NeedsFp32: "It works with passes in bfloat16 (on a mlp): RuntimeError",
    NeedsATarget: "It works without a target network (on a mlp): AttributeError",
    NeedsLearning: "It works with a partly frozen network, or refuses it (on a mlp): TypeError",
    RefusesInLines: "its reason is not one line",
    Crashes: "it takes a network or refuses it with a ValueError (linear): TypeError",
    RefusesAll: "it refuses an MLP and a CNN",
}


@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.__name__)
def test_a_broken_rule_is_named_in_one_line(kind):
    with pytest.raises(AssertionError) as raised:
        check_method(kind)
    said = str(raised.value)
    assert said.startswith(f"{kind.__name__}: ")
    assert BROKEN[kind] in said
    assert "\n" not in said


def test_counts_that_start_again_after_a_resume_are_noticed():
    with pytest.raises(AssertionError, match=r"Forgets: A run resumed .*: is all in its state_dict\?"):
        check_method(Forgets, rate=0.3, maturity=3)


def test_a_whole_method_passes_as_a_class_and_by_its_path_with_options():
    check_method(Noise, scale=0.1)
    check_method(f"{__name__}:Noise:scale=0.1", seed=4)
    check_method(f"{__name__}:Noise", scale=0.2)


@pytest.mark.parametrize(
    ("method", "options", "error", "said"),
    [
        ("redoo", {}, ValueError, "did you mean 'redo'"),
        ("examples.new_method:MyMethd", {}, ValueError, "did you mean 'MyMethod'"),
        ("examples.new_method:MyMethod:scal=1", {}, ValueError, "did you mean 'scale'"),
        (Reset, {"perod": 3}, ValueError, "Reset has no option 'perod'; did you mean 'period'"),
        ("reset:period=3", {"laiers": 1}, ValueError, "reset has no option 'laiers'; did you mean 'layers'"),
        (nn.Linear, {}, AssertionError, "is no subclass of Method"),
        (Reset, {"period": 0}, ValueError, "reset: period=0"),
    ],
)
def test_what_cannot_be_checked_is_one_line(method, options, error, said):
    with pytest.raises(error, match=said):
        check_method(method, **options)


def test_it_needs_no_pytest():
    tree = ast.parse(Path(plasticity.testing.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not any(str(name).startswith(("pytest", "_pytest", "tests")) for name in names | modules)
