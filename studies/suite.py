"""The suites of a study as sweeps: each is a named list of arms, and its runs are those of the study's command."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from experiment.config import ConfigError, exit_on_bad_input, parse_cli, suggest
from experiment.fork_settings import Planned
from experiment.interrupt import cli_session
from experiment.setting import setting
from experiment.sweeps.command import Sweep, SweepSettings, carry_out
from experiment.sweeps.gpus import FIXED
from experiment.sweeps.manifest import Entry
from experiment.sweeps.workload import Config, RunKind, Workload
from studies.arms import Arm


@dataclass(frozen=True)
class SuiteSettings(SweepSettings):
    """What to run, and where."""

    suite: str = setting("", "runs", positional=True, metavar="NAME")
    """The suite."""
    seeds: int | None = setting(None, "runs", at_least=1)
    """Number of the suite's seeds, from the first on; none: all."""
    root: str = setting("run", "runs")
    """Folder of the suites; each makes a folder in it for manifest.json and its run directories."""
    precision: Literal["fp32", "bf16"] = setting("fp32", "runs")
    """Precision of every run."""
    compile: bool = setting(False, "runs")
    """Compile the loss in every run."""
    log_interval: int = setting(200, "runs", at_least=1)
    """Updates between rows of every run."""


class StudyRuns(RunKind[Config]):
    """Runs of a study.

    Attributes:
        program: the module that makes a run, "studies.grokking".
        suites: lists of arms by name.
        task: the setting that names the task.
    """

    program: ClassVar[str]
    suites: ClassVar[Mapping[str, Callable[[], list[Arm]]]]
    task: ClassVar[str]
    step, metric, score, scale = "update", "test_accuracy", "test accuracy", "test accuracy"

    @staticmethod
    @abstractmethod
    def parse(argv: Sequence[str] | None, planned: Planned | None = None) -> Any:
        """The resolved settings of the study's command line; `planned` as in `fork_settings`."""

    @abstractmethod
    def length(self, config: Config, updates: int) -> list[str]:
        """Options that make a run so many updates long."""

    def settings(self, entry: Entry) -> Config:
        if entry.command[2:3] != (self.program,):
            raise ConfigError(f"run {entry.name!r} is none of {self.program}: its command is {' '.join(entry.command)}")
        planned = None
        if entry.source is not None and entry.fork_step is not None:
            planned = Planned(self.settings(entry.source), entry.fork_step)
        return self.parse(entry.command[3:], planned)

    def check_start(self, entry: Entry, here: bool) -> None:
        super().check_start(entry, here)
        if here and (config := self.settings(entry)).compile:
            from experiment.compiler import check_compiler  # with torch

            check_compiler(config.device)

    def workload(self, config: Config) -> Workload:
        return Workload(config.budget, bytes=FIXED)

    def outcome(self, result: Mapping[str, Any]) -> tuple[float, int, float]:
        seconds = result["seconds"]["training"] + result["seconds"]["measuring"]
        return float(result["final_test_accuracy"]), int(result["updates"]), float(seconds)

    def short(self, config: Config, updates: int) -> list[str]:
        rows = ["--log-interval", str(updates // 4), "--checkpoint-interval", "0", "--no-figure"]
        return [*self.length(config, updates), *rows]

    def rank(self, entry: Entry, score: float) -> float:
        return score


class StudySweep(Sweep):
    """The sweep of a suite. Raises ConfigError for an unknown one, and for more seeds than it has."""

    kind: StudyRuns
    settings: SuiteSettings

    def __init__(self, settings: SuiteSettings) -> None:
        name, suites = settings.suite, self.kind.suites
        if name not in suites:
            known = ", ".join(suites)
            raise ConfigError(f"no suite is named {name!r}; it has to be one of {known}{suggest(name, suites)}")
        arms = suites[name]()
        seeds = sorted({arm.seed for arm in arms})
        if settings.seeds is not None and settings.seeds > len(seeds):
            raise ConfigError(f"--seeds is {settings.seeds}, but suite {name} has {len(seeds)}")
        self.arms = [arm for arm in arms if arm.seed in seeds[: settings.seeds]]
        self.configs: dict[str, Any] = {}
        super().__init__(settings, Path(settings.root) / name)

    def entries(self) -> tuple[Entry, ...]:
        found: dict[str, Entry] = {}
        for arm in self.arms:
            found[arm.name] = self._entry(arm, found[arm.trunk.name] if arm.trunk else None)
        return tuple(found.values())

    def _entry(self, arm: Arm, source: Entry | None) -> Entry:
        where = ["--root", str(self.root), "--name", arm.name]
        if source is None:
            argv, step = [*arm.options(), *self._common(), *self._saved(arm), *where], None
            config = self.kind.parse(argv)
        else:
            step = arm.step
            argv = [*arm.options(), "--fork", f"{self.root / source.name}@{step}", *self.resume_options(), *where]
            config = self.kind.parse(argv, Planned(self.configs[source.name], step))
        self.configs[arm.name] = config
        name, task = arm.name.removesuffix(f"-s{config.seed}"), getattr(config, self.kind.task)
        command = (sys.executable, "-m", self.kind.program, *argv)
        return Entry(arm.name, name, task, config.seed, self.kind.config_hash(config), command, source, step)

    def _common(self) -> list[str]:
        """The settings of every run that is no fork."""
        given = self.settings
        common = ["--precision", given.precision, "--log-interval", str(given.log_interval), "--device", self.device]
        return [*common, "--threads", "1", *(["--compile"] if given.compile else []), *self.resume_options()]

    def _saved(self, arm: Arm) -> list[str]:
        """The option for the checkpoints that forks of this run begin at."""
        steps = sorted({other.step for other in self.arms if other.trunk == arm})
        return ["--checkpoint-at", ",".join(map(str, steps))] if steps else []

    def wanted(self, entry: Entry) -> Any | None:
        return self.configs.get(entry.name)


@cli_session()
def main(make: type[StudySweep], defaults: SuiteSettings, argv: Sequence[str] | None = None) -> int:
    """The suite command of a study; the exit code. `defaults` are those of its options."""
    kind = make.kind
    with exit_on_bad_input():
        settings = parse_cli(
            type(defaults),
            argv,
            prog=f"python -m {kind.command}",
            description=f"Run a suite; the same command goes on where it stopped. NAME: {', '.join(kind.suites)}.",
            base=defaults,
        ).checked()
    return carry_out(settings, kind, lambda: make(settings))
