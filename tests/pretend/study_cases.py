"""Both supervised studies on the pretend device: the CPU's numbers, and no wait in an update that reads no loss."""

import io
import json

import pytest
import torch

from tests.pretend.trainers import HERE

# ruff: isort: split
import studies.grokking.__main__ as grokking
import studies.warm_start.__main__ as warm_start
from experiment.determinism import parameter_hash
from studies.grokking.config import GrokkingConfig
from studies.grokking.data import make_task
from studies.grokking.learner import Learner
from studies.grokking.model import make_model
from studies.grokking.monitor import Monitor
from studies.warm_start import monitor as warm_start_monitor
from studies.warm_start.learner import Learner as ImageLearner
from studies.warm_start.networks import make_network
from studies.warm_start.protocols import make_protocol
from studies.warm_start.run import make_methods
from tests.plasticity.test_every_method import ACTIVE
from tests.pretend_device import waits
from tests.studies.warm_start.test_learner import BASE, DATA, RESNET, replace

UPDATES = 8  # of which the sixth ends a phase of the images
LOW = {"precision": "bf16"}
"""By autocast, which the pretend device has not: there it computes in fp32."""


def pairs_on(device, **settings):
    base = {"modulus": 7, "fraction": 0.5, "batch_size": 8, "warmup": 2, "anneal": 8, "precision": "fp32"}
    config = GrokkingConfig(device=device, **base | settings).resolved()
    task = make_task(config.operation, config.modulus, config.fraction, 0).to(device)
    learner = Learner(config, task, make_model(config, task.size, 1).to(device), 2)
    return learner, Monitor(learner, task, 0)


def images_on(device, **settings):
    config = replace(BASE, device=device, **settings).resolved()
    torch.manual_seed(1)
    network, data = make_network(config, (1, 8, 8), 10), DATA.to(device)
    methods = make_methods(config)
    for method in methods:
        method.prepare(network)
    protocol = make_protocol(config, data.train_labels, 10, 2)
    learner = ImageLearner(config, data, protocol, network.to(device), methods, 3)
    return learner, warm_start_monitor.Monitor(learner, 0)


def outcome(made, waiting):
    """Parameters and last row after some updates; `waiting` are those that may wait."""
    learner, monitor = made
    monitor.row()
    for update in range(UPDATES):
        with waits() as found:
            learner.update()
        assert update in waiting or not found, f"update {update} waits for {dict(found)}"
    row = monitor.row()
    return learner.model.cpu().state_dict(), row


def check_same(on, settings, waiting=()):
    """Fails unless both devices learn the same: to rounding, for torch has other kernels of norms for the CPU."""
    (there, row), (here, expected) = (outcome(on(device, **settings), waiting) for device in (HERE, "cpu"))
    if settings == LOW:
        assert all(value.isfinite().all() for value in there.values())
    else:
        torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-4)
        known = {name: value for name, value in expected.items() if value is not None}
        assert {name: row[name] for name in known} == pytest.approx(known, rel=1e-3, abs=1e-4)
        assert {name for name, value in row.items() if value is None} == expected.keys() - known.keys()


@pytest.mark.parametrize(
    "settings",
    [
        {"delay": 2},
        {"optimizer": "grokfast-ema", "norm": "none", "projection": "off", "schedule": "constant"},
        {"optimizer": "omnigrok", "norm": "none", "projection": "off", "batch_size": 0, "schedule": "constant"},
        {"optimizer": "muon"},
        {"norm_end": 2.0, "elr_end": 0.5, "elr_of": "weights", "schedule": "cyclic", "cycles": 2},
        LOW,
    ],
)
def test_pairs_are_learned_there_as_on_the_cpu(settings):
    check_same(pairs_on, settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"augment": True, "at_switch": "fresh-optimizer", "nap": True},
        {"rates": "even-ratio", "at_switch": "cold", "later_peak": 0.5},
        {"nap": True, **RESNET},
        {"optimizer": "muon", "at_switch": "fresh-optimizer"},
        LOW,
        *({"plasticity": (name + ACTIVE[name],)} for name in ACTIVE if name not in ("nap", "crelu", "layer-norm")),
    ],
    ids=str,
)
def test_images_are_learned_there_as_on_the_cpu(settings):
    check_same(images_on, settings, waiting=(6,))


@pytest.mark.parametrize("schedule", ["cusum", "early-cycle-plateau"])
def test_a_schedule_listens_there_as_on_the_cpu(schedule, monkeypatch):
    monkeypatch.setattr("studies.signal.INTERVAL", 4)
    check_same(images_on, {"schedule": schedule}, waiting=(3, 6, 7))


@pytest.mark.parametrize(
    ("main", "options"),
    [
        (grokking.main, ["--modulus", "7", "--updates", "6", "--log-interval", "3", "--precision", "fp32"]),
        (warm_start.main, ["--dataset", "digits", "--phase-updates", "3", "--width", "4", "--nap"]),
    ],
)
def test_the_command_runs_there(main, options, tmp_path):
    for name, device in (("there", HERE), ("here", "cpu")):
        common = ["--device", device, "--threads", "1", "--no-figure", "--checkpoint-interval", "2"]
        assert main([*options, *common, "--root", str(tmp_path), "--name", name]) == 0
    rows = [json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1]) for name in ("there", "here")]
    for figure in ("update", "lr", "test_accuracy", "test_loss", "global_norm"):
        assert rows[0][figure] == pytest.approx(rows[1][figure], rel=1e-3)


@pytest.mark.parametrize(
    ("on", "settings"),
    [
        (pairs_on, {"optimizer": "grokfast-ema", "delay": 2}),
        (images_on, {"nap": True, "augment": True, "plasticity": ("shrink-perturb:period=2",)}),
    ],
)
def test_a_saved_learner_goes_on_there_bit_for_bit(on, settings):
    (one, _), (other, _) = (on(HERE, **settings) for _ in range(2))
    for _ in range(4):
        one.update()
    torch.save(one.state_dict(), file := io.BytesIO())
    file.seek(0)
    other.load_state_dict(torch.load(file, map_location="cpu"))
    for learner in (one, other):
        for _ in range(4):
            learner.update()
    assert parameter_hash(one.model) == parameter_hash(other.model)
