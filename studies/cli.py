"""The command of a study: its settings from the words or from a run that is resumed, then the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, TypeVar

from experiment.command_line import shell
from experiment.config import ConfigError, exit_on_bad_input, load_yaml, parse_cli
from experiment.interrupt import terminal_manners
from experiment.run_dir import RunDir, find_resumed

MACHINE = {"name": None, "root": "", "resume": None, "figure": True, "track": "none"}
"""Settings that name a run or change nothing of it, with one value for all: they do not tell runs apart."""
CHANGEABLE = ("track", "data_dir")
"""Settings that may be others after a resume, where a study has them: it checks that the data are the same."""
Config = TypeVar("Config", bound=Any)
"""A config dataclass with `resume`, `track`, and `resolved()`, which checks it and gives itself back if it is whole."""


class Trainable(Protocol):
    """What trains to the end and returns an exit code."""

    def train(self) -> int: ...


def settings(config_class: type[Config], argv: Sequence[str] | None, *, prog: str, description: str) -> Config:
    """The resolved settings of a command line; with `--resume` those of the run, if there is one to go on with.

    A mistake raises ConfigError.
    """
    parse: Callable[..., Config] = partial(
        parse_cli, config_class, argv, prog=prog, description=description, presets={}
    )
    config = parse()
    if config.resume is None:
        return config.resolved()
    if config.resume == "auto":
        return _found(config_class, config.resolved())
    stored = _stored(config_class, config.resume)
    asked = parse(base=stored)
    changed = {name: getattr(asked, name) for name in CHANGEABLE if hasattr(stored, name)}
    if replace(asked, resume=None) != replace(stored, **changed):
        others = " and ".join(f"--{name.replace('_', '-')}" for name in changed)
        raise ConfigError(
            f"{shell('--resume', config.resume)} keeps the settings of that run: give no others (but {others})"
        )
    return replace(stored, resume=config.resume, **changed)


def _found(config_class: type[Config], config: Config) -> Config:
    run = find_resumed(config, MACHINE)
    if run is None:
        print(f"no unfinished run of these settings in {config.root!r}: a new one begins")
        return replace(config, resume=None)
    changed = {name: getattr(config, name) for name in CHANGEABLE if hasattr(config, name)}
    return replace(_stored(config_class, str(run.path)), resume=str(run.path), **changed)


def _stored(config_class: type[Config], run: str) -> Config:
    path = RunDir.open(run).config
    try:
        return load_yaml(config_class, path).resolved()
    except ConfigError as error:
        raise ConfigError(str(error) if str(path) in str(error) else f"{path}: {error}") from None


@terminal_manners()
def main(
    settings: Callable[[Sequence[str] | None], Config],
    make_run: Callable[[Config], Trainable],
    argv: Sequence[str] | None,
) -> int:
    """Parse, prepare and train; the exit code. Bad input ends in one line and code 2.

    `make_run` imports what it needs when it is called: torch is not loaded for a mistake or for `--help`.
    """
    with exit_on_bad_input():
        run = make_run(settings(argv))
    return run.train()
