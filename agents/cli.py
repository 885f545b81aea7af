"""The command line of the agents. Imports no torch, so that help and mistakes are answered at once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from agents.config import AGENTS, DQNConfig, command_of
from envs.games import is_minatar
from experiment.command_line import gather
from experiment.config import ConfigError, exit_on_bad_input, load_yaml, parse_cli
from experiment.interrupt import terminal_manners
from experiment.run_dir import RunDir
from plasticity.registry import listing

CONFIGS = Path(__file__).parent.parent / "configs"
DEFAULTS = {"dqn": "atari100k", "rainbow": "rainbow", "der": "der"}
"""The preset of a command that names none."""
NAMES = {"dqn": "a DQN", "rainbow": "Rainbow", "der": "Data-Efficient Rainbow"}
DESCRIPTION = "Train {name} on an Atari game, with Normalize-and-Project at any update-to-data ratio."


def presets(agent: str) -> dict[str, Path]:
    """The agent's presets in configs/, by name; of an agent that is an import path all, with the family's names."""
    own = agent if agent in AGENTS else ""
    return {path.stem.removeprefix(f"{agent}-"): path for path in sorted(CONFIGS.glob(f"{own}*.yaml"))}


def settings(agent: str, argv: Sequence[str] | None) -> DQNConfig:
    """The resolved settings of a command line; with `--resume RUN` those of the run. A mistake raises ConfigError."""
    parse: Callable[..., DQNConfig] = partial(
        parse_cli,
        DQNConfig,
        gather(sys.argv[1:] if argv is None else argv, "--plasticity"),
        prog=command_of(agent),
        description=f"{DESCRIPTION.format(name=NAMES.get(agent, agent))}\n\nMethods for --plasticity:\n{listing()}",
        presets=presets(agent),
    )
    config = parse(default_preset=DEFAULTS.get(agent, "dqn-atari100k"))
    if config.resume not in (None, "auto"):
        stored = load_yaml(DQNConfig, RunDir.open(config.resume).config)
        config = parse(base=stored)
        if replace(config, resume=None, track=stored.track, on_nonfinite=stored.on_nonfinite) != stored:
            allowed = "give no others (but --track, --on-nonfinite)"
            raise ConfigError(f"--resume {config.resume} keeps the settings of that run: {allowed}")
    if config.agent not in (None, agent):
        raise ConfigError(f"these settings are for {command_of(config.agent)}, not {command_of(agent)}")
    check_stated(config, sys.argv[1:] if argv is None else argv)
    return replace(config, agent=agent).resolved()


def check_stated(config: DQNConfig, words: Sequence[str]) -> None:
    """Raise ConfigError for a protocol or network among the words that MinAtar's games cannot have.

    A preset's give way to the games' own: see `DQNConfig.resolved`.
    """
    stated = {word.partition("=")[0] for word in words}
    for name, value in (("protocol", config.protocol), ("network", config.network)):
        if is_minatar(config.env) and f"--{name}" in stated and value != "minatar":
            raise ConfigError(f"--{name} {value} is not for {config.env}: leave it out, or --{name} minatar")


def main(agent: str, argv: Sequence[str] | None = None) -> int:
    """Parse, prepare and train; the exit code. Bad input ends in one line and code 2."""
    with terminal_manners():
        with exit_on_bad_input():
            config = settings(agent, argv)
            from agents.run import Run

            run = Run(config)
        return run.train()
