"""The settings of a fork: a new run that begins at a checkpoint of another one. Imports no torch.

A fork has the settings of that run, except those that are given. Its config.yaml holds all of them, and in `fork`,
`fork_step`, `fork_hash` and `fork_changed` where it comes from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from experiment.command_line import flag
from experiment.config import as_plain
from experiment.setting import names_of
from experiment.storage.run_dir import RunDir, load_settings, nearest
from experiment.values import ConfigError

Config = TypeVar("Config", bound=Any)
"""A config dataclass with fork, FACTS, name, root, resume, device, checkpoint_at, budget and `resolved()`."""


FACTS = ("fork_step", "fork_hash", "fork_changed")
"""The settings that a fork gets from its source."""


class Planned(NamedTuple):
    """The source of a fork that is known before it exists, as a sweep plans it: settings, and the step to fork at."""

    settings: Any
    step: int


def split_source(text: str) -> tuple[str, int | None]:
    """The run and the step of RUN or RUN@STEP; a directory whose name ends in that form is a run."""
    run, at, step = text.rpartition("@")
    if at and run and step.isdecimal() and not Path(text).is_dir():
        return run, int(step)
    return text, None


def fork_settings(
    config_class: type[Config],
    asked: Config,
    parse: Callable[[Config], Config],
    complete: Callable[[Config], Config],
    program: str,
    planned: Planned | None = None,
    taken: Callable[[Config], Config] = lambda source: source,
) -> Config:
    """The resolved settings of the fork that `asked.fork` names.

    parse: what the command line makes of the settings that it gets. complete: checks and resolves those. program: the
    command whose runs can be forked. planned: the source, if it need not exist yet. taken: a source's settings as
    its forks take them over.
    Raises ConfigError for a source that cannot be forked, and for settings that its state does not fit.
    """
    if asked.resume is not None:
        raise ConfigError("--fork begins a new run, and --resume goes on with one: give one of them")
    name, step = split_source(asked.fork)
    if Path(name).name in ("", ".."):  # such as ".", whose parent would be the run itself
        name = str(Path(name).resolve())
    if planned is None:
        run = RunDir.open(name)
        stored, step = _load(config_class, run, program), choose_step(run, step)
    else:
        stored, step = planned
    stored = taken(stored)
    base = dataclasses.replace(unforked(stored), name=None, root=str(Path(name).parent), fork_step=step)
    given = parse(dataclasses.replace(base, checkpoint_at=()))
    if given.fork_step is None:  # by the --config of a run that is no fork
        given = dataclasses.replace(given, fork_step=step)
    given = dataclasses.replace(given, fork=f"{name}@{step}", fork_changed=None)
    try:
        config = complete(given)
    except ConfigError:
        _check_fixed(given, stored)  # where a setting cannot be changed, it does not matter what it goes with
        raise
    if config.fork_step != step:
        raise ConfigError(f"--fork-step is what --fork RUN@STEP sets: leave it out, or give --fork {name}@STEP")
    check_fork(config, stored)
    return dataclasses.replace(config, fork_changed=_earlier(config, stored))


def check_not_forked(config: Any) -> None:
    """Raises ConfigError for settings of a fork without its source."""
    for name in FACTS:
        if getattr(config, name) is not None:
            raise ConfigError(f"{flag(name)} is for a fork: give --fork RUN@STEP")


def unforked(config: Config) -> Config:
    """The settings of a fork for a run from scratch."""
    return dataclasses.replace(config, fork=None, **dict.fromkeys(FACTS))


def source_run(config: Any) -> RunDir:
    """The run that a fork begins at. Its own directory may have the name RUN@STEP."""
    return RunDir.open(config.fork.removesuffix(f"@{config.fork_step}"))


def _load(config_class: type[Config], run: RunDir, program: str) -> Config:
    try:
        return load_settings(config_class, run)
    except ConfigError as error:
        raise ConfigError(f"--fork: {str(run.path)!r} is no run of {program} that it can go on with: {error}") from None


def choose_step(run: RunDir, step: int | None) -> int:
    """The step, or the newest; ConfigError, with the nearest ones, if the run has no checkpoint of it."""
    steps = run.steps()
    if not steps:
        raise ConfigError(f"--fork: run {str(run.path)!r} has no checkpoint")
    if step is not None and step not in steps:
        raise ConfigError(f"--fork: run {str(run.path)!r} has no checkpoint of step {step}; {nearest(step, steps)}")
    return steps[-1] if step is None else step


def check_fork(config: Any, source: Any) -> None:
    """Raises ConfigError for settings that the source's state does not fit, and for a budget that is used up."""
    _check_fixed(config, source)
    if config.device.partition(":")[0] != source.device.partition(":")[0]:
        raise ConfigError(f"--device {config.device}: the run to fork has random generators of {source.device}")
    if config.budget <= config.fork_step:
        total = f"the fork begins at {config.fork_step:,}, and {config.budget:,} is its budget in all"
        raise ConfigError(f"{total}: give a larger one")


def _check_fixed(config: Any, source: Any) -> None:
    for each in dataclasses.fields(config):
        new, old = getattr(config, each.name), getattr(source, each.name)
        if each.metadata.get("fixed") and new != old:
            raise ConfigError(f"{flag(each.name)} {new}: the run to fork has {old}, and its state depends on it")


def changed(config: Any, source: Any) -> dict[str, list[Any]]:
    """The settings of learning and machine that a fork changes: [old, new] by name, as plain values."""
    fixed = {each.name for each in dataclasses.fields(config) if each.metadata.get("fixed")}
    names = names_of(type(config), "learning", "machine") - fixed - {"fork_step"}
    old, new = as_plain(source), as_plain(config)
    return {name: [old[name], new[name]] for name in old if name in names and old[name] != new[name]}


def _earlier(config: Any, source: Any) -> str:
    """The learning settings before the fork where they differ, as text: forks that were trained otherwise are apart."""
    there, learned = as_plain(source), names_of(type(config), "learning")
    found = {name: old for name, (old, _) in changed(config, source).items() if name in learned}
    if source.fork_step is not None:
        found |= {name: there[name] for name in ("fork_step", "fork_changed")}
    return " ".join(f"{name}={value}" for name, value in found.items()) or "nothing"


def asked_steps(config: Any) -> tuple[int, ...]:
    """The steps at which a checkpoint is saved in addition, and kept. Raises ConfigError for what is no step."""
    for step in config.checkpoint_at:
        if not step.isdecimal():
            raise ConfigError(f"--checkpoint-at has {step!r}: it has to be steps, whole numbers with commas between")
    return tuple(map(int, config.checkpoint_at))
