import copy
import dataclasses

import pytest
import torch
from tensordict import TensorDict
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode

import nap
from agents.build import build_learner, head_options
from agents.dqn import DQN
from experiment.determinism import parameter_hash
from experiment.layout import compiled
from plasticity.method import Method
from tests.agents.toys import CATCH, little_network

SHAPE = (10, 10)
RAINBOW = {"dueling": True, "noisy": True, "distribution": "c51", "prioritised": True}


def learner(compile="false", **settings):
    torch.manual_seed(0)
    config = dataclasses.replace(CATCH, compile=compile, **settings).resolved()
    return build_learner(config, little_network(SHAPE, 3, **head_options(config)))


def block(batches=2, size=4, seed=0):
    rng = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (batches, size, 5, *SHAPE), dtype=torch.uint8, generator=rng)
    return TensorDict(
        {
            "obs": pixels[:, :, :4],
            "next_obs": pixels[:, :, 1:],
            "action": torch.randint(0, 3, (batches, size), generator=rng),
            "reward": torch.randn(batches, size, generator=rng),
            "discount": torch.tensor([0.0, 0.5, 0.9, 0.99]).expand(batches, size),
            "weight": torch.ones(batches, size),
        },
        batch_size=(batches, size),
    )


@pytest.mark.parametrize("double_q", [True, False])
def test_targets_are_those_of_the_papers(double_q):
    agent = learner(double_q=double_q)
    with torch.no_grad():
        for parameter in agent.target.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    batch = agent.bootstrap(block())[1]
    online, target = agent.online(batch["next_obs"]), agent.target(batch["next_obs"])
    for i, value in enumerate(agent.targets(batch)):
        best = (online if double_q else target)[i].argmax()
        expected = batch["reward"][i] + batch["discount"][i] * target[i, best]
        assert value.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_loss_is_the_mean_huber_loss_of_the_chosen_actions():
    agent = learner()
    batch = agent.bootstrap(block())[0]
    loss, metrics = agent.loss(batch)
    values, targets = agent.online(batch["obs"]), agent.targets(batch)
    errors = [abs(values[i, batch["action"][i]] - targets[i]).item() for i in range(len(batch))]
    expected = sum(e * e / 2 if e < 1 else e - 0.5 for e in errors) / len(errors)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert metrics["td_error"].item() == pytest.approx(sum(errors) / len(errors), rel=1e-5)


def test_no_gradient_reaches_the_target_network():
    agent = learner()
    agent.update(agent.bootstrap(block())[0])
    assert all(p.grad is None for p in agent.target.parameters())


def test_the_target_network_stands_still_until_it_is_synchronised():
    agent = learner()
    before = parameter_hash(agent.target)
    for batch in agent.bootstrap(block()):
        agent.update(batch)
    assert parameter_hash(agent.target) == before
    agent.sync_target()
    assert parameter_hash(agent.target) == parameter_hash(agent.online)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_projection_holds_every_weight_at_its_initial_norm(precision):
    agent = learner(nap=True, lr=0.05, precision=precision)
    projection = agent.methods[-1].projection
    assert set(projection.names) == {"torso.0.weight", "torso.3.weight"}
    for batch in agent.bootstrap(block(batches=5)):
        agent.update(batch)
        for name, norm in projection.norms().items():
            assert norm.item() == pytest.approx(projection.initial_norms[name].item(), rel=1e-5)


def test_without_nap_nothing_of_it_is_in_the_network():
    kinds = {type(part) for part in learner().network.modules()} - {nn.Sequential}
    assert {kind.__name__ for kind in kinds} == {"QNetwork", "PixelConv2d", "ReLU", "Flatten", "Linear", "OutputLinear"}
    assert learner().network.torso[0].bias is not None


class Calls(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"nap": True},
        {"nap": True, "precision": "bf16", "nap_affine": "decay"},
        RAINBOW | {"nap": True, "max_grad_norm": 10.0},
        {"distribution": "quantile", "noisy": True, "augment": "drq", "precision": "bf16"},
    ],
)
def test_an_update_never_waits_for_the_device(settings):
    agent = learner(**settings)
    agent.update(agent.bootstrap(block())[0])
    with Calls() as calls:
        agent.update(agent.bootstrap(block())[1])
    assert not {"_local_scalar_dense", "nonzero", "masked_select"} & set(calls.names)
    assert "_fused_adamw_" in calls.names
    assert not [name for name in calls.names if name in ("addcdiv_", "lerp_")]


@pytest.mark.parametrize(
    "settings", [{}, {"nap": True}, {"nap": True, "precision": "bf16"}, RAINBOW, RAINBOW | {"nap": True}]
)
def test_the_loss_is_one_graph_and_a_schedule_does_not_recompile_it(settings):
    agent = learner(**settings)
    counter = CompileCounterWithBackend("aot_eager")
    agent._backward = compiled(agent.backward, agent.network, counter)
    twin = learner(**settings)
    for step, batch in enumerate(agent.bootstrap(block(batches=4))):
        agent.update(batch)
        agent.schedule.move_to(step)
    assert counter.frame_count == 1
    for step, batch in enumerate(twin.bootstrap(block(batches=4))):
        twin.update(batch)
        twin.schedule.move_to(step)
    for ours, theirs in zip(agent.network.parameters(), twin.network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-2 if "precision" in settings else 1e-4, atol=2e-3)


class Weigh(Method):
    """The sum of squares of all weights, as a method would add it."""

    def attach(self, network, target, optimizer):
        self.weights = list(network.parameters())

    def penalty(self):
        return torch.stack([weight.square().sum() for weight in self.weights]).sum()


def test_a_penalty_is_added_to_the_loss_within_the_one_graph():
    plain, network = learner(), copy.deepcopy(learner().network)
    optimizer = torch.optim.SGD(network.parameters(), lr=torch.tensor(0.1))
    agent = DQN(network, optimizer, nap.make_schedule("constant", optimizer, 10), [Weigh()])
    compiled = CompileCounterWithBackend("aot_eager")
    loss = torch.compile(agent.loss, fullgraph=True, backend=compiled)
    batch = agent.bootstrap(block())[0]
    expected = plain.loss(plain.bootstrap(block())[0])[0] + sum(w.square().sum() for w in network.parameters())
    assert loss(batch)[0].item() == pytest.approx(expected.item(), rel=1e-5)
    assert compiled.frame_count == 1
    assert loss(batch)[1]["loss"].item() == pytest.approx(plain.loss(plain.bootstrap(block())[0])[0].item(), rel=1e-5)


@pytest.mark.parametrize("settings", [{}, RAINBOW | {"augment": "drq", "precision": "bf16"}], ids=["plain", "rainbow"])
def test_a_loaded_agent_goes_on_bit_for_bit_with_the_same_tensors(settings):
    agent, other = learner(nap=True, **settings), learner(nap=True, seed=1, **settings)
    for batch in agent.bootstrap(block()):
        agent.update(batch)
    agent.schedule.move_to(500)
    lr = other.optimizer.param_groups[0]["lr"]
    identities = [id(p) for p in other.network.parameters()]
    other.load_state_dict(copy.deepcopy(agent.state_dict()))
    assert other.optimizer.param_groups[0]["lr"] is lr
    assert lr.item() == agent.optimizer.param_groups[0]["lr"].item()
    assert [id(p) for p in other.network.parameters()] == identities
    for one in (agent, other):
        for batch in one.bootstrap(block(seed=1)):
            one.update(batch)
    assert parameter_hash(agent.network) == parameter_hash(other.network)
    assert parameter_hash(agent.target) == parameter_hash(other.target)


def test_the_bf16_replica_follows_fp32_masters():
    agent = learner(precision="bf16")
    assert {p.dtype for p in agent.network.parameters()} == {torch.float32}
    for network in (agent.online, agent.target):
        assert {p.dtype for p in network.torso.parameters()} == {torch.bfloat16}
        assert {p.dtype for p in network.head.parameters()} == {torch.float32}  # the output layer
    for batch in agent.bootstrap(block()):
        agent.update(batch)
        for master, copied in zip(agent.network.parameters(), agent.online.parameters(), strict=True):
            assert torch.equal(master.to(copied.dtype), copied)


def test_steps_smaller_than_bf16_resolves_still_add_up():
    agent = learner(precision="bf16", lr=1e-6, lr_floor=0.0, adam_eps=1e-12)
    before = agent.network.head.weight.detach().clone()
    for _ in range(20):
        agent.update(agent.bootstrap(block(batches=1))[0])
    moved = (agent.network.head.weight.detach() - before).abs().max().item()
    assert moved == pytest.approx(20e-6, rel=0.1)
