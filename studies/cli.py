"""The command of a study: its settings from the command line or from a resumed run, then the run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

from experiment.command_line import gather
from experiment.config import exit_on_bad_input, parse_cli
from experiment.fork_settings import Planned, check_not_forked, fork_settings
from experiment.interrupt import cli_session
from experiment.part_help import SCHEDULES, own_help
from experiment.storage.run_dir import RunDir, check_resumed, load_settings
from plasticity.listing import answer

Config = TypeVar("Config", bound=Any)
"""A config dataclass with `resume`, `track`, and `resolved()`, which checks it and returns it complete."""


class Trainable(Protocol):
    """A run that trains to the end and returns an exit code."""

    def train(self) -> int: ...


def settings(
    config_class: type[Config],
    argv: Sequence[str] | None,
    planned: Planned | None = None,
    *,
    prog: str,
    description: str,
) -> Config:
    """The resolved settings of a command line; with `--resume` those of the run, if there is one to resume.

    planned: as in `fork_settings`.

    A mistake raises ConfigError.
    """
    argv = gather(sys.argv[1:] if argv is None else argv, "--plasticity")
    parse: Callable[..., Config] = partial(parse_cli, config_class, argv, prog=prog, description=description)
    config = parse()
    if config.fork is not None:
        return fork_settings(config_class, config, lambda base: parse(base=base), config_class.resolved, prog, planned)
    check_not_forked(config)
    if config.resume in (None, "auto"):  # which run that is, the run itself finds out
        return config.resolved()
    stored = load_settings(config_class, RunDir.open(config.resume))
    asked = parse(base=stored)
    check_resumed(asked, stored)
    return asked


@cli_session()
def main(
    settings: Callable[[Sequence[str] | None], Config],
    make_run: Callable[[Config], Trainable],
    argv: Sequence[str] | None,
) -> int:
    """Parse, prepare and train; the exit code. Bad input ends in one line and code 2.

    `make_run` imports what it needs when it is called: torch is not loaded for a mistake or for `--help`.
    """
    with exit_on_bad_input():
        words = sys.argv[1:] if argv is None else argv
        if (text := answer(words) or own_help(words, SCHEDULES)) is not None:
            print(text)
            return 0
        run = make_run(settings(argv))
    return run.train()
