"""Every method of the registry keeps the contract, and works on every network of the agents, plain and under NaP."""

from itertools import product

import pytest
import torch
from tensordict import TensorDict

from agents.build import build_learner
from agents.config import DQNConfig
from agents.names import NETWORKS
from agents.networks.encoders import make_network
from experiment.config import ConfigError
from experiment.determinism import parameter_hash
from plasticity.pairs import WRITERS
from plasticity.registry import METHODS
from plasticity.testing import check_method, check_ownership

FRAME = (44, 44)  # 2×2 positions behind the last convolution of nature, 1×1 of small
ACTIVE = {
    "nap": "",
    "hyperball": "",
    "layer-norm": "",
    "reset": ":period=3",
    "shrink-perturb": ":period=3",
    "redo": ":period=3,tau=0.3,samples=8",
    "snr": ":level=0.5,longest=2,revise=3",
    "cbp": ":rate=0.02,maturity=2",
    "fire": ":period=3",
    "l2-init": ":strength=0.1",
    "crelu": "",
    "injection": ":at=3",
    "hare-tortoise": ":mu=0.9,period=3",
    "spectral": ":strength=0.1",
    "parseval": ":strength=0.1",
    "weight-clipping": ":kappa=0.5",
    "dash": ":period=3",
    "c-chain": ":strength=5,ratio=0.5,after=3,window=4",
    "infer": ":strength=0.1,scale=2",
    "regrama": ":period=3,tau=0.6",
    "weight-decay": ":strength=0.1",
    "optimizer-reset": ":period=3",
    "adam-rel": ":period=3",
    "upgd": ":beta=0.9",
}
OFF = {
    "reset": ":period=inf",
    "shrink-perturb": ":strength=0",
    "redo": ":period=inf",
    "snr": ":period=inf",
    "fire": ":period=inf",
    "cbp": ":rate=0",
    "l2-init": ":strength=0",
    "injection": ":at=inf",
    "hare-tortoise": ":period=inf",
    "spectral": ":strength=0",
    "parseval": ":strength=0",
    "weight-clipping": ":kappa=0",
    "dash": ":period=inf",
    "c-chain": ":strength=0",
    "infer": ":strength=0",
    "regrama": ":period=inf",
    "weight-decay": ":strength=0",
    "optimizer-reset": ":at=inf",
    "adam-rel": ":period=inf",
}
MOVES_TARGET = {"shrink-perturb", "injection", "fire"}


def learner(*specs, network="small", nap=False, seed=0, **settings):
    config = DQNConfig(plasticity=specs, nap=nap, network=network, compile="false", threads=1, lr=1e-2, **settings)
    torch.manual_seed(seed)
    return build_learner(config.resolved(), make_network(network, 4, FRAME, 3))


def batch_for(agent):
    """A minibatch that depends on the number of the update alone."""
    rng = torch.Generator().manual_seed(agent.updates)
    shape = (1 + agent.lookahead, 4)
    pixels = torch.randint(0, 256, (*shape, 5, *FRAME), dtype=torch.uint8, generator=rng)
    block = {"obs": pixels[:, :, :4], "next_obs": pixels[:, :, 1:]}
    block |= {
        "action": torch.randint(0, 3, shape, generator=rng),
        "discount": torch.full(shape, 0.9),
        "weight": torch.ones(shape),
    }
    block |= {"reward": torch.randn(shape, generator=rng)}
    return agent.bootstrap(TensorDict(block, batch_size=shape))[0]


def learn(agent, updates):
    for _ in range(updates):
        agent.update(batch_for(agent))


def test_the_tables_of_this_file_hold_every_method():
    assert set(ACTIVE) == set(METHODS)
    assert set(METHODS) - set(OFF) == {"nap", "hyperball", "layer-norm", "crelu", "upgd"}  # structure, or another step


@pytest.mark.parametrize("name", ACTIVE)
def test_it_keeps_the_contract_of_methods(name):
    check_method(name + ACTIVE[name])


@pytest.mark.parametrize("name", OFF)
def test_off_it_changes_nothing(name):
    check_method(name + OFF[name])


@pytest.mark.parametrize("normalized", [False, True])
def test_crelu_refuses_a_residual_sum_in_one_line(normalized):
    with pytest.raises(ConfigError, match="feeds something else too") as refused:
        learner("crelu", network="impala", nap=normalized)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "network", "normalized"),
    [
        pytest.param(*case, marks=() if case[1] == "small" or case[1:] == ("minatar", False) else pytest.mark.slow)
        for case in product(ACTIVE, NETWORKS, (False, True))
        if case[:2] != ("crelu", "impala")
    ],
)
def test_the_optimiser_owns_what_the_network_uses_through_9_updates(name, network, normalized):
    agent = learner(name + ACTIVE[name], network=network, nap=normalized)
    target, pixels = parameter_hash(agent.target), torch.zeros(1, 4, *FRAME, dtype=torch.uint8)
    check_ownership(agent.network, agent.optimizer, pixels, lambda: learn(agent, 1))
    assert (parameter_hash(agent.target) != target) == (name in MOVES_TARGET)


@pytest.mark.parametrize("others", [["redo:period=3,tau=0.3,samples=8"], ["nap", "shrink-perturb:period=3"]])
@pytest.mark.parametrize("name", OFF)
def test_off_next_to_others_is_bit_identical_to_not_there(name, others):
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


@pytest.mark.parametrize("left_out", [{"injection"}, {*WRITERS, "hare-tortoise", "infer"}])
def test_all_methods_that_go_together_stay_finite_at_once(left_out):
    names = sorted(set(ACTIVE) - {"crelu"} - left_out, key=lambda name: (name != "hare-tortoise", name))
    agent = learner(*(name + ACTIVE[name] for name in names))
    learn(agent, 12)
    assert all(p.isfinite().all() for p in agent.network.parameters())


def test_methods_that_do_not_go_together_are_a_mistake_of_the_settings():
    with pytest.raises(ConfigError, match="crelu and redo do not go together"):
        learner("crelu", "redo")
