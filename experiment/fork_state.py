"""The state of a fork: what it takes over from the checkpoint that it begins at, and what its own settings decide."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from torch import Tensor, nn
from torch.optim import Optimizer

from experiment.command_line import flag
from experiment.determinism import parameter_hash
from experiment.fork_settings import changed, source_run
from experiment.guard import NonFinite, check_finite
from experiment.storage import checkpoint
from experiment.storage.run_dir import load_settings
from experiment.values import ConfigError

Config = TypeVar("Config", bound=Any)
RATES = {"lr", "lr_floor", "low_lr", "final_lr"}
"""Settings of the learning rate's heights alone."""
NO_SHAPE = RATES | {"batch_size", "restart_moments", "later_peak", "rates"}
"""Settings of the group "learning rate" that leave the schedule's course over the steps alone."""


class Source(Generic[Config]):
    """What a fork begins at.

    Attributes:
        run: the directory of the run that is forked. settings: its settings.
        saved: the checkpoint. changed: the settings that the fork changes, [old, new] by name.
        stood: where the schedule stood there.
    """

    def __init__(self, config: Config) -> None:
        """Loads the checkpoint that the settings of a fork name. Raises ConfigError if that cannot be done."""
        self.run = source_run(config)
        self.settings: Config = load_settings(type(config), self.run)
        self.saved = checkpoint.load_latest(self.run.checkpoints, step=config.fork_step)
        checkpoint.check_settings(self.saved, self.settings, self.run.config)
        self.changed = changed(config, self.settings)

    def learner_state(self, learner: Any, saved: dict[str, Any], config: Config) -> dict[str, Any]:
        """The saved states of a learner's optimiser and schedule, as the fork's settings have them."""
        rate = float(saved["optimizer"]["param_groups"][0]["lr"])
        self.stood = {"step": saved["schedule"]["step"], "budget": self.settings.budget, "lr": rate}
        return {
            "optimizer": self.optimizer_state(learner.optimizer, saved["optimizer"]),
            "schedule": self.schedule_state(learner.schedule, saved["schedule"], config),
        }

    def optimizer_state(self, optimizer: Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
        """A saved state of the optimiser with the options of the fork's, weight decay say; another one starts fresh."""
        if "optimizer" in self.changed:
            return optimizer.state_dict()
        own, groups = optimizer.state_dict()["param_groups"], saved["param_groups"]
        if [len(group["params"]) for group in own] != [len(group["params"]) for group in groups]:
            raise ConfigError("--fork: with these settings the optimiser groups its parameters otherwise")
        if not self.changed:
            return saved
        pairs = zip(own, groups, strict=True)
        return saved | {"param_groups": [new | {"lr": old["lr"], "params": old["params"]} for new, old in pairs]}

    def schedule_state(self, schedule: Any, saved: dict[str, Any], config: Config) -> dict[str, Any]:
        """A saved state of the schedule, moved to where the fork's settings put it at that step.

        With another course over the steps the schedule starts without evidence from its signal. A peak that was
        raised or lowered on the way keeps its ratio to --lr.
        """
        fields = dataclasses.fields(config)
        touched = {each.name for each in fields if each.metadata.get("group") == "learning rate"} & self.changed.keys()
        longer = config.budget != self.settings.budget
        if not touched and not longer:
            return saved
        if "optimizer" in self.changed:  # its groups are others
            return schedule.state_dict() | {"step": saved["step"]}
        peaks = [peak * config.lr / self.settings.lr for peak in saved["peaks"]]
        pairs = zip(schedule.peaks, peaks, strict=True)
        peaks = [own if math.isclose(own, peak, rel_tol=1e-6) else peak for own, peak in pairs]
        shares = [floor / peak if floor else 0.0 for floor, peak in zip(schedule.floors, schedule.peaks, strict=True)]
        floors = [share * peak for share, peak in zip(shares, peaks, strict=True)]
        state = schedule.state_dict() if longer or touched - NO_SHAPE else saved
        return state | {"step": saved["step"], "peaks": peaks, "floors": floors}

    def taken_over(self, learner: Any, network: nn.Module, config: Config) -> tuple[Config, dict[str, Any]]:
        """The settings with the hash of what was loaded, and facts for the result.

        These are where the fork comes from, what it changes, and where both schedules stand. Raises ConfigError for a
        state that is not finite, and for other parameters than the settings say.
        """
        try:
            check_finite(learner.state_dict())
        except NonFinite as error:
            raise ConfigError(
                f"--fork: {self.saved.path} is of a run that diverged, {error}: fork an earlier step"
            ) from None
        found = parameter_hash(network)
        if config.fork_hash not in (None, found):
            raise ConfigError(f"--fork: {self.saved.path} has parameters of hash {found}, not {config.fork_hash}")
        lr = float(learner.optimizer.param_groups[0]["lr"])
        now = {"step": learner.schedule.last_epoch, "budget": config.budget, "lr": lr}
        facts = {
            "run": self.run.path.name,
            "step": self.saved.step,
            "parameter_hash": found,
            "changed": self.changed,
            "schedule": {"source": self.stood, "fork": now},
        }
        return dataclasses.replace(config, fork_hash=found), facts


def summary(facts: Mapping[str, Any]) -> str:
    """What a fork changes, in a few lines for the terminal."""
    changes = [f"{flag(name)} {_shown(new)} (was {_shown(old)})" for name, (old, new) in facts["changed"].items()]
    methods = facts.get("methods", {})
    names = [f"{', '.join(names)} {word}" for word, names in methods.items() if names]
    there, here = (f"lr {at['lr']:.3g} with a budget of {at['budget']:,}" for at in facts["schedule"].values())
    step = facts["schedule"]["fork"]["step"]
    lines = [f"changed: {', '.join(changes) or 'nothing'}"]
    lines.append(f"the schedule at its step {step:,}: {there} in that run, {here} in the fork")
    return "\n".join([*lines, *([f"methods: {'; '.join(names)}"] if names else [])])


def _shown(value: Any) -> str:
    return (", ".join(value) or "none") if isinstance(value, list) else str(value)


def check_fits(network: nn.Module, saved: Mapping[str, Tensor], reason: str) -> None:
    """Raises ConfigError, which begins with `reason`, unless the saved parameters are those of the network."""
    own = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    there = {name: tuple(value.shape) for name, value in saved.items()}
    for name in {**there, **own}:
        if own.get(name) != there.get(name):
            raise ConfigError(f"{reason}: {name} is {_size(there.get(name))} there, and {_size(own.get(name))} here")


def _size(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else f"of shape {list(shape)}"
