"""The command line of a sweep of agents: its settings, its arms, and the options of all runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal, Self, TypeVar

from agents.config import DQNConfig
from benchmarks.sweep.runs import KIND
from benchmarks.sweep.suites import SET, SUITES, arms, entries, file_name, games
from experiment.config import ConfigError, parse_cli
from experiment.setting import setting
from experiment.sweeps.command import Sweep, SweepSettings
from experiment.sweeps.manifest import Entry

DESCRIPTION = f"""Train an agent on many games with several seeds, a process per core. The same command goes on where
it stopped.

Suites: {", ".join(SUITES)}. An arm is a name and flags of the agent, which override its preset; every arm plays every
game with every seed. Options of all runs stand after --:

python -m benchmarks.atari --suite Pong,Qbert --agent der --arm nap:"--nap --utd 2" --arm plain:"" -- --steps 50000"""


@dataclass(frozen=True)
class Settings(SweepSettings):
    """What to run, and where."""

    suite: str = setting("atari100k", "runs")
    """atari100k (26 games), high-utd-20, atari57, minatar (5), or games with commas between, as --env of a run takes
    them: Pong,Breakout or my.module:Class."""
    seeds: int = setting(5, "runs", at_least=1)
    """Runs of each arm on each game, with the seeds 0, 1, ... or from --first-seed on."""
    first_seed: int = setting(0, "runs", at_least=0)
    """Seed of the first run of each arm and game."""
    root: str | None = setting(None, "runs")
    """Folder for manifest.json and a run directory ARM-GAME-sSEED for each run; none: run/SUITE. Give a name if
    you will add games to a list later."""
    agent: str = setting("dqn", "runs")
    """dqn, rainbow, der, or module:Class for your own."""
    config: str | None = setting(None, "runs", metavar="PRESET|FILE")
    """Preset or YAML file of the agent, for all arms; their flags override it."""
    arm: tuple[str, ...] = setting((), "runs", metavar='NAME:"FLAGS"')
    """name:"flags", repeated for each arm; flags of the agent's command. None: one arm, the agent as it is. With --fork
    ARM@STEP among its flags an arm begins at a checkpoint of an arm given before it, with the settings of that."""
    fleet: Literal["auto", "on", "off"] = setting("auto", "machine")
    """Train the seeds of an arm and game together in fleets, a process each (docs/fleet.md). auto: where --calibrate
    measured that to be faster, else with MinAtar's network on a CPU; on: wherever possible; off: nowhere."""

    def checked(self) -> Self:
        """Checks these settings, as every sweep does, and that fleets are on a CPU."""
        if self.fleet == "on" and self.device != "cpu":
            raise ConfigError(f"--fleet on is for --device cpu: with --device {self.device} every run is a process")
        return super().checked()


Given = TypeVar("Given", bound=Settings)


def parse(
    argv: Sequence[str] | None,
    kind: type[Given],
    prog: str = "python -m benchmarks.atari",
    description: str = DESCRIPTION,
) -> tuple[Given, tuple[str, ...]]:
    """The settings that a command line gives, and the options of all runs."""
    argv = list(sys.argv[1:] if argv is None else argv)
    end = argv.index("--") if "--" in argv else len(argv)
    rest, taken = _take_arms(argv[:end])
    _refuse_loose_flags(rest, kind)
    if sum(arg.partition("=")[0] == "--config" for arg in rest) > 1:
        raise ConfigError("--config is given twice; an arm has its own in its flags")
    settings = parse_cli(kind, rest, prog=prog, description=description).checked()
    return replace(settings, arm=tuple(taken)), tuple(argv[end + 1 :])


class AgentSweep(Sweep):
    """Every arm plays every game of the suite with every seed; `common` are the options of all runs."""

    kind = KIND

    def __init__(self, settings: Settings, common: Sequence[str]) -> None:
        suite = settings.suite
        self.arms = {arm.name: arm for arm in arms(settings.agent, settings.config, settings.arm, common)}
        self.games, self.seeds, self.fleet = self.tasks(suite), settings.seeds, settings.fleet
        self.first_seed = settings.first_seed
        name = suite if suite in SUITES else "-".join(map(file_name, self.games))[:100]
        super().__init__(settings, settings.root or Path("run") / name)

    def tasks(self, suite: str) -> tuple[str, ...]:
        """What a run plays: each is a game."""
        return games(suite)

    def entries(self) -> tuple[Entry, ...]:
        return entries(self.arms.values(), self.games, self.seeds, self.root, self.device, self.first_seed)

    def wanted(self, entry: Entry) -> DQNConfig | None:
        return self.arms[entry.arm].config(entry.task) if entry.arm in self.arms else None


def _take_arms(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The other arguments, and the values of --arm, which may look like options themselves."""
    rest: list[str] = []
    arms: list[str] = []
    left = list(argv)
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
            raise ConfigError(f"--arm {value} {left[0]}: put the flags of an arm in quotes: {whole}")
        arms.append(value)
    return rest, arms


def _refuse_loose_flags(argv: Sequence[str], kind: type[Settings]) -> None:
    """Raises ConfigError for an option of the agent where one of the sweep is wanted."""
    own, agents = ({each.name for each in fields(config)} for config in (kind, DQNConfig))
    for arg in argv:
        name = arg.partition("=")[0].removeprefix("--").replace("-", "_")
        if arg.startswith("--") and {name, name.removeprefix("no_")} & (agents - own):
            option = arg.partition("=")[0]
            if option in SET:
                raise ConfigError(f"{option} is set by the sweep, for every run: leave it out")
            where = f'in the quotes of an arm, --arm name:"{option} ...", or for all of them after --'
            raise ConfigError(f"{option} is an option of the agent: put it {where}")
