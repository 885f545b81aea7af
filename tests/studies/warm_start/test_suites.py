"""The experiments: each arm is a valid run, and acts when it says so."""

import types
from functools import cache

import pytest
import torch

from plasticity.registry import METHODS as REGISTRY
from plasticity.registry import make, parse
from studies.warm_start.__main__ import settings
from studies.warm_start.comparisons import reference
from studies.warm_start.config import WarmStartConfig
from studies.warm_start.networks import make_network
from studies.warm_start.suites import METHODS, QUARTER, SUITES, TENTH


@cache
def planned(name):
    """The settings of the arms with the first seed, by name."""
    arms = SUITES[name]()
    return {
        arm.name.rpartition("-s")[0]: settings(arm.options())
        for arm in arms
        if arm.settings["seed"] == arms[0].settings["seed"]
    }


def seeds(name):
    return {arm.settings["seed"] for arm in SUITES[name]()}


@pytest.mark.parametrize("name", SUITES)
def test_every_arm_is_a_run_of_its_own(name):
    runs, arms = planned(name), SUITES[name]()
    assert all(isinstance(config, WarmStartConfig) for config in runs.values())
    assert len(set(runs.values())) == len(runs)
    assert {arm.name for arm in arms} == {f"{run}-s{seed}" for run in runs for seed in seeds(name)}
    assert len(arms) == len(runs) * len(seeds(name))
    assert all(arm.name.endswith(f"-s{arm.settings['seed']}") for arm in arms)


def test_the_arms_are_every_way_to_go_on():
    runs = planned("arms")
    assert set(REGISTRY) - {"nap"} == {name for name in runs if name in REGISTRY} == set(METHODS)
    assert seeds("arms") == {0, 1, 2}
    assert {(config.protocol, config.phase_updates) for config in runs.values()} == {("lyle10", QUARTER)}
    assert all(config.nap == name.startswith("nap-") for name, config in runs.items())
    assert {name for name, config in runs.items() if config.fraction != 0.1} == {
        "plain-from100", "no-norms-from100", "warm-from100", "nap-from100", "nap-constant-from100",
    }  # fmt: skip
    methods = [config for config in runs.values() if config.plasticity]
    assert all((config.schedule, config.cycles, config.at_switch) == ("cyclic", 2, "warm") for config in methods)


def test_lengths():
    assert {config.budget for config in planned("increments").values()} == {10 * TENTH}
    assert {config.budget for config in planned("cusum").values()} == {28_000}
    assert seeds("cusum") == set(range(5))
    assert {name for name, config in planned("rates").items() if config.later_peak == 10} == {
        "slow-features-peak10-from10",
        "slow-features-peak10-from100",
    }


@pytest.mark.parametrize("suite", ["headline", "arms", "increments", "rates"])
def test_every_arm_has_a_reference_that_starts_as_it_does(suite):
    runs = {name: [types.SimpleNamespace(config=config)] for name, config in planned(suite).items()}
    for name, (run,) in runs.items():
        if run.config.fraction < 1:
            other = reference(name, runs)
            assert other is not None, name
            first = runs[other][0].config
            if run.config.at_switch == "cold":  # its second start is to be the other's first
                assert (run.config.lr_warmup, run.config.lr) == (first.first_warmup, first.lr)


@pytest.mark.parametrize("name", METHODS)
def test_the_methods_fit_the_network(name):
    network = make_network(WarmStartConfig(width=4, hidden=8).resolved(), (3, 8, 8), 10)
    (method,) = make([METHODS[name]])
    method.prepare(network)
    method.attach(network, None, torch.optim.Adam(network.parameters()))


ONCE = ("reset", "shrink-perturb", "dash")


def test_methods_do_not_act_just_before_a_phase_is_judged():
    periods = {name: float(parse(spec).options.get("period", "inf")) for name, spec in METHODS.items()}
    ends = [QUARTER, 2 * QUARTER]
    assert all(QUARTER < periods[name] <= QUARTER + 10 < 2 * QUARTER < 2 * periods[name] for name in ONCE)
    judged = {name for name, period in periods.items() if period < 1e9 and any(end % period == 0 for end in ends)}
    assert judged == {"hare-tortoise"}  # what is judged is its average
    period = float(parse(planned("increments")["shrink-perturb"].plasticity[0]).options["period"])
    acts = [i * period for i in range(1, 11)]
    assert [0 < act - end < 10 for act, end in zip(acts, range(TENTH, 10 * TENTH, TENTH), strict=False)] == [True] * 9
    assert acts[9] > 10 * TENTH
