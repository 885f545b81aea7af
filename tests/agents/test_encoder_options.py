"""`--network impala:width=...` and `--pool gap` with every part of an agent, and what they refuse."""

import json

import pytest
import torch
from torch import nn

from agents import cli
from agents.build import build_agent
from agents.config import DQNConfig
from agents.networks.encoders import Residual
from experiment.config import ConfigError
from experiment.determinism import parameter_hash
from tests.agents.test_dqn import RAINBOW, SHAPE, block

NETWORK = "impala:width=0.25"


def learned(**settings):
    """The agent after its updates on a block."""
    agent = build_agent(DQNConfig(threads=1, **{"compile": "false"} | settings).resolved(), SHAPE, 3, seed=0)
    for batch in agent.bootstrap(block()):
        assert agent.update(batch)["loss"].isfinite()
    return agent


@pytest.mark.parametrize("pool", ["none", "gap"])
@pytest.mark.parametrize(
    "settings",
    [
        {"nap": True},
        RAINBOW | {"nap": True, "nap_norm": "rms", "augment": "drq"},
        RAINBOW | {"precision": "bf16"},
        {"distribution": "quantile", "dueling": True, "streams": "shared", "precision": "bf16", "nap": True},
        {"plasticity": ("reset:period=1", "redo:period=2,tau=0.5,samples=4", "cbp:rate=0.5,maturity=1")},
        pytest.param({"compile": "true", "nap": True}, marks=pytest.mark.slow),
    ],
    ids=["nap", "rainbow-nap-drq", "rainbow-bf16", "quantile-bf16-nap", "methods", "compiled"],
)
def test_they_learn_with_every_part_of_an_agent(settings, pool, monkeypatch):
    monkeypatch.setattr("agents.checks.LEAST_SIDE", 1)  # the frames here are tiny
    torch._dynamo.reset()
    one, other = (learned(network=NETWORK, pool=pool, **settings) for _ in range(2))
    assert parameter_hash(one.network) == parameter_hash(other.network)
    assert sum(isinstance(part, Residual) for part in one.network.modules()) == 6
    assert sum(isinstance(part, nn.AdaptiveAvgPool2d) for part in one.network.modules()) == (pool == "gap")


WORDS = ["--steps=110", "--update-start=50", "--compile=false", "--batch-size=4", "--n-step=3", "--threads=1"]


@pytest.mark.parametrize(
    ("words", "network", "pool"),
    [
        (["--env=Catch", f"--network={NETWORK}", "--pool=gap", "--nap"], NETWORK, "gap"),
        (["--env=MinAtar/Breakout", "--pool=gap"], "minatar", "gap"),
    ],
)
def test_the_command_trains_and_its_result_says_with_what(words, network, pool, tmp_path):
    assert cli.main("dqn", [*WORDS, "--eval-episodes=1", f"--root={tmp_path}", "--name=a", *words]) == 0
    settings = json.loads((tmp_path / "a" / "result.json").read_text())["settings"]
    assert (settings["network"], settings["pool"]) == (network, pool)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--env=MinAtar/Breakout", f"--network={NETWORK}"], f"--network {NETWORK} is not for MinAtar/Breakout: leave"),
        (["--network=impala:width=0.01"], "width=0.01: it has to be from 0.0625, one channel, to 16"),
        (["--network=impala:width"], "options are written key=value"),
        (["--network=impla:width=1"], "'impla' is no known network"),
        (["--pool=gpa"], "--pool"),
    ],
)
def test_the_command_refuses_in_one_line_and_leaves_nothing(words, said, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main("dqn", ["--env=Catch", *WORDS, f"--root={tmp_path}", *words])
    error = capsys.readouterr().err
    assert (stopped.value.code, error.count("\n"), list(tmp_path.iterdir())) == (2, 1, [])
    assert said in error


def test_a_preset_of_a_named_network_gives_way_to_what_the_environment_needs():
    assert DQNConfig(network=NETWORK, env="MinAtar/Breakout").resolved().network == "minatar"
    assert DQNConfig(network=NETWORK, env="Catch").resolved().network == NETWORK
    with pytest.raises(ConfigError, match="did you mean 'width'"):
        learned(network="impala:widht=1")


def test_help_of_a_named_network(capsys):
    assert cli.main("dqn", ["--network", "impala:help"]) == 0
    assert "impala\noptions: width=1.0\n\nThe residual network" in capsys.readouterr().out
