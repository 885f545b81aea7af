"""Methods of plasticity/ in an agent: in the one compiled loss, in bf16, and from the command line."""

import dataclasses
import json
import subprocess
import sys

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import nap
from agents import cli
from agents.build import build_learner
from agents.config import DQNConfig
from agents.dqn import DQN
from agents.networks.low_precision import LowPrecisionCopy
from experiment.config import ConfigError, dump_yaml, load_yaml
from experiment.determinism import parameter_hash
from experiment.layout import compiled
from plasticity.method import Method
from plasticity.registry import METHODS
from tests.agents.test_command import TINY, refused
from tests.agents.test_dqn import Calls, block, learner
from tests.agents.toys import CATCH, little_network


@pytest.fixture(autouse=True)
def _compile_afresh():
    torch._dynamo.reset()


class Features(Method):
    """Keeps what it is given."""

    wants_features = True

    def __init__(self):
        self.seen = []

    def after_update(self, update, features=None):
        self.seen.append({name: h.clone() for name, h in features.items()})


class Weigh(Method):
    """A quarter of the sum of squares of all weights."""

    def attach(self, network, target, optimizer):
        self.weights = list(network.parameters())

    def penalty(self):
        return 0.25 * torch.stack([weight.square().sum() for weight in self.weights]).sum()


def agent_with(*methods, precision="fp32", normalized=False, lr=1e-3, **options):
    torch.manual_seed(0)
    network = little_network((10, 10), 3)
    if normalized:
        nap.normalize(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=torch.tensor(lr), fused=True)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    return DQN(network, optimizer, nap.make_schedule("constant", optimizer, 10), methods, dtype=dtype, **options)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("normalized", [False, True])
def test_features_are_outputs_of_the_one_compiled_loss(normalized, precision):
    agent = agent_with(features := Features(), Weigh(), precision=precision, normalized=normalized)
    counter = CompileCounterWithBackend("aot_eager")
    agent._backward = compiled(agent.backward, agent.network, counter)
    expected = []
    for batch in agent.bootstrap(block(batches=4)):
        with torch.no_grad():
            torso, x = agent.online.torso, batch["obs"]
            by_name = {}
            for i, part in enumerate(torso):
                x = part(x)
                if i in (1, 4):
                    by_name[f"torso.{i}"] = x
        expected.append(by_name)
        agent.update(batch)
    assert counter.frame_count == 1
    assert [list(seen) for seen in features.seen] == [["torso.1", "torso.4"]] * 4
    for seen, wanted in zip(features.seen, expected, strict=True):
        for name, h in seen.items():
            assert not h.requires_grad
            torch.testing.assert_close(h, wanted[name], rtol=2e-2 if precision == "bf16" else 1e-5, atol=1e-4)


@pytest.mark.parametrize("batches", [1, 2])  # one alone goes through the target network in the graph of its update
def test_a_real_compilation_learns_as_eager_code_does(batches):
    settings = {"plasticity": ("redo:period=2,tau=0.5,samples=4", "cbp:rate=0.05,maturity=1"), "nap": True}
    eager, compiled = learner(**settings), learner(compile="true", **settings)
    for agent in (eager, compiled):
        for _ in range(2 // batches):
            for batch in agent.bootstrap(block(batches=batches)):
                agent.update(batch)
                assert batch["target_next"].isfinite().all()
    for ours, theirs in zip(compiled.network.parameters(), eager.network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_an_update_costs_no_call_more_where_no_method_has_work():
    counts = []
    for methods in ((), ("reset:period=1000", "shrink-perturb:period=1000", "redo:period=inf", "cbp:rate=0")):
        agent = learner(plasticity=methods)
        first, second = agent.bootstrap(block())
        agent.update(first)
        with Calls() as calls:
            agent.update(second)
        counts.append(calls.names)
        assert agent.tap.features is None
        assert not any(part._forward_hooks for part in agent.online.modules())
    assert counts[0] == counts[1]


def test_redo_costs_little_between_recyclings():
    plain, agent = learner(), learner(plasticity=("redo:period=1000",))
    counts = []
    for one in (plain, agent):
        first, second = one.bootstrap(block())
        one.update(first)
        with Calls() as calls:
            one.update(second)
        counts.append([name for name in calls.names if name != "detach"])
    assert counts[0] == counts[1]


@pytest.mark.parametrize("methods", [(), ("redo:period=1,tau=0.5,samples=4", "cbp:rate=0.05,maturity=0")])
def test_in_bf16_the_copy_follows_what_methods_do_to_the_originals(methods):
    agent = learner(plasticity=methods, precision="bf16")
    for batch in agent.bootstrap(block(batches=3)):
        agent.update(batch)
        for original, copy in zip(agent.network.parameters(), agent.online.parameters(), strict=True):
            assert original.dtype == torch.float32
            assert torch.equal(original.to(copy.dtype), copy)


def penalty_gradients(precision, collect=LowPrecisionCopy.collect_gradients):
    """What the penalty adds to the gradient of each parameter, in two updates."""
    agents = [agent_with(precision=precision, lr=0.0), agent_with(Weigh(), precision=precision, lr=0.0)]
    for agent in agents:
        agent.low_precision.collect_gradients = collect.__get__(agent.low_precision)
        for batch in agent.bootstrap(block()):
            agent.update(batch)
    plain, weighed = ([p.grad.clone() for p in agent.network.parameters()] for agent in agents)
    return [b - a for a, b in zip(plain, weighed, strict=True)], list(agents[1].network.parameters())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_penaltys_gradient_reaches_what_the_optimiser_steps(precision):
    for added, weight in zip(*penalty_gradients(precision), strict=True):
        torch.testing.assert_close(added, 0.5 * weight, rtol=1e-4, atol=1e-5)


def test_the_test_above_notices_a_gradient_that_is_overwritten():
    def overwrite(low_precision):
        for original, copy in low_precision.learned:
            original.grad = copy.grad.float()

    for added, weight in zip(*penalty_gradients("bf16", overwrite), strict=True):
        assert not torch.allclose(added, 0.5 * weight, rtol=1e-4, atol=1e-5)


def test_a_frozen_parameter_is_left_alone_in_bf16():
    torch.manual_seed(0)
    network = little_network((10, 10), 3)
    network.head.weight.requires_grad_(False)
    optimizer = torch.optim.AdamW(network.parameters(), lr=torch.tensor(0.1), weight_decay=0.5)
    agent = DQN(network, optimizer, nap.make_schedule("constant", optimizer, 10), dtype=torch.bfloat16)
    before = network.head.weight.clone()
    for batch in agent.bootstrap(block()):
        agent.update(batch)
    assert torch.equal(network.head.weight, before)


def test_a_run_of_several_methods_ends_with_finite_numbers_and_its_settings(tmp_path):
    words = [
        "--plasticity",
        "redo:period=20,tau=0.1",
        "--nap",
        "--steps=160",
        "--plasticity=examples.new_method:MyMethod:scale=1e-3",
    ]
    assert cli.main("dqn", [*TINY, *words, "--root", str(tmp_path), "--name", "a", "--eval-episodes", "0"]) == 0
    outcome = json.loads((tmp_path / "a" / "result.json").read_text())
    assert outcome["settings"]["plasticity"] == ["redo:period=20,tau=0.1", "examples.new_method:MyMethod:scale=1e-3"]
    rows = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert all(value == value for row in rows for value in row.values())
    stored = load_yaml(DQNConfig, tmp_path / "a" / "config.yaml")
    assert list(stored.resolved().plasticity) == outcome["settings"]["plasticity"]


@pytest.mark.parametrize(
    ("words", "methods", "projects"),
    [
        (["--plasticity", "redo", "--seed", "1", "--plasticity=cbp"], ("redo", "cbp"), False),
        (["--plasticity", "redo:tau=0,period=3", "nap"], ("redo:tau=0,period=3",), True),
        (["--plasticity", "nap", "--plasticity", "redo"], ("redo",), True),
        (["--nap", "--plasticity", "redo,cbp"], ("redo", "cbp"), True),
        (["--seed", "1"], (), False),
    ],
)
def test_methods_may_be_given_one_by_one_or_as_a_list(words, methods, projects):
    config = cli.settings("dqn", words)
    assert config.plasticity == methods
    assert config.nap == projects
    assert config.resolved() == config


def test_settings_with_options_are_read_back_from_their_file(tmp_path):
    config = cli.settings("dqn", ["--plasticity", "redo:tau=0,period=3", "--plasticity", "a.b:C:x=1,y=2"])
    (tmp_path / "c.yaml").write_text(dump_yaml(config))
    assert load_yaml(DQNConfig, tmp_path / "c.yaml") == config


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["redoo"], "'redo'"),
        (["l2init"], "'l2-init'"),
        (["redo", "redo:tau=1"], "twice"),
        (["nap:every=3"], "--nap-every"),
        (["redo:taw=1"], "'tau'"),
        (["redo:period=0"], "at least 1"),
        (["redo:period=-5"], "at least 1"),
        (["redo:period=nan"], "at least 1"),
        (["redo:tau=-1"], "at least 0"),
        (["cbp:rate=nan"], "from 0 to 1"),
        (["reset:layers=haed"], "'head'"),
        (["examples.new_method:MyMetod"], "'MyMethod'"),
        (["examples.no_such:MyMethod"], "examples.no_such"),
        (["crelu", "redo"], "crelu and redo do not go together"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(words, said, tmp_path, capsys):
    options = [word for spec in words for word in ("--plasticity", spec)]
    line = refused(capsys, [*TINY, *options, "--root", tmp_path / "run"])
    assert said in line
    assert "--plasticity" in line
    assert not (tmp_path / "run").exists()


def test_the_help_has_a_line_for_every_method():
    words = [sys.executable, "-m", "agents.dqn", "--help"]
    shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    for name, entry in METHODS.items():
        assert any(line.split() == [name, *entry.line.split()] for line in shown), name


def test_methods_that_refuse_a_network_are_a_mistake_of_the_settings():
    config = dataclasses.replace(CATCH, plasticity=("reset:layers=body",)).resolved()
    with pytest.raises(ConfigError, match=r"--plasticity: .*body"):
        build_learner(config, little_network((10, 10), 3))


def test_seeds_of_runs_reach_the_methods():
    hashes = set()
    for seed in (0, 1):
        config = dataclasses.replace(CATCH, plasticity=("reset:period=1",), seed=seed, compile="false").resolved()
        torch.manual_seed(0)
        agent = build_learner(config, little_network((10, 10), 3))
        agent.update(agent.bootstrap(block())[0])
        hashes.add(parameter_hash(agent.network))
    assert len(hashes) == 2
