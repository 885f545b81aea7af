"""What a run of an agent would refuse at its start, found without a run: its parts are built and let go."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

from agents.config import DQNConfig
from agents.run import bare_agent, build_trainer
from agents.training.compiling import settle_compile
from agents.training.update_scheduler import UpdateScheduler
from experiment.fork_state import check_fits
from experiment.part import as_mistake
from experiment.storage.checkpoint import check_plain
from plasticity.joining import compare

ENOUGH = 10_000
"""Steps of a replay that is built for another machine or device, whose memory is not known."""


def check_start(config: DQNConfig, source: DQNConfig | None, here: bool) -> None:
    """Raise ConfigError for settings that a run would refuse at its start, before anything is written.

    source: the settings of the run that it forks. here: whether it would run on this machine.
    """
    if here and config.compile == "true":
        settle_compile(config)
    if not here or config.device != "cpu":
        config = replace(config, device="cpu", replay_capacity=min(config.replay_capacity, ENOUGH))
    trainer = build_trainer(config)
    with closing(trainer.env), as_mistake("what a checkpoint would hold"):
        check_plain(trainer.agent.state_dict(), "learner")
    if source is not None:
        saved, methods = bare_agent(replace(source, device="cpu")).network.state_dict(), compare(source, config)
        check_fits(trainer.agent.network, saved, methods.reason())
        if source.fork is None and config.fork_step is not None:  # else the updates made follow from a longer past
            scheduler = UpdateScheduler(source.utd, source.update_start, period=source.update_period)
            made, goes_on = scheduler.total(config.fork_step), config.tasks.goes_on(config.fork_step)
            methods.check_to_come(trainer.agent.methods, made, goes_on)
