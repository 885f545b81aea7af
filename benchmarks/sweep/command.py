"""The command line of a sweep: its settings, its arms, and the options of all runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal, Self

from agents.config import DQNConfig
from benchmarks.sweep.ray_launcher import check_installed
from benchmarks.sweep.suites import SUITES, file_name, games
from experiment.config import ConfigError, parse_cli

DESCRIPTION = f"""Train an agent on many games with several seeds, a process per core. The same command goes on where
it stopped.

Suites: {", ".join(SUITES)}. An arm is a name and flags of the agent, which override its preset; every arm plays every
game with every seed. Options of all runs stand after --:

python -m benchmarks.atari --suite Pong,Qbert --agent der --arm nap:"--nap --utd 2" --arm plain:"" -- --steps 50000"""


@dataclass(frozen=True)
class Settings:
    """What to run, and where."""

    suite: str = "atari100k"
    """atari100k (26 games), high-utd-20, atari57, minatar (5), or games with commas between, as --env of a run takes
    them: Pong,Breakout or my.module:Class."""
    agent: str = "dqn"
    """dqn, rainbow, der, or module:Class of an own one."""
    config: str | None = field(default=None, metadata={"metavar": "PRESET|FILE"})
    """Preset or YAML file of the agent, for all arms; their flags override it."""
    arm: tuple[str, ...] = field(default=(), metadata={"metavar": 'NAME:"FLAGS"'})
    """name:"flags", repeated for each arm; flags of the agent's command. None: one arm, the agent as it is."""
    seeds: int = 5
    """Runs of each arm on each game, with the seeds 0, 1, ..."""
    root: str | None = None
    """Folder for manifest.json and a run directory ARM-GAME-sSEED for each run; none: run/SUITE. A list of
    games that is to grow needs a name of its own here."""
    processes: int | None = None
    """Runs side by side; none: one a core."""
    device: str = "cpu"
    """cpu, cuda (every GPU that is visible), cuda:1 ..."""
    per_gpu: int | None = None
    """Runs side by side on a GPU; none: as many as its free memory holds by an estimate, which is said."""
    retries: int = 2
    """How often a run that fails is tried again."""
    launcher: Literal["local", "ray"] = "local"
    """local: processes of this machine; ray: tasks of a Ray cluster, whose nodes all see --root (docs/cluster.md)."""
    ray_address: str | None = None
    """auto, ray://HOST:10001 ...; none: RAY_ADDRESS, or else a cluster of this machine alone is started."""
    cpus_per_run: float = 1.0
    """Ray: CPUs set apart for each run."""
    gpus_per_run: float | None = None
    """Ray: GPUs set apart for each run, 0.25 for four on one; none: 1 with --device cuda, else 0."""
    dry_run: bool = False
    """Say how many runs there are, what they cost, and what is done; run nothing and write nothing in --root."""
    calibrate: bool = False
    """--dry-run: measure the cost now, by 200 updates of each arm in a temporary folder; without it the last
    measurement of this processor with such settings holds, kept in ~/.cache/rewarm."""
    all_commands: bool = False
    """--dry-run: print the command of every run, not the first alone."""
    status: str | None = None
    """A sweep's folder: say how far it is, from any terminal, and do nothing else."""

    def checked(self) -> Self:
        """These settings; a number out of its range raises ConfigError."""
        least = {"seeds": 1, "processes": 1, "per_gpu": 1, "retries": 0, "cpus_per_run": 0.01, "gpus_per_run": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and not value >= low:
                raise ConfigError(f"--{name.replace('_', '-')} is {value}: it has to be at least {low}")
        for name in ("calibrate", "all_commands"):
            if getattr(self, name) and not self.dry_run:
                raise ConfigError(f"--{name.replace('_', '-')} is for --dry-run")
        if self.per_gpu is not None and self.device == "cpu":
            raise ConfigError("--per-gpu is for --device cuda")
        if self.launcher == "ray":
            self._check_ray()
        elif (self.ray_address, self.cpus_per_run, self.gpus_per_run) != (None, 1.0, None):
            raise ConfigError("--ray-address, --cpus-per-run and --gpus-per-run are for --launcher ray")
        return self

    def _check_ray(self) -> None:
        check_installed()
        if self.per_gpu is not None:
            raise ConfigError("--per-gpu is for --launcher local; --gpus-per-run 0.25 puts four runs on each GPU")
        if self.device not in ("cpu", "cuda"):
            raise ConfigError(f"--device {self.device}: with --launcher ray it is cpu or cuda, and Ray says which GPU")
        if (self.device == "cuda") != (self.gpus > 0):
            raise ConfigError(f"--device {self.device} with --gpus-per-run {self.gpus:g}: a GPU is for --device cuda")

    @property
    def gpus(self) -> float:
        """GPUs that Ray sets apart for each run."""
        return float(self.device == "cuda") if self.gpus_per_run is None else self.gpus_per_run


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
        """The full path of --root."""
        suite = self.settings.suite
        name = suite if suite in SUITES else "-".join(map(file_name, games(suite)))[:100]
        root = Path(self.settings.root or Path("run") / name)
        return Path(os.path.abspath(root))


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
