"""Parts of the user's that go wrong: one line each, nothing written before training, nothing lost after it."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from agents import cli, evaluate
from agents.dqn import DQN
from agents.names import NETWORKS
from agents.networks.encoders import make_network
from agents.playing import evaluation
from agents.training.saver import Saver
from envs.catch import Catch
from envs.vector_env import VectorEnv
from experiment.config import ConfigError
from plasticity.method import Method

WORDS = ["--steps=130", "--update-start=100", "--threads=1", "--compile=false", "--batch-size=8", "--n-step=3"]
WORDS += ["--network=tests.agents.toys:Little", "--probe-interval=0", "--eval-episodes=2"]
HERE = "tests.agents.test_own_parts"


class RaisingEnv(Catch):
    def __init__(self, num_envs, seed):
        raise KeyError("no such level")


class ManyActions(Catch):
    num_actions = 1_000


class Bare(VectorEnv):
    def __init__(self, num_envs, seed):
        pass

    def reset(self):
        return np.zeros(0)

    def recv(self):
        raise NotImplementedError


class Unfinished(VectorEnv):
    pass


class ArrayState(Catch):
    def state_dict(self):
        return super().state_dict() | {"seen": np.zeros(3)}


class Endless(Catch):
    def recv(self):
        step = super().recv()
        never = np.zeros(self.num_envs, bool)
        self.steps = getattr(self, "steps", np.zeros(self.num_envs, np.int64)) + 1
        return step._replace(terminated=never, first_frame=step.frame, episode_steps=self.steps)


class Short(Catch):
    time_limit = 30


class RaisingMethod(Method):
    def __init__(self, where: str = "init"):
        self.where = where
        self._raise("init")

    def _raise(self, where):
        if where == self.where:
            raise KeyError(f"in {where}")

    def prepare(self, network):
        self._raise("prepare")

    def attach(self, network, target, optimizer):
        self._raise("attach")


class ArrayAgent(DQN):
    def state_dict(self):
        return super().state_dict() | {"seen": np.zeros(3)}


def train(words, tmp_path):
    return cli.main("dqn", [*WORDS, "--root", str(tmp_path), *words])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--env", f"{HERE}:RaisingEnv"], "RaisingEnv: KeyError: 'no such level' ("),
        (["--env", f"{HERE}:ManyActions"], "num_actions is 1000: it has to be a whole number from 1 to 256"),
        (["--env", f"{HERE}:Bare"], "it declares no num_envs, num_actions, frame_shape"),
        (["--env", f"{HERE}:Unfinished"], "it does not define recv, reset"),
        (["--env", "gym:tests.envs.pixels:Raising-v0"], "KeyError: 'no such level' ("),
        *(
            (["--env=Catch", "--plasticity", f"{HERE}:RaisingMethod:where={where}"], f"KeyError: 'in {where}' (")
            for where in ("init", "prepare", "attach")
        ),
        (["--env=Catch", "--agent", f"{HERE}:ArrayAgent"], "learner['seen'] is a ndarray: a checkpoint holds tensors"),
    ],
)
def test_what_raises_while_it_is_built_is_one_line_and_nothing_is_written(words, said, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        train(words, tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert (ended.value.code, len(lines)) == (2, 1)
    assert said in lines[0]
    assert not list(tmp_path.iterdir())


def test_an_environment_whose_state_cannot_be_saved_ends_the_run_before_its_first_step(tmp_path, capsys):
    assert train(["--env", f"{HERE}:ArrayState"], tmp_path) == 1
    assert "env['seen'] is a ndarray: a checkpoint holds tensors" in capsys.readouterr().err
    (run,) = tmp_path.iterdir()
    assert not (run / "metrics.jsonl").read_text()


def test_an_environment_that_ends_no_episode_ends_the_evaluation_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluation, "LONGEST", 50)
    assert train(["--env", f"{HERE}:Endless"], tmp_path) == 1
    said = "a game has not ended after 50 agent steps"
    assert said in capsys.readouterr().err.splitlines()[-1]
    (run,) = tmp_path.iterdir()
    assert (run / "checkpoints" / "000000000130").is_dir()
    with pytest.raises(SystemExit) as ended:
        evaluate.main([str(run), "--episodes=1"])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
    monkeypatch.setattr(Endless, "recv", Catch.recv)  # mended
    assert cli.main("dqn", ["--resume", str(run)]) == 0
    assert (run / "result.json").is_file()


def test_an_environment_whose_resume_returns_no_frames_is_named():
    class Shy(Catch):
        def load_state_dict(self, state, progress=None):
            super().load_state_dict(state)

    env = Shy(1, 0)
    shown = torch.from_numpy(env.reset()).unsqueeze(1)
    saver = SimpleNamespace(trainer=SimpleNamespace(env=env, obs=shown))
    with pytest.raises(ValueError, match=r"played again, show other frames than they did \(it returned None\)"):
        Saver._play_again(saver, env.state_dict())


def test_the_limit_of_an_own_environment_is_stated_in_result_and_evaluation(tmp_path, capsys):
    assert train(["--env", f"{HERE}:Short"], tmp_path) == 0
    (run,) = tmp_path.iterdir()
    assert json.loads((run / "result.json").read_text())["protocol"]["max_frames"] == 30
    assert evaluate.main([str(run), "--episodes=1"]) == 0
    assert "frame skip 1, limit 30 frames)" in capsys.readouterr().out


@pytest.mark.parametrize("network", sorted(NETWORKS.keys() - {"minatar"}))
def test_frames_of_several_channels_want_a_network_that_takes_them(network):
    with pytest.raises(ConfigError, match=f"--network {network} takes frames H×W; .* 4×42×42 here, declare network"):
        make_network(network, 1, (4, 42, 42), 3)
    make_network("minatar", 1, (4, 42, 42), 3)


def test_an_environment_that_is_gone_is_a_setting_of_the_run_and_no_option(tmp_path, capsys):
    assert train(["--env", f"{HERE}:Short"], tmp_path) == 0
    (run,) = tmp_path.iterdir()
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(f"{HERE}:Short", f"{HERE}:Shirt"))
    with pytest.raises(SystemExit):
        evaluate.main([str(run)])
    assert f"error: {config}: env: {HERE} has no " in capsys.readouterr().err
