"""The experiments: each arm is a valid run, and acts when it says so."""

import types
from dataclasses import replace
from functools import cache

import pytest
import torch

from experiment.config import dump_yaml
from experiment.fork_settings import Planned
from plasticity.registry import METHODS as REGISTRY
from plasticity.registry import make, parse
from studies.warm_start import suite
from studies.warm_start.__main__ import settings
from studies.warm_start.comparisons import reference
from studies.warm_start.config import WarmStartConfig
from studies.warm_start.networks import make_network
from studies.warm_start.suite import DEFAULTS, WarmStartSweep
from studies.warm_start.suites import METHODS, QUARTER, SUITES, TENTH


@cache
def planned(name):
    """The settings of the arms with the first seed, by name."""
    arms = SUITES[name]()
    found = {}
    for arm in arms:
        if arm.seed == arms[0].seed:
            trunk = arm.trunk and Planned(found[arm.trunk.name], arm.step)
            fork = ["--fork", f"run/{arm.trunk.name}"] if trunk else []
            found[arm.name] = settings([*arm.options(), *fork], trunk)
    return {name.rpartition("-s")[0]: config for name, config in found.items()}


def seeds(name):
    return {arm.seed for arm in SUITES[name]()}


def jobs_of(name, **options):
    """The runs of a suite."""
    return WarmStartSweep(replace(DEFAULTS, suite=name, **options)).jobs


@pytest.mark.parametrize("name", SUITES)
def test_every_arm_is_a_run_of_its_own(name):
    runs, arms = planned(name), SUITES[name]()
    assert all(isinstance(config, WarmStartConfig) for config in runs.values())
    assert len(set(runs.values())) == len(runs)
    assert {arm.name for arm in arms} == {f"{run}-s{seed}" for run in runs for seed in seeds(name)}
    assert len(arms) == len(runs) * len(seeds(name))
    assert all(arm.name.endswith(f"-s{arm.seed}") for arm in arms)


def test_the_arms_are_every_way_to_go_on():
    runs = planned("arms")
    structure = {"nap", "hyperball", "layer-norm"}
    assert set(REGISTRY) - structure == {name for name in runs if name in REGISTRY} == set(METHODS)
    assert seeds("arms") == {0, 1, 2}
    assert {(config.protocol, config.phase_updates) for config in runs.values()} == {("lyle10", QUARTER)}
    assert all(config.nap == name.startswith("nap-") for name, config in runs.items())
    assert {name for name, config in runs.items() if config.fraction != 0.1} == {
        "plain-from100", "no-norms-from100", "warm-from100", "nap-from100", "nap-constant-from100",
    }  # fmt: skip
    methods = [config for config in runs.values() if config.plasticity]
    assert all((config.schedule, config.cycles, config.at_switch) == ("cyclic", 2, "warm") for config in methods)


def test_the_arms_of_fires_script_fork_one_first_phase():
    runs, arms = planned("fire"), SUITES["fire"]()
    assert len(runs) == 11
    assert all(config.fork_step == runs["none"].phase_updates for name, config in runs.items() if name != "none")
    assert [arm.trunk.name for arm in arms if arm.trunk] == [f"none-s{seed}" for seed in (0, 1, 2) for _ in range(10)]
    jobs = jobs_of("fire")
    assert jobs[0].command[jobs[0].command.index("--checkpoint-at") + 1] == "1400"
    assert {(job.source, job.fork_step) for job in jobs[1:11]} == {("none-s0", 1_400)}


def test_lengths():
    assert {config.budget for config in planned("increments").values()} == {10 * TENTH}
    assert {config.budget for config in planned("cusum").values()} == {28_000}
    assert seeds("cusum") == set(range(5))
    assert {name for name, config in planned("rates").items() if config.later_peak == 10} == {
        "slow-features-peak10-from10",
        "slow-features-peak10-from100",
    }


OTHER_CYCLES = {
    *(("arms", name) for name in ("warm-single-cycle", "nap-single-cycle", "nap-five-cycles", "nap-cusum-short")),
    ("increments", "nap-cusum"),
}
"""Suite and arm of those that differ from their reference in the cycles."""


@pytest.mark.parametrize("suite", ["headline", "arms", "increments", "rates", "tasks"])
def test_every_arm_has_a_reference_that_starts_as_it_does(suite):
    runs = {name: [types.SimpleNamespace(config=config)] for name, config in planned(suite).items()}
    for name, (run,) in runs.items():
        if run.config.fraction < 1:
            other = reference(name, runs)
            assert other is not None, name
            own, first = run.config, runs[other][0].config
            assert (own.lr, own.lr_floor, own.first_warmup, own.nap) == (
                first.lr, first.lr_floor, first.first_warmup, first.nap,
            )  # fmt: skip
            assert (own.schedule == "constant") == (first.schedule == "constant")
            assert (own.cycles == first.cycles) == ((suite, name) not in OTHER_CYCLES)
            if own.at_switch == "cold":  # its second start is to be the other's first
                assert own.lr_warmup == first.first_warmup


def test_a_suite_finds_its_data_once_and_hands_them_on(tmp_path, monkeypatch, capsys):
    folder = str(tmp_path / "data")
    for name in SUITES:
        jobs = jobs_of(name, root=str(tmp_path), data_dir=folder)
        assert len(jobs) == len(SUITES[name]())
        for job in jobs:
            for words in (job.command, job.resume):
                assert words[words.index("--data-dir") + 1] == folder
    assert not any("--data-dir" in job.command for job in jobs_of("cusum"))
    monkeypatch.setattr("experiment.sweeps.command.sweep", lambda *_, **__: pytest.fail("a run was started"))
    with pytest.raises(SystemExit) as stopped:
        suite.main(["cusum", "--root", str(tmp_path), "--data-dir", folder])
    assert stopped.value.code == 2
    assert "CIFAR-10 is not there; `python -m studies.warm_start.download cifar10" in capsys.readouterr().err
    own = jobs[0].directory
    own.mkdir(parents=True)
    (own / "config.yaml").write_text(dump_yaml(settings(jobs[0].command[3:])))
    elsewhere = WarmStartSweep(replace(DEFAULTS, suite=name, root=str(tmp_path), data_dir="elsewhere"))
    elsewhere.manifest()  # which compares settings


@pytest.mark.parametrize("name", SUITES)
def test_a_part_of_the_seeds_is_the_first_of_each_arm(name):
    def names(count):
        return [job.name for job in jobs_of(name, seeds=count)]

    whole, some = names(None), sorted(seeds(name))
    for count in {1, len(some)}:
        part = names(count)
        assert part == [each for each in whole if each.endswith(tuple(f"-s{seed}" for seed in some[:count]))]
        assert len(part) == count * len(planned(name))


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
