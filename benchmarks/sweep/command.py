"""The command line of a sweep of agents: its settings, its arms, and the options of all runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from agents.config import DQNConfig
from benchmarks.sweep.suites import SUITES, games
from experiment.config import ConfigError, parse_cli
from experiment.setting import setting
from experiment.sweeps.command import SweepSettings

DESCRIPTION = f"""Train an agent on many games with several seeds, a process per core. The same command goes on where
it stopped.

Suites: {", ".join(SUITES)}. An arm is a name and flags of the agent, which override its preset; every arm plays every
game with every seed. Options of all runs stand after --:

python -m benchmarks.atari --suite Pong,Qbert --agent der --arm nap:"--nap --utd 2" --arm plain:"" -- --steps 50000"""


@dataclass(frozen=True)
class Settings(SweepSettings):
    """What to run, and where."""

    suite: str = setting("atari100k", "runs")
    """atari100k (26 games), high-utd-20, atari57, minatar (5), or games with commas between: Pong,Breakout."""
    seeds: int = setting(5, "runs", at_least=1)
    """Runs of each arm on each game, with the seeds 0, 1, ..."""
    root: str | None = setting(None, "runs")
    """Folder for manifest.json and a run directory ARM-GAME-sSEED for each run; none: run/SUITE. A list of
    games that is to grow needs a name of its own here."""
    agent: str = setting("dqn", "runs")
    """dqn, rainbow, der, or module:Class of an own one."""
    config: str | None = setting(None, "runs", metavar="PRESET|FILE")
    """Preset or YAML file of the agent, for all arms; their flags override it."""
    arm: tuple[str, ...] = setting((), "runs", metavar='NAME:"FLAGS"')
    """name:"flags", repeated for each arm; flags of the agent's command. None: one arm, the agent as it is."""


@dataclass(frozen=True)
class Command:
    """The words of the command line, sorted: the sweep's settings, its arms, preset, and options of all runs."""

    settings: Settings
    arms: tuple[str, ...]
    preset: str | None
    common: tuple[str, ...]

    @classmethod
    def parse(
        cls,
        argv: Sequence[str] | None,
        kind: type[Settings] = Settings,
        prog: str = "python -m benchmarks.atari",
        description: str = DESCRIPTION,
    ) -> Command:
        words = list(sys.argv[1:] if argv is None else argv)
        end = words.index("--") if "--" in words else len(words)
        rest, taken = _take_arms(words[:end])
        _refuse_loose_flags(rest, kind)
        if sum(word.partition("=")[0] == "--config" for word in rest) > 1:
            raise ConfigError("--config is given twice; an arm has its own in its flags")
        settings = parse_cli(kind, rest, prog=prog, description=description, presets={}).checked()
        return cls(settings, tuple(taken), settings.config, tuple(words[end + 1 :]))

    def folder(self) -> Path:
        """The sweep's folder."""
        suite = self.settings.suite
        name = suite if suite in SUITES else "-".join(games(suite)).replace("/", "_")[:100]
        return Path(self.settings.root or Path("run") / name)


def _take_arms(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The other words, and the values of --arm, which may look like options themselves."""
    rest: list[str] = []
    arms: list[str] = []
    left = list(words)
    while left:
        option, equals, value = left.pop(0).partition("=")
        if option != "--arm":
            rest.append(option + equals + value)
            continue
        if not equals and (value := left.pop(0) if left else "") == "":
            raise ConfigError("--arm needs a value")
        if left and not left[0].startswith("--"):
            name, _, flags = value.partition(":")
            whole = f'--arm {name}:"{flags} {left[0]}"'
            raise ConfigError(f"--arm {value} {left[0]}: the flags of an arm stand in quotes: {whole}")
        arms.append(value)
    return rest, arms


def _refuse_loose_flags(words: Sequence[str], kind: type[Settings]) -> None:
    """Raises ConfigError for an option of the agent where one of the sweep is wanted."""
    own, agents = ({each.name for each in fields(config)} for config in (kind, DQNConfig))
    for word in words:
        name = word.partition("=")[0].removeprefix("--").replace("-", "_")
        if word.startswith("--") and {name, name.removeprefix("no_")} & (agents - own):
            option = word.partition("=")[0]
            where = f'in the quotes of an arm, --arm name:"{option} ...", or for all of them after --'
            raise ConfigError(f"{option} is an option of the agent: it stands {where}")
