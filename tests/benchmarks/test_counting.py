"""Counts of kernels and host syncs: hand-made cases, and the real agents."""

import pytest
import torch
from torch import nn

from agents.build import build_agent
from agents.config import DQNConfig
from benchmarks import counting
from benchmarks.counting import OpCounter, eager_kernels
from replay import FrameReplay


def test_views_and_allocations_are_no_kernels_a_fused_call_is_one():
    a, weights = torch.ones(3, 4), [torch.ones(2), torch.ones(5)]
    with OpCounter() as counter:
        b = a.view(4, 3).t()[1:].detach()  # views
        torch.empty_like(b)
        b + 1
        a.mm(a.t())
        torch._foreach_add_(weights, 1)
    assert counter.calls == {"add": 1, "mm": 1, "_foreach_add_": 1}
    assert counter.total() == 3
    assert counter.total(*counting.EXTERNAL) == 1
    assert counter.total(*counting.SYNCS) == 0


@pytest.mark.parametrize("wait", [lambda x: x.sum().item(), lambda x: bool(x[0] > 0), lambda x: x.nonzero()])
def test_what_the_host_waits_for_is_a_sync(wait):
    with OpCounter() as counter:
        wait(torch.ones(3))
    assert counter.total(*counting.SYNCS) == 1


def test_the_backward_pass_counts():
    x = torch.ones(2, 3, requires_grad=True)
    with OpCounter() as counter:
        (x * 2).sum().backward()
    assert counter.calls["mul"] == 2


class TwoKernels:
    """A fake agent: a target pass of one kernel, a loss of four with its backward, and a step of one outside."""

    def __init__(self) -> None:
        self.online = nn.Linear(2, 1, bias=False)

    def target(self, x):
        return x + 1

    def bootstrap(self, block):
        with torch.no_grad():
            self.target(block["next_obs"].flatten(0, 1))
        return list(block.unbind(0))

    def loss(self, batch):
        return self.online.weight.sin().sum(), {}

    def update(self, batch):
        self.online.zero_grad()
        self.loss(batch)[0].backward()
        with torch.no_grad():
            self.online.weight.mul_(0.5)


def test_inside_and_outside_of_the_graphs(monkeypatch):
    from tensordict import TensorDict

    block = TensorDict({"next_obs": torch.zeros(3, 4, 2)}, batch_size=(3, 4))
    eager = eager_kernels(TwoKernels(), block)
    loss = eager.loss.total()
    assert loss >= 4  # sin, sum; backward: cos, mul
    assert eager.kernels == 1 + 3 * (loss + 1)
    monkeypatch.setattr(counting, "_generated", lambda call: (call(), 2))
    assert counting.compiled_kernels(TwoKernels(), block, eager) == 2 + 3 * 2 + 3


@pytest.mark.parametrize("nap", [False, True])
def test_an_update_of_ours_waits_for_nothing(nap):
    config = DQNConfig(network="small", nap=nap, compile="false", threads=1).resolved()
    replay = FrameReplay(40, 1, (84, 84), 4)
    from benchmarks.replays import add_run

    add_run(replay)(40)
    eager = eager_kernels(build_agent(config, (84, 84), 4, seed=0), replay.sample(2, 2))
    assert eager.syncs == 0
    assert eager.target.calls["convolution"] == 2
    assert eager.loss.calls["convolution"] == 4
    assert eager.loss.calls["convolution_backward"] == 2
    assert eager.kernels > eager.target.total() + 2 * eager.loss.total()
