"""The example of a new network, by its import path: in agents of every kind, sweeps, evaluations and reports."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

import examples.new_network
from agents import cli, evaluate
from agents.build import build_agent
from agents.config import DQNConfig
from agents.networks.encoders import Encoder
from benchmarks import atari
from benchmarks.report import __main__ as report
from experiment.config import ConfigError
from experiment.determinism import parameter_hash
from tests.agents.test_dqn import RAINBOW, SHAPE, block

PATH = "examples.new_network:Residual"
WORDS = [
    "--steps=110", "--update-start=50", "--compile=false", "--batch-size=4", "--n-step=3", "--eval-episodes=1",
    "--checkpoint-interval=100",
]  # fmt: skip


def agent_with(network, compile="false", **settings):
    config = DQNConfig(network=network, compile=compile, threads=1, **settings).resolved()
    return build_agent(config, SHAPE, 3, seed=0)


def learn(agent):
    for batch in agent.bootstrap(block()):
        assert agent.update(batch)["loss"].isfinite()
    return agent


def test_it_is_short():
    assert len(Path(examples.new_network.__file__).read_text().splitlines()) <= 40


@pytest.mark.parametrize(
    "settings",
    [
        {"nap": True},
        RAINBOW | {"nap": True, "nap_norm": "rms", "augment": "drq"},
        RAINBOW | {"precision": "bf16", "augment": "drq"},
        {"distribution": "quantile", "dueling": True, "streams": "shared", "precision": "bf16", "nap": True},
        {"plasticity": ("reset:period=1", "redo:period=2,tau=0.5,samples=4")},
        {"compile": "true"},
    ],
    ids=["nap", "rainbow-nap-drq", "rainbow-bf16-drq", "quantile-bf16-nap", "methods", "compiled"],
)
def test_it_learns_with_every_part_of_an_agent(settings, monkeypatch):
    monkeypatch.setattr("agents.checks.LEAST_SIDE", 1)  # the frames here are tiny
    one, other = (learn(agent_with(f"{PATH}:width=8,units=12", **settings)) for _ in range(2))
    assert parameter_hash(one.network) == parameter_hash(other.network)
    kinds = [type(part).__name__ for part in one.network.modules()]
    assert "Residual" in kinds
    hidden = [part for part in one.network.modules() if isinstance(part, nn.Linear) and part.out_features == 12]
    assert len(hidden) == (2 if settings.get("dueling") and settings.get("streams") != "shared" else 1)


def test_it_is_swept_resumed_evaluated_and_reported(tmp_path):
    arms = ["--arm=small:", f"--arm=wide:--network {PATH}:width=8,units=32"]
    sweep = ["--suite=Catch", "--seeds=1", f"--root={tmp_path}", *arms]
    assert atari.main([*sweep, "--", *WORDS]) == 0
    run = tmp_path / "wide-Catch-s0"
    first = json.loads((run / "result.json").read_text())
    assert first["settings"]["network"] == f"{PATH}:width=8,units=32"
    (run / "result.json").unlink()
    shutil.rmtree(max((run / "checkpoints").iterdir()))  # that of the end
    assert cli.main("dqn", ["--resume", str(run)]) == 0
    assert json.loads((run / "result.json").read_text())["parameter_hash"] == first["parameter_hash"]
    assert evaluate.main([str(run), "--episodes=1"]) == 0
    assert report.main([str(tmp_path), f"--out={tmp_path / 'report'}"]) == 0
    page = (tmp_path / "report" / "report.md").read_text()
    assert "wide" in page
    assert "small" in page


def test_a_minatar_game_takes_it_and_no_other_network_but_its_own():
    words = ["--env=MinAtar/Breakout", "--threads=1", "--network"]
    assert cli.settings("dqn", [*words, PATH]).network == PATH
    assert DQNConfig(env="MinAtar/Breakout", network="nature").resolved().network == "minatar"
    with pytest.raises(ConfigError, match="--network small is not for"):
        cli.settings("dqn", [*words, "small"])
    assert build_agent(cli.settings("dqn", [*words, PATH]), (7, 10, 10), 6, 0, stack=1)


class Little(Encoder):
    def __init__(self, stack, frame_shape):
        super().__init__()
        self.linear = nn.Linear(stack * frame_shape[0] * frame_shape[1], 8)


class NoTensor(Little):
    def forward(self, pixels):
        return (pixels,)


class Bytes(Little):
    def forward(self, pixels):
        return pixels


class OneForAll(Little):
    def forward(self, pixels):
        return pixels.float().mean().reshape(1)


class Fp32(Little):
    def forward(self, pixels):
        return self.linear(pixels.flatten(1).float())


class WrongShapes(Little):
    def forward(self, pixels):
        return self.linear(self.images(pixels))


class Raises(Encoder):
    def __init__(self, stack, frame_shape, size: int = 3):
        super().__init__()
        raise KeyError("no such size")


class NoOptions(Encoder):
    def __init__(self, stack):
        super().__init__()


class Branches(Fp32):
    def forward(self, pixels):
        return super().forward(pixels) * (1 if pixels.sum() > 0 else 2)


class NoEncoder(nn.Module):
    pass


@pytest.mark.parametrize(
    ("network", "settings", "said"),
    [
        (f"{__name__}:NoTensor", {}, "forward gives a tuple for 2 frame stacks; it has to give features"),
        (f"{__name__}:Bytes", {}, r"forward gives a torch.uint8 of shape \(2, 4, 10, 10\)"),
        (f"{__name__}:OneForAll", {}, r"forward gives a torch.float32 of shape \(1,\)"),
        (f"{__name__}:WrongShapes", {}, r"RuntimeError: mat1 and mat2 .*test_new_network.py line \d+\)"),
        (f"{__name__}:Raises", {}, r"KeyError: 'no such size' \(.*test_new_network.py line \d+\)"),
        (f"{__name__}:Raises:sise=3", {}, "has no option 'sise'; did you mean 'size'"),
        (f"{__name__}:Raises:stack=3", {}, "has no option 'stack'"),
        (f"{__name__}:NoOptions", {}, "takes 2 positional arguments but 3 were given"),
        (f"{__name__}:NoEncoder", {}, "has no agents.networks.encoders.Encoder 'NoEncoder'"),
        (f"{__name__}:Fp32", {"precision": "bf16"}, "with --precision bf16: RuntimeError"),
        (f"{__name__}:Branches", {"compile": "true"}, "with --compile true: Unsupported"),
        ("examples.new_network:Residul", {}, "did you mean 'Residual'"),
        ("no.such_module:Net", {}, "cannot be imported"),
    ],
)
def test_a_wrong_network_is_one_line_before_anything_is_written(network, settings, said):
    with pytest.raises(ConfigError, match=said) as raised:
        agent_with(network, **settings)
    assert str(raised.value).startswith("--network")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--network=natur"], "--network: 'natur' is no known network; did you mean 'nature'?"),
        (["--network=nature:width=3"], "--network: nature has no option 'width'; known: none"),
        ([f"--network={PATH}:width=much"], "width=much: it has to be a whole number"),
        ([f"--network={__name__}:Raises"], "KeyError: 'no such size'"),
    ],
)
def test_the_command_line_ends_with_code_2_and_leaves_nothing(words, said, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main("dqn", ["--env=Catch", f"--root={tmp_path}", *WORDS, "--threads=1", *words])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arm", [f"x:--network {PATH}:widht=3", "x:--schedule examples.new_schedule:Cool"])
def test_a_sweep_refuses_a_wrong_part_before_its_first_run(arm, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        atari.main(["--suite=Catch", "--seeds=1", f"--root={tmp_path / 'sweep'}", "--arm", arm, "--", *WORDS])
    assert stopped.value.code == 2
    assert "arm 'x': --" in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()


def test_the_random_numbers_of_its_weights_are_the_seeds():
    one, other = agent_with(PATH), agent_with(PATH)
    assert all(map(torch.equal, one.network.parameters(), other.network.parameters()))
