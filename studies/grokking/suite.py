"""Runs one of the study's experiments: `python -m studies.grokking.suite rewarm`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from experiment.config import ConfigError, exit_on_bad_input, load_yaml, near, parse_cli
from experiment.sweep import Job, plan, sweep
from studies.grokking.__main__ import settings
from studies.grokking.config import GrokkingConfig
from studies.grokking.suites import SUITES, Arm


@dataclass(frozen=True)
class SuiteConfig:
    """What to run."""

    suite: str = field(default="", metadata={"positional": True, "metavar": "NAME"})
    """rewarm, controls, figure2, baselines, norm-or-elr, norm-or-elr-invariant, mlp or batch."""
    processes: int | None = None
    """Runs side by side, one thread each; none: one a core."""
    root: str = "run/grokking"
    """Folder of the suites; each makes a folder of its run directories in it."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of every run."""
    compile: bool = False
    """Compile the loss in every run."""
    log_interval: int = 200
    """Updates between rows of every run; a row costs as much as 20 updates."""
    plan: bool = False
    """Say what would be run, and run nothing."""


def jobs(config: SuiteConfig) -> list[Job]:
    """The runs of a suite. Raises ConfigError for an unknown one."""
    if config.suite not in SUITES:
        raise ConfigError(
            f"no suite is named {config.suite!r}; it has to be one of {', '.join(SUITES)}{near(config.suite, SUITES)}"
        )
    folder = Path(config.root) / config.suite
    return [_job(arm, folder, config) for arm in SUITES[config.suite]()]


def _job(arm: Arm, folder: Path, config: SuiteConfig) -> Job:
    program = (sys.executable, "-m", "studies.grokking")
    common = ["--precision", config.precision, "--log-interval", str(config.log_interval)]
    common += ["--compile"] if config.compile else []
    where = ["--root", str(folder), "--name", arm.name]
    directory, words = folder / arm.name, (*arm.options(), *common, *where)
    _check_settings(directory, settings(words))
    return Job(arm.name, (*program, *words), directory, resume=(*program, "--resume", str(directory)))


def _check_settings(directory: Path, wanted: GrokkingConfig) -> None:
    """Raises ConfigError if a run of this name is there with other settings: it would pass for the wanted one."""
    path = directory / "config.yaml"
    if not path.is_file():
        return
    stored = load_yaml(GrokkingConfig, path)
    wanted = replace(wanted, name=stored.name, root=stored.root)
    for name, value in vars(wanted).items():
        if (there := getattr(stored, name)) != value:
            option = name.replace("_", "-")
            raise ConfigError(f"run {str(directory)!r} has --{option} {there}, this suite {value}: use another --root")


def main(argv: Sequence[str] | None = None) -> int:
    with exit_on_bad_input():
        config = parse_cli(
            SuiteConfig,
            argv,
            prog="python -m studies.grokking.suite",
            description="Run one experiment of the grokking study; what is finished is not run again.",
            presets={},
        )
        if config.processes is not None and config.processes < 1:
            raise ConfigError(f"--processes is {config.processes}: it has to be at least 1")
        planned = jobs(config)
        if config.plan:
            print(plan(planned))
            return 0
    outcome = sweep(planned, config.processes)
    if not outcome.failed and not outcome.left:
        print(f"figures: python -m studies.grokking.figures {Path(config.root) / config.suite}")
    return outcome.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
