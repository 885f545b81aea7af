"""Counts of kernels and host syncs: hand-made cases, and the real agents."""

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from agents.build import build_agent
from agents.config import DQNConfig
from benchmarks.speed import counting
from benchmarks.speed.counting import OpCounter, eager_kernels
from benchmarks.speed.replays import add_run
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
    """A fake agent: a target pass of one kernel, a loss, a step of one outside, and one more to begin with."""

    def __init__(self) -> None:
        self.online = nn.Linear(2, 1, bias=False)
        self.state: list[torch.Tensor] = []

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
        if not self.state:
            self.state.append(torch.zeros(3))
        with torch.no_grad():
            self.online.weight.mul_(0.5)


def test_inside_and_outside_of_the_graphs(monkeypatch):
    block = TensorDict({"next_obs": torch.zeros(3, 4, 2)}, batch_size=(3, 4))
    eager = eager_kernels(TwoKernels(), block)
    loss = eager.loss.total()
    assert loss >= 4  # sin, sum; backward: cos, mul
    assert eager.kernels == 1 + 3 * (loss + 1)
    monkeypatch.setattr(counting, "_launches", lambda call: (call(), 2))
    assert counting.compiled_kernels(TwoKernels(), block, eager) == 2 + 3 * 2 + 3


GENERATED = """
cpp_fused_add_0 = async_compile.cpp_pybinding(['const float*', 'float*'], r'''
extern "C"  void  kernel(const float* in_ptr0, float* out_ptr0)
''')

class Runner:
    def call(self, args):
        buf0 = empty_strided_cpu((8, 4), (4, 1), torch.float32)
        # Original ATen: [aten.addmm], torch.ops.aten.addmm.default(
        extern_kernels.addmm(arg0_1, arg1_1, out=buf0)
        buf1 = torch.ops.aten.convolution_backward.default(buf0, [0], (1, 1))
        buf2 = torch.ops.aten.view.dtype(buf1, torch.uint8)
        assert_size_stride(buf1, (8, 4), (4, 1), 'torch.ops.aten.convolution_backward.default')
        cpp_fused_add_0(buf1, buf0)
        cpp_fused_add_0(buf0, buf1)
        triton_poi_fused_relu_1.run(buf1, 32, stream=stream0)
        return (buf0, )
"""


def test_launches_are_calls_and_not_definitions():
    assert counting.launches_in(GENERATED) == 5


def test_launches_are_found_in_what_a_first_call_compiles(monkeypatch, tmp_path):
    path = tmp_path / "generated.py"
    path.write_text(GENERATED)
    monkeypatch.setattr(counting.PyCodeCache, "load_by_key_path", lambda key, path: "module")
    assert counting._launches(lambda: counting.PyCodeCache.load_by_key_path("key", str(path))) == ("module", 5)


@pytest.mark.parametrize("nap", [False, True])
def test_an_update_of_ours_waits_for_nothing(nap):
    config = DQNConfig(network="small", nap=nap, compile="false", threads=1).resolved()
    replay = FrameReplay(40, 1, (84, 84), 4)
    add_run(replay)(40)
    eager = eager_kernels(build_agent(config, (84, 84), 4, seed=0), replay.sample(2, 2))
    assert eager.syncs == 0
    assert eager.target.calls["convolution"] == 2
    assert eager.loss.calls["convolution"] == 4
    assert eager.loss.calls["convolution_backward"] == 2
    outside = eager.kernels - eager.target.total() - 2 * eager.loss.total()
    adam = 2 * 2  # the steps' counters, all weights
    assert (outside > adam) if nap else (outside == adam), "the projection is outside of the compiled graphs"
