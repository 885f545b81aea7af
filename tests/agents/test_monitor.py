"""What is measured on a fixed batch of states, and that measuring leaves everything as it was."""

import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

import nap
from agents import run as runs
from agents.build import build_learner, build_probe
from agents.config import DQNConfig
from agents.training.monitor import STATES
from agents.training.monitor import read as runs_read
from experiment.config import ConfigError
from experiment.determinism import parameter_hash
from experiment.layout import compiled
from experiment.storage.run_dir import RunDir
from plasticity.registry import METHODS
from tests.agents.toys import CATCH, catch_trainer, little_network, play


def filled_trainer(steps=300, **settings):
    """A trainer whose replay holds `steps` agent steps and whose probe has its states."""
    trainer = catch_trainer(**settings)
    trainer.open()
    play(trainer, steps)
    trainer.probe.draw(trainer.replay)
    return trainer


def updates(trainer, count):
    """Updates of the agent, watched by the probe."""
    for batch in trainer.agent.bootstrap(trainer.replay.sample(32, count)) if count else ():
        trainer.update(batch)


@pytest.mark.parametrize("num_envs", [1, 3])
def test_the_states_are_different_ones_of_the_replay_and_stay(num_envs):
    trainer = catch_trainer(num_envs=num_envs, replay_capacity=300)
    act, seen = trainer.policy, []
    trainer.policy = lambda obs, epsilon: seen.append(obs.clone()) or act(obs, epsilon)
    trainer.open()
    play(trainer, 350)
    generator = trainer.replay.generator.get_state()
    trainer.probe.draw(trainer.replay)
    assert torch.equal(trainer.replay.generator.get_state(), generator)
    (states,) = trainer.probe.probe.batch
    assert states.shape == (STATES, 4, 10, 10)
    played = [obs.numpy().tobytes() for row in seen for obs in row]
    left = sorted(played)
    for state in states:  # each step of the replay at most once
        left.remove(state.numpy().tobytes())
    kept = states.clone()
    play(trainer, 200)
    trainer.probe.draw(trainer.replay)
    assert torch.equal(trainer.probe.probe.batch[0], kept)


def test_states_wait_until_the_replay_holds_enough():
    trainer = filled_trainer(steps=STATES - 1)
    assert trainer.probe.state_dict() is None
    trainer.probe.measure()
    assert trainer.probe.report() == {}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_figures_are_those_of_their_definitions(precision):
    trainer = filled_trainer(precision=precision, lr=0.01)
    probe, network = trainer.probe, trainer.agent.network
    (states,) = probe.probe.batch

    def actions():
        with torch.no_grad():
            return network(states).argmax(-1)

    first = actions()
    updates(trainer, 1)
    second = actions()
    updates(trainer, 6)
    last = actions()
    assert not torch.equal(first, last)
    probe.report()
    probe.measure()
    metrics = probe.report()
    assert probe.report() == {}
    assert metrics["policy_churn_one_update"] == pytest.approx((first != second).float().mean().item())
    assert metrics["policy_churn"] == pytest.approx((first != last).float().mean().item())
    with torch.no_grad():
        features = network.torso(states)
    assert metrics["erank_roy/torso.4"] == pytest.approx(nap.erank_roy(features).item(), rel=1e-4)
    assert metrics["srank_kumar_0.01/torso.4"] == nap.srank_kumar(features).item()
    assert metrics["dormant_sokar_0.025/torso.4"] == pytest.approx(nap.dormant_sokar(features).item())
    gradients = nap.unit_gradients(network, states)
    assert metrics["dormant_grama_0.01"] == pytest.approx(nap.dormant_grama(list(gradients.values())).item())
    for name in ("torso.1", "torso.4"):
        assert metrics[f"dormant_grama_0.01/{name}"] == nap.dormant_grama(gradients[name]).item()
    reported = trainer.monitor.report()
    for name, parameter in network.named_parameters():
        if name.endswith("weight"):
            assert reported[f"gradient/{name}"] == pytest.approx(parameter.grad.norm().item(), rel=1e-5)
    updates(trainer, 6)
    probe.measure()
    changed = (last != actions()).float().mean().item()
    assert probe.report()["policy_churn"] == pytest.approx(changed)
    assert changed != pytest.approx((first != actions()).float().mean().item())


@pytest.mark.parametrize("specs", [*((name,) for name in METHODS if name != "nap"), ("crelu", "injection:at=1")])
def test_networks_of_every_method_are_measured_and_not_changed(specs):
    trainer = filled_trainer(plasticity=specs, nap=True)
    updates(trainer, 2)
    agent = trainer.agent
    before = parameter_hash(agent.network), copy.deepcopy(agent.state_dict()["optimizer"])
    gradients = {name: copy.deepcopy(parameter.grad) for name, parameter in agent.network.named_parameters()}
    trainer.probe.measure()
    metrics = trainer.probe.report()
    assert all(value == value for value in metrics.values())
    assert 0 <= metrics["policy_churn_one_update"] <= 1
    assert not any({"frozen", "fresh"} & {*name.replace("/", ".").split(".")} for name in metrics)  # they do not learn
    assert parameter_hash(agent.network) == before[0]
    assert str(agent.state_dict()["optimizer"]) == str(before[1])
    for name, parameter in agent.network.named_parameters():
        assert parameter.grad is None if gradients[name] is None else torch.equal(parameter.grad, gradients[name])


def test_noise_of_the_network_is_off_and_not_drawn():
    trainer = filled_trainer()
    network = little_network((10, 10), 3)
    network.torso.append(nn.Dropout(0.5))
    agent = build_learner(CATCH.resolved(), network)
    probe = build_probe(CATCH, agent, 0)
    generator = torch.get_rng_state()
    probe.draw(trainer.replay)
    probe.after_update()
    probe.measure()
    metrics = probe.report()
    assert metrics["policy_churn"] == metrics["policy_churn_one_update"] == 0
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(part.training for part in network.modules())


def test_a_measurement_compiles_nothing_again():
    torch._dynamo.reset()
    trainer = filled_trainer(plasticity=("redo", "l2-init"))
    counter = CompileCounterWithBackend("aot_eager")
    trainer.agent._backward = compiled(trainer.agent.backward, trainer.agent.network, counter)
    for _ in range(3):
        updates(trainer, 2)
        trainer.probe.measure()
    assert counter.frame_count == 1


@pytest.mark.parametrize("count", [0, 3])
def test_a_resumed_run_measures_the_same_states_and_goes_on_comparing(count):
    trainer = filled_trainer(lr=0.01)
    updates(trainer, count)
    state = copy.deepcopy(trainer.state_dict())
    resumed = catch_trainer(lr=0.01, seed=1)
    resumed.load_state_dict(state)
    batches = trainer.agent.bootstrap(trainer.replay.sample(32, 2))
    metrics = []
    for one in (trainer, resumed):
        for batch in batches:
            one.update(batch)
        one.probe.measure()
        metrics.append(one.probe.report())
    assert metrics[0] == metrics[1]
    assert {"policy_churn", "policy_churn_one_update"} <= metrics[0].keys()


def test_rows_hold_the_figures_at_the_start_at_the_interval_and_at_the_end():
    trainer = catch_trainer(steps=330, update_start=260, log_interval=300, probe_interval=20)
    trainer.open()
    rows = [row for _ in range(330) for row in trainer.step() if "episode" not in row]
    measured = [row["agent_step"] for row in rows if "dormant_sokar_0.025" in row]
    assert measured == [261, 280, 300, 320, 330]
    assert [row["agent_step"] for row in rows] == measured
    assert "policy_churn" not in rows[0]
    assert "loss" in rows[2]
    assert runs.probed(trainer.probe.metrics).keys() == {"dormant", "erank", "churn"}


def test_a_network_that_cannot_be_watched_is_a_mistake_unless_nothing_is_measured():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.torso = nn.Sequential(nn.Flatten(), nn.Linear(400, 8))
            self.head = nn.Linear(8, 3)

        def forward(self, pixels):
            return self.head(self.torso(pixels.float()).relu())

    agent = build_learner(CATCH.resolved(), Functional())
    with pytest.raises(ConfigError, match=r"relu\(\) is called as a function.*--probe-interval 0"):
        build_probe(CATCH, agent, 0)
    build_probe(dataclasses.replace(CATCH, probe_interval=0), agent, 0).measure()


def test_names_of_runs_are_names_of_files_and_tell_the_methods(tmp_path):
    specs = ("redo:period=100,tau=0.1", "examples.new_method:MyMethod:scale=1e-3")
    config = DQNConfig(agent="dqn", plasticity=specs, nap=True, utd="3/7")
    name = runs.default_name(config)
    assert name.startswith(
        "dqn-Breakout-utd3_7-redo_period_100_tau_0.1-examples.new_method_MyMethod_scale_1e-3-nap-s0-"
    )
    long = runs.default_name(dataclasses.replace(config, plasticity=specs * 9, seed=2**63 - 1))
    assert RunDir.create(tmp_path, long, config).path.name == long


def test_the_headline_tells_every_option_of_the_methods():
    config = dataclasses.replace(CATCH, plasticity=("redo:period=7", "weight-clipping"), nap=True).resolved()
    methods = build_learner(config, little_network((10, 10), 3)).methods
    text = runs.describe_methods(config, methods)
    assert text.startswith("redo (period=7, tau=0.1, ")
    assert "), weight-clipping (" in text
    assert text.endswith(", NaP (layer norm, joint scale and offset)")
    assert "seed" not in text
    assert runs.describe_methods(CATCH, ()) == "none"


def test_counts_are_read_exactly():
    many = 2**24 + 1
    assert runs_read({"fine": torch.tensor(many), "loss": torch.tensor(0.5)}) == {"fine": many, "loss": 0.5}
