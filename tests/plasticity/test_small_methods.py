"""What every one of the smaller methods keeps: off is off, resumable, a penalty in one graph."""

import copy
import math

import pytest
import torch

from plasticity.crelu import CReLU
from plasticity.dash import DASH
from plasticity.hare_tortoise import HareTortoise
from plasticity.injection import PlasticityInjection
from plasticity.l2_init import L2Init
from plasticity.loops import Loop, cnn
from plasticity.registry import METHODS
from plasticity.spectral import SpectralRegularization
from plasticity.weight_clipping import WeightClipping
from plasticity.weight_decay import WeightDecay

ON = {
    "l2-init": lambda: L2Init(0.1),
    "crelu": CReLU,
    "injection": lambda: PlasticityInjection(at=3),
    "hare-tortoise": lambda: HareTortoise(0.5, period=2),
    "spectral": lambda: SpectralRegularization(0.1),
    "weight-clipping": lambda: WeightClipping(0.9),
    "dash": lambda: DASH(period=2),
    "weight-decay": lambda: WeightDecay(0.1),
    "weight-decay l2": lambda: WeightDecay(0.1, kind="l2"),
}
OFF = {
    "l2-init": lambda: L2Init(0),
    "injection": lambda: PlasticityInjection(at=math.inf),
    "hare-tortoise": lambda: HareTortoise(period=math.inf),
    "spectral": lambda: SpectralRegularization(0),
    "weight-clipping": lambda: WeightClipping(0),
    "dash": lambda: DASH(period=math.inf),
    "dash shrinkage": lambda: DASH(shrinkage=1, period=1),
    "weight-decay": lambda: WeightDecay(0),
    "weight-decay l2": lambda: WeightDecay(0, kind="l2"),
}


def run(loop, updates):
    for _ in range(updates):
        loop.step()
    return loop


def weights(loop):
    return [parameter.detach().clone() for parameter in loop.network.parameters()]


def same(ones, others):
    return len(ones) == len(others) and all(map(torch.equal, ones, others))


@pytest.mark.parametrize("name", OFF)
def test_off_changes_no_bit_and_draws_nothing(name):
    plain = run(Loop(cnn), 4)
    state = torch.get_rng_state()
    off = run(Loop(cnn, OFF[name]()), 4)
    assert torch.equal(torch.get_rng_state(), state)
    assert same(weights(off), weights(plain))
    assert off.methods[0].penalty() is None


@pytest.mark.parametrize("at", [1, 2, 4])
@pytest.mark.parametrize("name", ON)
def test_a_resumed_run_goes_on_to_the_bit(name, at):
    whole = run(Loop(cnn, ON[name]()), 6)
    first = run(Loop(cnn, ON[name]()), at)
    second = Loop(cnn, ON[name](), seed=1)
    second.load(copy.deepcopy(first.state()))
    assert same(weights(run(second, 6 - at)), weights(whole))


@pytest.mark.parametrize("name", ["l2-init", "spectral", "weight-decay l2"])
def test_a_penalty_is_a_part_of_one_graph_and_changes_no_state(name):
    loop = run(Loop(cnn, ON[name]()), 2)
    method, before = loop.methods[0], copy.deepcopy(loop.state())
    compiled = torch.compile(lambda: 2 * method.penalty(), fullgraph=True, backend="aot_eager")
    assert compiled().item() == pytest.approx(2 * method.penalty().item(), rel=1e-6)
    run(loop, 1)
    assert compiled().item() == pytest.approx(2 * method.penalty().item(), rel=1e-6)
    loop.load(before)
    assert compiled().item() == pytest.approx(2 * method.penalty().item(), rel=1e-6)


@pytest.mark.parametrize("make", [lambda: DASH(alpha=0), lambda: DASH(period=0.5), lambda: HareTortoise(period=0)])
def test_what_cannot_be_zero_is_refused(make):
    with pytest.raises(ValueError, match=r"it has to be|a period is"):
        make()


def test_an_unknown_kind_of_weight_decay_is_refused():
    with pytest.raises(ValueError, match="'decoupled' or 'l2'"):
        WeightDecay(kind="adamw")


@pytest.mark.parametrize("name", [name for name in ON if " " not in name])
def test_the_line_of_the_listing_is_the_docstring(name):
    first = (type(ON[name]()).__doc__ or "").split(".\n")[0]
    assert first.lower() == METHODS[name].line.lower()
