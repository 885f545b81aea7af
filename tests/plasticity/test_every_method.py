"""What holds for every method of the registry, on every network that the agents ship, plain and under NaP."""

import copy
import warnings

import pytest
import torch
from tensordict import TensorDict
from torch.utils._python_dispatch import TorchDispatchMode

import nap
from agents.build import build_learner
from agents.config import NETWORKS, DQNConfig
from agents.networks.encoders import make_network
from experiment.config import ConfigError
from experiment.determinism import parameter_hash
from plasticity.registry import METHODS

FRAME = (44, 44)  # 2×2 positions behind the last convolution of nature, 1×1 of small
ACTIVE = {
    "nap": "",
    "reset": ":period=3",
    "shrink-perturb": ":period=3",
    "redo": ":period=3,tau=0.3,samples=8",
    "cbp": ":rate=0.02,maturity=2",
    "l2-init": ":strength=0.1",
    "crelu": "",
    "injection": ":at=3",
    "hare-tortoise": ":mu=0.9,period=3",
    "spectral": ":strength=0.1",
    "weight-clipping": ":kappa=0.5",
    "dash": ":period=3",
    "weight-decay": ":strength=0.1",
}
OFF = {
    "reset": ":period=inf",
    "shrink-perturb": ":strength=0",
    "redo": ":period=inf",
    "cbp": ":rate=0",
    "l2-init": ":strength=0",
    "injection": ":at=inf",
    "hare-tortoise": ":period=inf",
    "spectral": ":strength=0",
    "weight-clipping": ":kappa=0",
    "dash": ":period=inf",
    "weight-decay": ":strength=0",
}
MOVES_TARGET = {"shrink-perturb", "injection"}


def learner(*specs, network="small", nap=False, seed=0, **settings):
    config = DQNConfig(plasticity=specs, nap=nap, network=network, compile="false", threads=1, lr=1e-2, **settings)
    torch.manual_seed(seed)
    return build_learner(config.resolved(), make_network(network, 4, FRAME, 3))


def batch_for(agent):
    """A minibatch that depends on the number of the update alone."""
    rng = torch.Generator().manual_seed(agent.updates)
    pixels = torch.randint(0, 256, (1, 4, 5, *FRAME), dtype=torch.uint8, generator=rng)
    block = {"obs": pixels[:, :, :4], "next_obs": pixels[:, :, 1:]}
    block |= {
        "action": torch.randint(0, 3, (1, 4), generator=rng),
        "discount": torch.full((1, 4), 0.9),
        "weight": torch.ones(1, 4),
    }
    block |= {"reward": torch.randn(1, 4, generator=rng)}
    return agent.bootstrap(TensorDict(block, batch_size=(1, 4)))[0]


def learn(agent, updates):
    for _ in range(updates):
        agent.update(batch_for(agent))


def leaves(output):
    """The parameters that a computation reads."""
    found, pending, seen = set(), [output.grad_fn], set()
    while pending:
        node = pending.pop()
        if node is not None and node not in seen:
            seen.add(node)
            found |= {id(node.variable)} if hasattr(node, "variable") else set()
            pending += [following for following, _ in node.next_functions]
    return found


def check_ownership(agent):
    """AssertionError unless, through 9 updates, the optimiser owns the parameters that the network uses."""
    parameters = dict(agent.network.named_parameters())
    owned = {id(p) for group in agent.optimizer.param_groups for p in group["params"]}
    pixels = torch.zeros(1, 4, *FRAME, dtype=torch.uint8)
    assert leaves(agent.network(pixels).sum()) <= owned
    learn(agent, 9)
    now = dict(agent.network.named_parameters())
    assert now.keys() == parameters.keys()
    assert all(now[key] is parameters[key] for key in now)
    assert leaves(agent.network(pixels).sum()) <= owned <= set(map(id, now.values()))
    for parameter in now.values():
        assert parameter.isfinite().all()
        assert all(value.isfinite().all() for value in agent.optimizer.state.get(parameter, {}).values())


def test_the_tables_of_this_file_hold_every_method():
    assert set(ACTIVE) == set(METHODS)
    assert set(METHODS) - set(OFF) == {"nap", "crelu"}  # structure only


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", ACTIVE)
def test_the_optimiser_owns_what_the_network_uses_through_9_updates(name, network, normalized):
    agent = learner(name + ACTIVE[name], network=network, nap=normalized)
    target = parameter_hash(agent.target)
    check_ownership(agent)
    assert (parameter_hash(agent.target) != target) == (name in MOVES_TARGET)


@pytest.mark.parametrize("name", [name for name in ACTIVE if name != "nap"])
def test_every_method_does_something(name):
    plain, agent = learner(), learner(name + ACTIVE[name])
    learn(plain, 6)
    learn(agent, 6)
    assert parameter_hash(agent.network) != parameter_hash(plain.network)


@pytest.mark.parametrize("others", [[], ["redo:period=3,tau=0.3,samples=8"], ["nap", "shrink-perturb:period=3"]])
@pytest.mark.parametrize("name", OFF)
def test_off_is_bit_identical_to_not_there(name, others):
    others = [other for other in others if not other.startswith(f"{name}:")]
    without = learner(*others)
    torch.manual_seed(7)
    learn(without, 8)
    drawn = torch.rand(())
    agent = learner(name + OFF[name], *others)
    torch.manual_seed(7)
    learn(agent, 8)
    assert torch.rand(()) == drawn
    assert parameter_hash(agent.network) == parameter_hash(without.network)
    assert parameter_hash(agent.target) == parameter_hash(without.target)


@pytest.mark.parametrize("name", ACTIVE)
def test_a_method_draws_from_its_own_generator_alone(name):
    agent = learner(name + ACTIVE[name])
    before = torch.get_rng_state()
    learn(agent, 6)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ACTIVE)
def test_a_loaded_method_goes_on_bit_for_bit(name):
    agent, other = learner(name + ACTIVE[name]), learner(name + ACTIVE[name], seed=1)
    learn(agent, 4)
    other.load_state_dict(copy.deepcopy(agent.state_dict()))
    learn(agent, 5)
    learn(other, 5)
    assert parameter_hash(agent.network) == parameter_hash(other.network)
    assert parameter_hash(agent.target) == parameter_hash(other.target)


@pytest.mark.parametrize("name", ["reset", "shrink-perturb", "redo", "cbp", "injection"])
def test_a_seed_is_heard(name):
    hashes = set()
    for seed in (0, 1):
        torch.manual_seed(0)
        config = DQNConfig(plasticity=(name + ACTIVE[name],), compile="false", threads=1, lr=1e-2, seed=seed)
        agent = build_learner(config.resolved(), make_network("small", 4, FRAME, 3))
        learn(agent, 12)
        hashes.add(parameter_hash(agent.network))
    assert len(hashes) == 2


@pytest.mark.parametrize("name", ACTIVE)
def test_acting_measuring_and_evaluating_change_nothing(name):
    agent, watched = learner(name + ACTIVE[name]), learner(name + ACTIVE[name])
    pixels = torch.randint(0, 256, (4, 4, *FRAME), dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        probe = nap.Probe(watched.network, pixels)
    for _ in range(5):
        learn(agent, 1)
        learn(watched, 1)
        before = parameter_hash(watched.network), dict(watched.tap.features or {})
        watched.act(pixels)
        probe.measure()
        nap.effective_lr(watched.network, watched.optimizer)
        copy.deepcopy(watched.state_dict())
        assert parameter_hash(watched.network) == before[0]
        assert all(watched.tap.features[key] is value for key, value in before[1].items())
    assert parameter_hash(agent.network) == parameter_hash(watched.network)


class Calls(TorchDispatchMode):
    """The names of all operations inside."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ACTIVE)
def test_no_method_waits_for_the_device(name):
    agent = learner(name + ACTIVE[name])
    learn(agent, 2)
    for _ in range(4):
        batch = batch_for(agent)
        with Calls() as calls:
            agent.update(batch)
        assert not {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero"} & calls.names


def test_projection_is_last_and_keeps_the_norms_of_the_first_initialisation():
    specs = ["nap", "reset:period=2,layers=all", "shrink-perturb:period=3", "redo:period=2,tau=0.5,samples=4"]
    agent = learner(*specs)
    assert type(agent.methods[-1]).__name__ == "NaP"
    projection = agent.methods[-1].projection
    first = {key: norm.item() for key, norm in projection.initial_norms.items()}
    for _ in range(6):
        learn(agent, 1)
        for key, norm in projection.norms().items():
            assert norm.item() == pytest.approx(first[key], rel=1e-5)


@pytest.mark.parametrize("left_out", [{"injection"}, {"reset", "shrink-perturb", "redo", "cbp", "hare-tortoise"}])
def test_all_methods_that_go_together_stay_finite_at_once(left_out):
    names = sorted(set(ACTIVE) - {"crelu"} - left_out, key=lambda name: (name != "hare-tortoise", name))
    agent = learner(*(name + ACTIVE[name] for name in names))
    learn(agent, 12)
    assert all(p.isfinite().all() for p in agent.network.parameters())


def test_methods_that_do_not_go_together_are_a_mistake_of_the_settings():
    with pytest.raises(ConfigError, match="crelu and redo do not go together"):
        learner("crelu", "redo")
