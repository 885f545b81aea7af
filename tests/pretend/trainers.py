"""Trainers on Catch on the pretend device, and the same on the CPU; imported first by each file of cases."""

from __future__ import annotations

from agents.training import monitor
from agents.training.trainer import Trainer
from experiment import processor
from experiment.determinism import parameter_hash
from tests.agents.toys import catch_trainer
from tests.pretend_device import HERE, waits

processor.DEVICES += f"|{HERE}"
monitor.STATES = 16
SETTINGS = {
    "steps": 44, "update_start": 32, "replay_capacity": 36, "batch_size": 8, "units": 16, "log_interval": 6,
    "probe_interval": 8, "cycles": 2,
}  # fmt: skip
"""Twelve updates, and a replay that is overwritten meanwhile."""


def trainer(device: str = HERE, **settings) -> Trainer:
    made = catch_trainer(device=device, **SETTINGS | settings)
    made.open()
    return made


def watched(trainer: Trainer) -> Trainer:
    """The trainer; an update in which the host waits for the device fails the test, but for the first: the probe's."""
    learn = trainer.learn

    def learn_without_waiting() -> None:
        first = trainer.updates == 0
        with waits() as found:
            learn()
        assert first or not found, f"update {trainer.updates} waits for {dict(found)}"

    trainer.learn = learn_without_waiting  # type: ignore[method-assign]
    return trainer


def run(trainer: Trainer) -> str:
    """Train to the end of the budget; the parameters' hash."""
    while not trainer.done:
        trainer.step()
    return parameter_hash(trainer.agent.network)


def check_same(**settings) -> None:
    """Fails unless a run there ends with the bits that the CPU's has, and no update waits."""
    there = watched(trainer(**settings))
    assert run(there) == run(trainer("cpu", **settings))
    assert there.updates >= 12
    for parameter in there.agent.network.parameters():
        assert parameter.device.type == HERE
        assert parameter.isfinite().all()
