"""hyperball: the angle of its updates, what skips and other methods do to it."""

import math

import pytest
import torch

import nap
from experiment.guard import SkipNonFinite
from plasticity.hyperball import Hyperball
from plasticity.loops import Loop, cnn, mlp
from plasticity.nap import NaP
from plasticity.registry import make


@pytest.mark.parametrize("build", [mlp, cnn])
def test_an_update_turns_each_matrix_by_scale_times_lr(build):
    method = Hyperball(scale=3)
    loop = Loop(build, method)  # Adam at 0.01
    for _ in range(5):
        before = nap.snapshot(loop.network)
        loop.step()
        turned = nap.rotation(before, nap.snapshot(loop.network))
        for name in method.projection.names:
            assert float(turned[name]) == pytest.approx(0.03, rel=0.03)
    norms, kept = method.projection.norms(), method.projection.initial_norms
    assert all(float(norms[name]) == pytest.approx(float(kept[name]), rel=1e-6) for name in norms)


def test_it_is_nap_but_for_the_steps():
    loops = {kind: Loop(mlp, kind()) for kind in (NaP, Hyperball)}
    names = {kind: (dict(loop.network.named_parameters()).keys(), loop.methods[0].projection.names)
             for kind, loop in loops.items()}  # fmt: skip
    assert names[NaP] == names[Hyperball]
    turned = {}
    for kind, loop in loops.items():
        before = nap.snapshot(loop.network)
        loop.step()
        turned[kind] = nap.rotation(before, nap.snapshot(loop.network))
    assert torch.equal(turned[NaP]["4.weight"], turned[Hyperball]["4.weight"])  # the output layer
    assert abs(float(turned[NaP]["0.weight"]) - float(turned[Hyperball]["0.weight"])) > 1e-3


def test_a_skipped_update_leaves_every_weight_matrix_as_it_is():
    loop, method = Loop(mlp, normalized=True), Hyperball()
    optimizer = torch.optim.AdamW(loop.network.parameters(), torch.tensor(0.01), fused=True)
    method.attach(loop.network, None, optimizer)
    skip = SkipNonFinite(optimizer)
    for update in range(1, 7):
        bad = update == 5
        before = nap.snapshot(loop.network)
        inputs, labels = loop.batch()
        loop.updates += 1
        optimizer.zero_grad()
        loss = loop.loss(inputs, labels * (math.inf if bad else 1))
        loss.backward()
        skip.look(loss)
        optimizer.step()
        method.after_update(update)
        assert all(torch.equal(before[name], value) == bad for name, value in nap.snapshot(loop.network).items())
    assert int(skip.count) == 1


def test_projections_come_last_whatever_the_order():
    methods = make(["nap", "hyperball", "redo"])
    assert [type(method).__name__ for method in methods] == ["ReDo", "Hyperball", "NaP"]


def test_weights_that_another_method_writes_are_back_at_their_norm():
    loop = Loop(mlp, *make(["hyperball", "shrink-perturb:period=2", "redo:period=3,tau=0.5,samples=8"]))
    projection = loop.methods[-1].projection
    for _ in range(6):
        loop.step()
        for name, norm in projection.norms().items():
            assert float(norm) == pytest.approx(float(projection.initial_norms[name]), rel=1e-6)


@pytest.mark.parametrize("scale", [0, -1, math.nan, math.inf])
def test_a_scale_that_is_no_positive_number_is_refused(scale):
    with pytest.raises(ValueError, match="hyperball: scale="):
        Hyperball(scale=scale)
