"""The example of a new agent, by its import path, with the family's options."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import examples.new_agent
from agents import cli
from agents.cli import settings
from agents.config import DQNConfig
from agents.dqn import DQN
from agents.run import RunDir, load_agent
from examples.new_agent import AdvantageLearning
from experiment.config import ConfigError, load_yaml
from experiment.part import own_part
from tests.agents.test_dqn import RAINBOW, block, learner

PATH = "examples.new_agent:AdvantageLearning"


def test_it_is_short():
    assert len(Path(examples.new_agent.__file__).read_text().splitlines()) < 40


@pytest.mark.parametrize("options", [{}, RAINBOW | {"nap": True}], ids=["plain", "rainbow"])
def test_only_its_targets_are_other_ones_in_one_graph_still(options):
    plain, ours = learner(**options), learner(agent=PATH, **options)
    assert (type(ours), ours.alpha) == (AdvantageLearning, 0.9)
    batch = plain.bootstrap(block())[0]
    with torch.no_grad():
        values = ours.values.mean(ours.target(batch["obs"]))
        gap = values.amax(-1) - values[torch.arange(len(batch)), batch["action"]]
        assert (gap > 0).any()
        shifted = batch.replace({"reward": batch["reward"] - 0.9 * gap})
        torch.testing.assert_close(ours.targets(batch), plain.targets(shifted))
    compiled = CompileCounterWithBackend("eager")
    loss = torch.compile(ours.loss, fullgraph=True, backend=compiled)(batch)[0]
    assert compiled.frame_count == 1
    torch.testing.assert_close(loss, ours.loss(batch)[0], rtol=1e-4, atol=1e-4)


def test_it_runs_from_the_command_line_and_goes_on(tmp_path, capsys):
    words = ["--env=Catch", "--steps=110", "--update-start=50", "--threads=1", "--compile=false", "--batch-size=4"]
    words += ["--n-step=3", "--network=small", "--nap", "--distribution=c51", "--noisy", "--prioritised"]
    words += ["--eval-episodes=1", "--root", str(tmp_path), "--name=a"]
    assert cli.main("dqn", ["--agent", f"{PATH}:alpha=0.5", *words]) == 0
    directory = RunDir.open(tmp_path / "a")
    assert f"{PATH}:alpha=0.5: small network" in capsys.readouterr().out
    config = settings("dqn", ["--resume", str(tmp_path / "a")])
    agent, step = load_agent(config, directory)
    assert (type(agent), agent.alpha, step, agent.updates) == (AdvantageLearning, 0.5, 110, 60)


class Remembering(DQN):
    """Has state of its own, which counts its updates twice."""

    doubled = 0

    def after_update(self):
        super().after_update()
        self.doubled += 2

    def state_dict(self):
        return super().state_dict() | {"doubled": self.doubled}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.doubled = state["doubled"]


def test_state_of_its_own_is_there_in_an_evaluation_too(tmp_path):
    words = ["--env=Catch", "--steps=110", "--update-start=50", "--threads=1", "--compile=false", "--batch-size=4"]
    words += ["--n-step=3", "--nap", "--plasticity=cbp", "--eval-episodes=0", "--root", str(tmp_path), "--name=a"]
    assert cli.main("dqn", ["--agent", f"{__name__}:Remembering", *words]) == 0
    directory = RunDir.open(tmp_path / "a")
    agent, _ = load_agent(load_yaml(DQNConfig, directory.config), directory)
    assert (type(agent).__name__, agent.updates, agent.doubled) == ("Remembering", 60, 120)


def test_help_and_presets_are_the_familys():
    words = ["--agent", PATH, "--config", "der-small"]
    shown = subprocess.run([sys.executable, "-m", "agents.dqn", *words, "--help"], capture_output=True, text=True)
    assert shown.returncode == 0
    assert "Presets: 200m, atari100k, catch, drq-eps, high-utd, minatar, der-small, der, dqn-200m" in " ".join(
        shown.stdout.replace("│", " ").split()
    )
    assert settings("dqn", words).n_step == 20
    assert settings("dqn", words[:2]).n_step == settings("dqn", []).n_step
    assert settings("rainbow", words[:2]).distribution == "c51"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("examples.new_agent:AdvantageLerning", "did you mean 'AdvantageLearning'"),
        ("examples.no_agent:X", "cannot be imported"),
        ("examples.new_agent:chosen", "has no agents.dqn.DQN"),
        (f"{PATH}:alpa=1", "has no option 'alpa'; did you mean 'alpha'"),
        (f"{PATH}:alpha=x", "alpha=x: it has to be a number"),
        (f"{PATH}:compile=true", "has no option 'compile'; known: alpha"),
    ],
)
def test_a_wrong_path_is_one_line(name, said):
    with pytest.raises(ConfigError, match=said):
        own_part("agent", name, DQN)
