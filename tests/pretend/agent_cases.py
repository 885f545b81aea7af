"""Every agent, replay and schedule on the pretend device: the CPU's bits, and no wait in an update."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from tests.pretend.trainers import HERE, check_same, run, trainer, watched  # before anything makes a backward pass

# ruff: isort: split
import nap
from agents.cli import main
from agents.evaluate import main as evaluate
from agents.names import SCHEDULES
from agents.training.saver import Saver
from experiment.determinism import parameter_hash
from experiment.storage import checkpoint
from replay import FrameReplay
from tests.pretend_device import waits

LITTLE = {"atoms": 11, "v_min": -2.0, "v_max": 2.0, "quantiles": 7}
RAINBOW = {"dueling": True, "noisy": True, "distribution": "c51", "prioritised": True, "n_step": 3} | LITTLE
FAMILY = {
    "dqn": {"double_q": False},
    "utd 2, three environments": {"utd": 2, "num_envs": 3},
    "augmented": {"augment": "drq"},
    "clipped and skipping": {"max_grad_norm": 1.0, "on_nonfinite": "skip"},
    "quantile": {"distribution": "quantile"} | LITTLE,
    "shared streams": {"dueling": True, "streams": "shared"},
    "n-step anneal": {"n_step": 5, "n_step_final": 2, "anneal_updates": 6},
    "bf16": {"precision": "bf16"},
    "rainbow": RAINBOW,
    "der in bf16, nap": {**RAINBOW, "n_step": 10, "nap": True, "precision": "bf16", "augment": "drq"},
}


@pytest.mark.parametrize("settings", FAMILY.values(), ids=FAMILY.keys())
def test_an_agent_learns_there_as_on_the_cpu(settings):
    check_same(**settings)


@pytest.mark.parametrize("schedule", [name for name in SCHEDULES if name != "auto"])
def test_a_schedule_moves_the_rate_there_as_on_the_cpu(schedule):
    rates, early = [], "early-cycle" in schedule  # cusum wants eight rows in a cycle
    settings = {"n_step": 1, "log_interval": 1, "probe_interval": 0} | (
        {"cycle_fraction": 1.0, "cycles": 1} if early else {}
    )
    for device in (HERE, "cpu"):
        made = trainer(device, schedule=schedule, **settings)
        run(watched(made))
        rates.append(float(made.agent.optimizer.param_groups[0]["lr"]))
    assert rates[0] == rates[1]


@pytest.mark.parametrize(
    "settings", [{"nap": True, "precision": "bf16"}, {**RAINBOW, "plasticity": ("redo:period=3",)}]
)
def test_a_checkpoint_of_there_goes_on_there_and_its_network_on_the_cpu(settings, tmp_path):
    unbroken, first, second = (trainer(**settings) for _ in range(3))
    while first.agent_step < 40:
        first.step()
    saver = Saver(first.config, first)
    assert checkpoint.save_or_warn(tmp_path, first.agent_step, saver.state_dict(), rows=saver.rows)
    saved = checkpoint.load_latest(tmp_path)
    assert Saver(second.config, second).restore(saved)
    second.replay.check()
    assert run(watched(second)) == run(unbroken)
    here = trainer("cpu", **settings)
    here.agent.load_state_dict(checkpoint.load_latest(tmp_path).state["trainer"]["agent"])
    assert parameter_hash(here.agent.network) == parameter_hash(first.agent.network)


def test_a_replay_there_gives_the_cpus_batches():
    histories = []
    for device in (HERE, "cpu"):
        replay = FrameReplay(40, 2, (4, 4), 3, time_limit=6, device=device, seed=1)
        rng = np.random.default_rng(0)
        frame = rng.integers(256, size=(2, 4, 4), dtype=np.uint8)
        replay.start(frame)
        for step in range(60):
            frame = rng.integers(256, size=(2, 4, 4), dtype=np.uint8)
            flags = np.array([False, step % 7 == 3]), np.array([step % 8 == 7, False]), np.array([False, step % 5 == 0])
            replay.add(rng.integers(3, size=2), rng.random(2, np.float32), *flags, frame, frame[::-1].copy())
        replay.check()
        with waits() as found:
            batch = replay.sample(8, 3, n_step=3, cut_at_life_loss=True, clip_reward=1.0)
        assert found == {}
        histories.append({name: value.tolist() for name, value in batch.items()})
    assert histories[0] == histories[1]


def test_a_projection_and_a_probe_there_give_the_cpus_numbers():
    found = []
    for device in (HERE, "cpu"):
        torch.manual_seed(0)
        convs = nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(45, 6))
        network = nn.Sequential(convs, nn.ReLU(), nn.Linear(6, 2))
        nap.normalize(network)
        network.to(device)
        projection = nap.Projection(network)
        inputs = torch.arange(800.0, device=device).view(16, 2, 5, 5).div(800).sin()
        probe = nap.Probe(network, inputs, nap.metrics.METRICS)
        probe.measure()
        with torch.no_grad(), waits() as waited:
            for parameter in network.parameters():
                parameter.mul_(3).add_(1)
            projection.step()
        assert waited == {}
        figures = probe.measure() | projection.norms() | nap.weight_norms(network)
        found.append({name: float(value) for name, value in figures.items()})
    assert found[0] == found[1]


@pytest.mark.parametrize("nap", [True, False])
def test_the_command_trains_and_evaluates_there(tmp_path, nap):
    common = ["--threads", "1", "--root", str(tmp_path), "--probe-interval", "20"]
    for name, device in (("there", HERE), ("here", "cpu")):
        words = ["--env", "MinAtar/Breakout", "--steps", "60", "--update-start", "50", "--compile", "false"]
        words += ["--eval-episodes", "1", "--replay-capacity", "60", *(["--nap", "--cycles", "2"] if nap else [])]
        assert main("dqn", [*words, *common, "--device", device, "--name", name]) == 0
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("there", "here")]
    for fact in ("score",) if nap else ("score", "parameter_hash"):  # a CPU adds the squares of a norm in another order
        assert results[0][fact] == results[1][fact]
    assert evaluate(["--run", str(tmp_path / "there"), "--episodes", "1", "--device", "cpu"]) == 0
