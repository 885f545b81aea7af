"""Runs one of a study's experiments, a named list of arms; what is finished is not run again."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from experiment.command_line import shell
from experiment.config import ConfigError, exit_on_bad_input, load_yaml, parse_cli, suggest
from experiment.interrupt import cli_session
from experiment.setting import learning
from experiment.sweeps.job import Job
from experiment.sweeps.sweep import plan, sweep
from studies.arms import Arm


@dataclass(frozen=True)
class SuiteConfig:
    """What to run."""

    suite: str = field(default="", metadata={"positional": True, "metavar": "NAME"})
    """The experiment."""
    seeds: int | None = None
    """Of the experiment's seeds so many, from the first on; none: all."""
    processes: int | None = None
    """Runs side by side, one thread each; none: one a core."""
    root: str = "run"
    """Folder of the suites; each makes a folder of its run directories in it."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of every run."""
    compile: bool = False
    """Compile the loss in every run."""
    device: str = "cpu"
    """Device of every run: cpu, cuda, cuda:1, ..."""
    log_interval: int = 200
    """Updates between rows of every run."""
    plan: bool = False
    """Say what would be run, and run nothing."""
    all_commands: bool = False
    """--plan: print the command of every run, not the first alone."""


@dataclass(frozen=True)
class Study:
    """A study with its experiments.

    program: the module that makes a run, "studies.grokking". settings: the settings of its command line.
    suites: lists of arms by name. defaults: those of the suite command.
    """

    program: str
    settings: Callable[[Sequence[str] | None], Any]
    suites: Mapping[str, Callable[[], list[Arm]]]
    defaults: SuiteConfig

    def jobs(self, config: SuiteConfig) -> list[Job]:
        """The runs of a suite. Raises ConfigError for an unknown one, too many seeds, and a folder that is a file."""
        name = config.suite
        if name not in self.suites:
            known = ", ".join(self.suites)
            raise ConfigError(f"no suite is named {name!r}; it has to be one of {known}{suggest(name, self.suites)}")
        folder = Path(config.root) / name
        _check_folder(folder)
        arms = self.suites[name]()
        seeds = sorted({arm.settings["seed"] for arm in arms})
        if config.seeds is not None and config.seeds > len(seeds):
            raise ConfigError(f"--seeds is {config.seeds}, but suite {name} has {len(seeds)}")
        return [self._job(arm, folder, config) for arm in arms if arm.settings["seed"] in seeds[: config.seeds]]

    def _job(self, arm: Arm, folder: Path, config: SuiteConfig) -> Job:
        program = (sys.executable, "-m", self.program)
        common = ["--precision", config.precision, "--log-interval", str(config.log_interval)]
        common += ["--device", config.device, "--threads", "1", *(["--compile"] if config.compile else [])]
        where = ["--root", str(folder), "--name", arm.name]
        directory, place = folder / arm.name, self.place(config)
        words = (*arm.options(), *common, *place, *where)
        _check_settings(directory, self.settings(words))
        return Job(arm.name, (*program, *words), directory, resume=(*program, "--resume", str(directory), *place))

    def place(self, config: SuiteConfig) -> list[str]:
        """Options of every run that may change when it is resumed."""
        return []

    def prepare(self, config: SuiteConfig) -> None:
        """What is done once, before the first run. Raises ConfigError if nothing can be run."""

    @cli_session()
    def main(self, argv: Sequence[str] | None = None) -> int:
        """The suite command; the exit code."""
        with exit_on_bad_input():
            config = self._parse(argv)
            planned = self.jobs(config)
            if config.plan:
                print(plan(planned, config.all_commands))
                return 0
            self.prepare(config)
        outcome = sweep(planned, config.processes)
        if not outcome.failed and not outcome.left:
            print("figures:", shell("python", "-m", f"{self.program}.figures", Path(config.root) / config.suite))
        return outcome.exit_code

    def _parse(self, argv: Sequence[str] | None) -> SuiteConfig:
        config = parse_cli(
            type(self.defaults),
            argv,
            prog=f"python -m {self.program}.suite",
            description=f"Run one experiment; what is finished is not run again. NAME: {', '.join(self.suites)}.",
            presets={},
            base=self.defaults,
        )
        for option in ("seeds", "processes"):
            value = getattr(config, option)
            if value is not None and value < 1:
                raise ConfigError(f"--{option} is {value}: it has to be at least 1")
        return config


def _check_folder(folder: Path) -> None:
    for part in (folder, *folder.parents):
        if part.exists():
            if not part.is_dir():
                raise ConfigError(f"--root: {str(part)!r} is a file, where a folder is wanted")
            return


def _check_settings(directory: Path, wanted: Any) -> None:
    """Raises ConfigError if a run of this name is there with other settings: it would pass for the wanted one."""
    path = directory / "config.yaml"
    if not path.is_file():
        return
    stored = load_yaml(type(wanted), path)
    for name, value in learning(wanted).items():
        if (there := getattr(stored, name)) != value:
            option = name.replace("_", "-")
            raise ConfigError(f"run {str(directory)!r} has --{option} {there}, this suite {value}: use another --root")
