"""A member of a fleet learns what it learns alone."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from agents.dqn import DQN
from agents.fleet.trainer import FleetTrainer
from agents.networks.encoders import QNetwork
from agents.run import build_trainer
from agents.training.trainer import Trainer
from experiment.config import ConfigError
from experiment.determinism import configure
from plasticity.c_chain import CChain
from plasticity.l2_init import L2Init
from plasticity.method import Method
from plasticity.reset import Reset
from tests.agents.test_dqn import RAINBOW
from tests.agents.toys import CATCH, catch_trainer

SEEDS = (0, 3, 4)
AGENTS = ("dqn", "rainbow", "der")
DER = RAINBOW | {"n_step": 20, "max_grad_norm": 10.0}
C_CHAIN = "c-chain:after=20,window=50"
METHODS = (
    "nap",
    "hyperball",
    "layer-norm",
    "fire:period=7",
    "reset:period=7",
    "shrink-perturb:period=7",
    "redo:period=7,tau=0.5,samples=8",
    "l2-init:strength=0.1",
    "weight-clipping:kappa=0.5",
    "weight-decay:strength=0.1",
    "weight-decay:strength=0.1,kind=l2",
    "c-chain:after=100,window=1000",
)


def minatar_trainer(seed: int, units: int, **settings: Any) -> Trainer:
    config = replace(CATCH, env="MinAtar/Breakout", seed=seed, **settings).resolved()
    configure(1, seed)
    return build_trainer(config)


def trainers(double: bool = True, make: Callable[..., Trainer] = catch_trainer, **settings: Any) -> list[Trainer]:
    options = {
        "update_start": 60,
        "target_period": 20,
        "epsilon_steps": 100,
        "batch_size": 8,
        "steps": 2_000,
        "units": 16,
    }
    made = [make(seed, **options | settings) for seed in SEEDS]
    for trainer in made:
        if double:
            trainer.agent.network.double()
            trainer.agent.target.double()
            for method in trainer.agent.methods:
                to_double(method)
        trainer.open()
    return made


def to_double(method: Method) -> None:
    """C-CHAIN computes with weights that it keeps; other methods add what they keep to the network's."""
    if isinstance(method, CChain):
        method._before = [weight.double() for weight in method._before]
        method._coefficient, method._recent = method._coefficient.double(), method._recent.double()
        method._found = method._found.double()


def parameters(trainer: Trainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.agent.network.parameters()])


def difference(one: Trainer, other: Trainer) -> float:
    return float((parameters(one) - parameters(other)).norm() / parameters(one).norm())


def check_members(
    double: bool = True, at: tuple[int, ...] = (1, 10, 200), batched: bool | None = None, **settings: Any
) -> FleetTrainer:
    """Trains each seed alone and all as a fleet; compares parameters at these updates, and all that was played."""
    alone, members = trainers(double, **settings), trainers(double, **settings)
    fleet = FleetTrainer(members, [True] * len(SEEDS), batched)
    for updates in at:
        expected = [steps_to(trainer, updates) for trainer in alone]
        rows: list[list[dict]] = [[] for _ in SEEDS]
        while fleet.first.updates < updates:
            fleet.step()
            for number in range(len(SEEDS)):
                rows[number] += fleet.rows(number)
        found = [difference(one, member) for one, member in zip(alone, members, strict=True)]
        assert max(found) < (1e-8 if double else 1e-4), found
        assert [episodes(own) for own in rows] == [episodes(own) for own in expected]
    assert difference(alone[0], members[1]) > 0.1
    for one, member in zip(alone, members, strict=True):
        stored = [trainer.replay.read_rows(*trainer.replay.stored_rows) for trainer in (one, member)]
        assert np.array_equal(*stored)
        member.replay.check()
    return fleet


def steps_to(trainer: Trainer, updates: int) -> list[dict]:
    rows = []
    while trainer.updates < updates:
        rows += trainer.step()
    return rows


def episodes(rows: list[dict]) -> list[dict]:
    return [row for row in rows if "episode" in row]


@pytest.mark.parametrize("make", [catch_trainer, pytest.param(minatar_trainer, marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", METHODS)
def test_a_member_equals_its_seed_alone_with_every_method_that_is_stacked(method, make):
    # Clipped to one bound, a weight and a bias cancel on black and white frames: ReLU then sees 0 or 1e-18, by chance.
    with_nap = method == "nap" or method.startswith("weight-clipping")
    check_members(make=make, plasticity=(method,) if method != "nap" else (), nap=with_nap)


@pytest.mark.parametrize("updates", [10, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("settings", [{"nap": True}, RAINBOW | {"n_step": 3}, DER | {"nap": True}], ids=AGENTS)
def test_a_member_equals_its_seed_alone_on_minatar(settings, updates):
    check_members(at=(1, 10, updates), make=minatar_trainer, **settings)


@pytest.mark.parametrize("updates", [60, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "settings",
    [
        {"utd": Fraction(8), "nap": True},
        {"utd": Fraction(3, 7), "num_envs": 2},
        {"num_envs": 3, "overlap": True, "nap": True},
        RAINBOW | {"nap": True, "n_step": 3},
        RAINBOW | {"n_step": 3, "utd": Fraction(8), "nap": True, "plasticity": (C_CHAIN, "reset:period=7")},
        DER,
        {"distribution": "quantile", "augment": "drq", "prioritised": True, "utd": Fraction(3)},
        {"on_nonfinite": "skip", "schedule": "cosine"},
        {"schedule": "cusum", "lr_floor": 1e-4, "rewarm_threshold": 0.1, "cycles": 4, "log_interval": 20, "nap": True},
        {"n_step_final": 1, "gamma_final": 0.997, "anneal_updates": 50, "plasticity": ("reset:period=40",)},
    ],
    ids=str,
)
def test_a_member_equals_its_seed_alone_with_every_part_of_an_agent(settings, updates):
    check_members(at=(1, 10, updates), **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"utd": Fraction(8), "nap": True},
        RAINBOW | {"plasticity": ("redo:period=7,tau=0.5,samples=8",), "n_step": 3},
        {"distribution": "quantile", "augment": "drq"},
        {"plasticity": (C_CHAIN,), "utd": Fraction(3)},
    ],
    ids=["nap", "rainbow-redo", "quantile-drq", "c-chain"],
)
def test_batched_as_on_a_gpu_a_member_equals_its_seed_alone(settings):
    check_members(at=(1, 10, 60), batched=True, **settings)


def test_a_member_needs_one_replay_and_little_more_than_the_tensors_of_its_networks():
    alone = minatar_trainer(0, 0)
    alone.open()
    steps_to(alone, 20)
    one = held()
    del alone
    fleet = FleetTrainer(trainers(double=False, make=minatar_trainer, batch_size=32), [True] * len(SEEDS))
    while fleet.first.updates < 20:
        fleet.step()
        for number in range(len(SEEDS)):
            fleet.rows(number)
    many = held()
    network = sum(p.nbytes for p in fleet.first.agent.network.parameters())
    assert one["uint8"] > network
    assert many["uint8"] < 1.02 * len(SEEDS) * one["uint8"]
    assert one["float32"] > 5 * network  # online, target, gradient and two moments
    assert many["float32"] < 1.3 * len(SEEDS) * one["float32"]


def held() -> Counter[str]:
    """Bytes of all tensors of this process by dtype."""
    gc.collect()
    tensors = [each for each in gc.get_objects() if type(each) in (torch.Tensor, torch.nn.Parameter)]
    storages = {each.untyped_storage().data_ptr(): each for each in tensors}
    found: Counter[str] = Counter()
    for each in storages.values():
        found[str(each.dtype).removeprefix("torch.")] += each.untyped_storage().nbytes()
    return found


def test_in_float32_a_member_is_near_its_seed_alone():
    check_members(double=False, at=(1, 10), nap=True)


def test_members_whose_rates_differ_step_by_themselves():
    fleet = check_members(at=(1, 10))
    before = [parameters(trainer).clone() for trainer in fleet.trainers]
    fleet.trainers[1].agent.schedule.set_peaks([0.0])
    fleet.step()
    assert torch.equal(parameters(fleet.trainers[1]), before[1])
    assert not torch.equal(parameters(fleet.trainers[2]), before[2])


@pytest.mark.parametrize("method", ["spectral:strength=0.1", "cbp:rate=0.02", "injection:at=3"])
def test_a_method_that_cannot_be_stacked_is_refused_by_name(method):
    with pytest.raises(ConfigError, match=r"--seeds: \w+ cannot be stacked"):
        FleetTrainer(trainers(plasticity=(method,)), [True] * len(SEEDS))


class Shrinking(L2Init):
    """A method that does more after an update than its base, which is stacked."""

    def after_update(self, update, features=None):
        for parameter, _ in self._pairs:
            parameter.data.mul_(0.9)


class Penalised(Reset):
    """A method with a penalty whose base is stacked and has none."""

    def penalty(self):
        return torch.ones(())


class Counting(DQN):
    """An agent with a state of its own."""

    def state_dict(self):
        return super().state_dict() | {"count": 1}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"plasticity": (f"{__name__}:Shrinking",)},
            "Shrinking cannot be stacked: it overrides after_update of L2Init",
        ),
        ({"plasticity": (f"{__name__}:Penalised",)}, "Penalised cannot be stacked: it has a penalty"),
        (
            {"agent": f"{__name__}:Counting"},
            "Counting overrides state_dict: in a fleet an agent overrides targets and loss alone",
        ),
    ],
    ids=["after_update", "penalty", "state"],
)
def test_what_a_fleet_would_leave_out_is_refused(settings, message):
    with pytest.raises(ConfigError, match=f"--seeds: {message}"):
        FleetTrainer(trainers(double=False, **settings), [True] * len(SEEDS))


def test_a_parameter_without_a_gradient_has_no_step(monkeypatch):
    init = QNetwork.__init__

    def with_more(network: QNetwork, *args: Any, **options: Any) -> None:
        init(network, *args, **options)
        network.unused = torch.nn.Linear(3, 3)

    monkeypatch.setattr(QNetwork, "__init__", with_more)
    check_members(at=(1, 10))


def test_members_that_have_made_other_numbers_of_steps_step_by_themselves():
    alone, members = trainers(), trainers()
    for group in (alone, members):  # as after a resume without --on-nonfinite skip
        for trainer in group:
            steps_to(trainer, 10)
        for state in group[0].agent.optimizer.state.values():
            state["step"].sub_(5)
    fleet = FleetTrainer(members, [True] * len(SEEDS))
    while fleet.first.updates < 20:
        fleet.step()
    for one, member in zip(alone, members, strict=True):
        steps_to(one, 20)
        assert difference(one, member) < 1e-8


def test_low_precision_is_refused():
    with pytest.raises(ConfigError, match="leave out --precision bf16"):
        FleetTrainer(trainers(double=False, precision="bf16"), [True] * len(SEEDS))


def test_a_member_that_has_stopped_changes_nothing_for_the_others():
    alone, members = trainers(), trainers()
    fleet = FleetTrainer(members, [True] * len(SEEDS))
    while fleet.first.updates < 20:
        fleet.step()
    with torch.no_grad():
        next(members[0].agent.network.parameters()).fill_(torch.nan)
    fleet.alive[0] = False
    while fleet.first.updates < 60:
        fleet.step()
    for one, member in zip(alone[1:], members[1:], strict=True):
        steps_to(one, 60)
        assert difference(one, member) < 1e-8
    assert members[0].updates < 61
    assert members[0].agent_step < members[1].agent_step


@pytest.mark.slow
@pytest.mark.parametrize("batched", [True, False])
def test_compiled_a_member_is_near_its_seed_alone(batched):
    check_members(double=False, at=(1, 10), batched=batched, nap=True, compile="true", utd=Fraction(2))
