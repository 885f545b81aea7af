"""UPGD against its authors' optimisers, weight by weight."""

import math

import numpy as np
import pytest
import torch

from experiment.guard import SkipNonFinite
from plasticity.loops import Loop, cnn, mlp
from plasticity.reset import Reset
from plasticity.upgd import UPGD

LR, SIGMA, BETA, DECAY = 0.01, 0.5, 0.9, 0.3


def values(network):
    return [parameter.detach().double().numpy().copy() for parameter in network.parameters()]


def gradients(loop):
    """The gradients of the next minibatch at the present weights."""
    loss = loop.loss(*loop.batch())
    return [g.double().numpy() for g in torch.autograd.grad(loss, list(loop.network.parameters()))]


def reference(weights, grads, noises, state, adam):
    """One step: the utilities of all weights, their largest, then each weight's own step."""
    state["step"] += 1
    t = state["step"]
    for w, g, utility in zip(weights, grads, state["utility"], strict=True):
        utility *= BETA
        utility += (1 - BETA) * -g * w
    largest = max(utility.max() for utility in state["utility"])
    stepped = []
    for i, (w, g, noise) in enumerate(zip(weights, grads, noises, strict=True)):
        u = 1 / (1 + np.exp(-(state["utility"][i] / (1 - BETA**t)) / largest))
        direction = g
        if adam:
            state["m"][i] = 0.9 * state["m"][i] + 0.1 * g
            state["v"][i] = 0.999 * state["v"][i] + 0.001 * g**2
            direction = state["m"][i] / (1 - 0.9**t) / (np.sqrt(state["v"][i] / (1 - 0.999**t)) + 1e-8)
        stepped.append(w * (1 - LR * DECAY) - 2 * LR * (direction + SIGMA * noise) * (1 - u))
    return stepped


@pytest.mark.parametrize("adam", [True, False])
@pytest.mark.parametrize("build", [mlp, cnn])
def test_the_authors_two_optimisers(build, adam):
    loop, method = Loop(build), UPGD(SIGMA, BETA, DECAY, seed=3)
    kind = torch.optim.Adam if adam else torch.optim.SGD
    loop.optimizer = kind(loop.network.parameters(), torch.tensor(LR))
    method.attach(loop.network, None, loop.optimizer)
    generator = torch.Generator().manual_seed(3)
    state = {"step": 0, **{key: [np.zeros_like(w) for w in values(loop.network)] for key in ("utility", "m", "v")}}
    for _ in range(5):
        before, grads = values(loop.network), gradients(loop)
        noises = [torch.empty_like(p).normal_(generator=generator).numpy() for p in loop.network.parameters()]
        loop.step()
        expected = reference(before, grads, noises, state, adam)
        for now, right in zip(values(loop.network), expected, strict=True):
            np.testing.assert_allclose(now, right, rtol=1e-4, atol=2e-6)


def test_another_method_is_not_scaled():
    methods = [Reset(period=1, layers=("all",), seed=5), UPGD(SIGMA)]
    loops = [Loop(mlp, *methods[:1]), Loop(mlp, *methods)]
    for loop in loops:
        loop.methods[0].attach(loop.network, loop.target, loop.optimizer)  # the draws of its start
        loop.step()
    assert all(map(torch.equal, loops[0].network.parameters(), loops[1].network.parameters()))


def test_a_skipped_update_leaves_every_weight_as_it_is_and_no_trace():
    loop, method = Loop(mlp), UPGD(SIGMA)
    optimizer = torch.optim.AdamW(loop.network.parameters(), torch.tensor(LR), fused=True)
    skip = SkipNonFinite(optimizer)
    method.attach(loop.network, None, optimizer)
    for update in range(1, 5):
        before = values(loop.network)
        inputs, labels = loop.batch()
        optimizer.zero_grad()
        loss = loop.loss(inputs, labels * (math.inf if update == 2 else 1))
        loss.backward()
        skip.look(loss)
        optimizer.step()
        same = [np.array_equal(one, other) for one, other in zip(values(loop.network), before, strict=True)]
        assert all(same) if update == 2 else not any(same)
        assert all(np.isfinite(value).all() for value in values(loop.network))


def test_with_only_negative_utilities_the_largest_is_negative_and_the_most_harmful_weight_steps_least():
    network, method = mlp(), UPGD(sigma=0.0, beta=BETA, decay=DECAY)
    optimizer = torch.optim.SGD(network.parameters(), torch.tensor(LR))
    method.attach(network, None, optimizer)
    state = {"step": 0, "utility": [np.zeros_like(value) for value in values(network)]}
    for _ in range(3):
        before = values(network)
        optimizer.zero_grad()
        sum(parameter.square().sum() / 2 for parameter in network.parameters()).backward()  # each gradient is a weight
        optimizer.step()
        expected = reference(before, before, [0 * value for value in before], state, adam=False)
        assert all((utility < 0).all() for utility in state["utility"])
        for now, right in zip(values(network), expected, strict=True):
            np.testing.assert_allclose(now, right, rtol=1e-6, atol=1e-8)
    weights, moved = (np.concatenate([value.ravel() for value in each]) for each in (before, values(network)))
    shares = (1 - LR * DECAY - moved / weights) / LR  # of the usual step
    assert np.abs(shares[np.abs(weights).argmax()]) < 1e-4
    assert 0.01 < shares.max() < 0.54
    assert shares[np.abs(weights).argmin()] == pytest.approx(shares.max())


def test_without_any_gradient_the_step_is_the_usual_one():
    network, method = mlp(), UPGD(sigma=0.0, decay=0.0)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    method.attach(network, None, optimizer)
    before = values(network)
    (0 * network(torch.ones(2, 6))).sum().backward()
    optimizer.step()
    assert all(np.array_equal(one, other) for one, other in zip(values(network), before, strict=True))


def test_a_beta_of_one_is_refused():
    with pytest.raises(ValueError, match=r"upgd: beta=1"):
        UPGD(beta=1)
