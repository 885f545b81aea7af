"""Optimiser reset and Adam-Rel: what they start again, and that they follow the target network."""

import copy
import io
import math

import pytest
import torch

from plasticity.adam_rel import AdamRel
from plasticity.loops import Loop, mlp
from plasticity.optimizer_reset import OptimizerReset
from plasticity.registry import make
from tests.plasticity.test_every_method import learn, learner

BOTH = pytest.mark.parametrize("kind", [AdamRel, OptimizerReset])


def steps(agent):
    return {int(state["step"]) for state in agent.optimizer.state.values()}


@BOTH
def test_weights_stay_and_counts_are_zero_after_each_period(kind):
    loop = Loop(mlp, kind(period=3)).run(2)
    loop.learn()
    before, state = copy.deepcopy(loop.values()), copy.deepcopy(loop.optimizer.state_dict()["state"])
    loop.after()
    assert all(map(torch.equal, loop.values(), before))
    assert steps(loop) == {0}
    for now, old in zip(loop.optimizer.state.values(), state.values(), strict=True):
        for key in ("exp_avg", "exp_avg_sq"):
            kept = torch.equal(now[key], old[key]) and bool(old[key].any())
            assert kept if kind is AdamRel else not now[key].any()
    assert [steps(loop.run(1)) for _ in range(4)] == [{1}, {2}, {0}, {1}]


@pytest.mark.parametrize("growth", [1.0, 1e4])
def test_the_first_step_after_a_restart_is_that_of_the_paper(growth):
    """Equations 3 and 4: after a long time of gradients 1, one of `growth`, with the time counted from there."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer, network = torch.optim.Adam([weight], lr=1.0, eps=0.0), torch.nn.Module()
    network.weight = weight
    (method := AdamRel(at=1)).attach(network, None, optimizer)
    weight.grad = torch.ones(1)
    optimizer.step()
    optimizer.state[weight]["exp_avg"].fill_(1.0)  # as after a long time
    optimizer.state[weight]["exp_avg_sq"].fill_(1.0)
    before = weight.detach().clone()
    method.after_update(1)
    weight.grad.fill_(growth)
    optimizer.step()
    moment, square = 0.9 + 0.1 * growth, 0.999 + 0.001 * growth**2
    expected = (moment / math.sqrt(square)) * math.sqrt(1 - 0.999) / (1 - 0.9)
    assert (before - weight).item() == pytest.approx(expected, rel=1e-4)
    assert expected == pytest.approx(1 / math.sqrt(10) if growth == 1 else 1, rel=1e-2)


@BOTH
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_update_after_a_copy_to_the_target_counts_as_the_first(kind, precision):
    agent = learner(kind.name, precision=precision)
    learn(agent, 3)
    assert steps(agent) == {3}
    agent.sync_target()
    assert steps(agent) == {3}
    learn(agent, 1)
    assert steps(agent) == {1}
    learn(agent, 2)
    assert steps(agent) == {3}


def test_the_steps_after_a_copy_are_those_of_a_fresh_optimiser():
    agent, other = learner("optimizer-reset"), learner()
    for each in (agent, other):
        learn(each, 3)
        each.sync_target()
    other.optimizer.state.clear()
    for each in (agent, other):
        learn(each, 2)
    assert all(map(torch.equal, agent.network.parameters(), other.network.parameters()))


def test_another_method_that_writes_the_target_counts_as_a_change():
    agent = learner("adam-rel", "shrink-perturb:period=2,target=draw")
    learn(agent, 3)
    assert steps(agent) == {1}


@pytest.mark.parametrize("synced", [False, True])
@BOTH
def test_a_checkpoint_between_the_copy_and_the_update_keeps_the_change(kind, synced):
    agent, resumed = learner(kind.name), learner(kind.name, seed=1)
    learn(agent, 3)
    if synced:
        agent.sync_target()
    torch.save(agent.state_dict(), file := io.BytesIO())
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for each in (agent, resumed):
        learn(each, 2)
    assert steps(agent) == steps(resumed) == {2 if synced else 5}
    assert all(map(torch.equal, agent.network.parameters(), resumed.network.parameters()))


@BOTH
def test_without_a_target_network_it_asks_for_a_number(kind):
    with pytest.raises(ValueError, match=rf"^{kind.name}: period=target: .*number of updates, {kind.name}:period=N$"):
        Loop(mlp, kind(), has_target=False)
    Loop(mlp, kind(at=2), has_target=False).run(3)


def test_adam_rel_refuses_an_optimiser_that_does_not_count():
    network = mlp()
    with pytest.raises(ValueError, match=r"^adam-rel: SGD .* no step count, as Adam does: train with Adam, or take"):
        AdamRel(period=2).attach(network, None, torch.optim.SGD(network.parameters(), 0.1))


def test_an_optimiser_without_counts_is_reset_too():
    network = mlp()
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    (method,) = make(["optimizer-reset:period=1"])
    method.attach(network, None, optimizer)
    network(torch.ones(2, 6)).sum().backward()
    optimizer.step()
    assert any(state["momentum_buffer"].any() for state in optimizer.state.values())
    method.after_update(1)
    assert not any(state["momentum_buffer"].any() for state in optimizer.state.values())
