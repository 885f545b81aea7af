"""Runs many games and seeds of one or several arms, each a run directory: `python -m benchmarks.atari`.

What is finished is never run again, what was interrupted goes on, and what failed is retried and named at the end.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from rich.console import Console

from agents.config import DQNConfig
from benchmarks.sweep.calibration import cost
from benchmarks.sweep.command import Command
from benchmarks.sweep.manifest import NAME, Entry, Manifest
from benchmarks.sweep.places import places
from benchmarks.sweep.ray_launcher import RayTasks
from benchmarks.sweep.status import SweepStatus, SweepView, print_status
from benchmarks.sweep.suites import arms, config_hash, difference, entries, games, job, settings_of
from experiment.command_line import shell
from experiment.config import ConfigError, exit_on_bad_input, load_yaml
from experiment.interrupt import cli_session
from experiment.processor import available_cores
from experiment.storage.run_dir import RunDir
from experiment.sweeps.sweep import plan, sweep
from experiment.values import counted


class Sweep:
    """A sweep that is ready to start: the runs that were asked for. ConfigError for any mistake."""

    def __init__(self, command: Command):
        self.settings, self.root = command.settings, command.folder()
        _check_folder(self.root)
        self.arms = {arm.name: arm for arm in arms(self.settings.agent, command.preset, command.arms, command.common)}
        played = games(self.settings.suite)
        device, self.places, self.note = self.settings.device, None, ""
        if device != "cpu" and self.settings.launcher == "local":
            configs = [arm.config(played[0], device=device) for arm in self.arms.values()]
            self.places, self.note = places(device, configs, self.settings.per_gpu)
            self.places, device = self.places[: self.settings.processes], "cuda"
        self.device = device
        self.runs = entries(self.arms.values(), played, self.settings.seeds, self.root, device)
        self.jobs = [job(entry, self.root) for entry in self.runs]

    @property
    def processes(self) -> int:
        """Runs that go side by side."""
        if self.places is not None:
            return len(self.places)
        return self.settings.processes or available_cores()

    def manifest(self) -> Manifest:
        """The folder's list with these runs in it; ConfigError if runs of an arm's name have other settings."""
        if not (self.root / NAME).exists():
            there = _names(self.root)
            for entry in self.runs:
                if entry.name in there and RunDir(self.root / entry.name).config.is_file():
                    self._compare(entry)
            return Manifest(self.settings.suite, self.runs)
        known = Manifest.load(self.root)
        hashes: dict[tuple[str, str], str] = {}
        for entry in known.runs:
            if entry.arm in self.arms:
                key = (entry.arm, entry.game)
                if key not in hashes:
                    hashes[key] = config_hash(self.arms[entry.arm].config(entry.game))
                if hashes[key] != entry.config_hash:
                    self._compare(entry)  # equal ones were hashed by a version with other settings
        runs = {entry.name: entry for entry in known.runs} | {entry.name: entry for entry in self.runs}
        suites = known.suite.split(",") + self.settings.suite.split(",")
        return Manifest(",".join(dict.fromkeys(suites)), tuple(runs.values()))

    def _compare(self, entry: Entry) -> None:
        """Raises ConfigError with the first setting in which a run that is there differs from its arm."""
        stored = RunDir(self.root / entry.name).config
        there = load_yaml(DQNConfig, stored).resolved() if stored.is_file() else settings_of(entry)
        if found := difference(there, self.arms[entry.arm].config(entry.game)):
            raise ConfigError(
                f"arm {entry.arm!r} has other settings in {self.root}, {found}: give the arm another name, or the "
                "sweep another --root"
            )

    def _check_devices(self) -> None:
        """Raises ConfigError if a run would go on on another device: `--resume` keeps that on which it began."""
        for each in self.jobs:
            if each.state() == "interrupted" and not each.is_running():
                began = load_yaml(DQNConfig, RunDir(each.directory).config).device
                if began != self.device:
                    raise ConfigError(
                        f"--device {self.settings.device}: {each.directory} was interrupted and can only go on on "
                        f"{began}, where it began: finish with --device {began}, or move it away"
                    )

    def dry_run(self) -> None:
        """Print the number of runs, what those that are not done cost, and the state of each."""
        self.manifest()
        self._check_devices()
        first, *lines = plan(self.jobs, self.settings.all_commands).splitlines()
        print(first)
        if self.note:
            print(self.note)
        open_runs = [entry for entry, job in zip(self.runs, self.jobs, strict=True) if job.state() != "done"]
        if open_runs:
            unknown = self.settings.launcher == "ray" and not self.settings.processes
            place = self.places[0] if self.places else {}
            processes = None if unknown else self.processes
            for line in cost(open_runs, processes, place, self.device, self.settings.calibrate):
                print(line, flush=True)
        for line in lines:
            print(line)

    def run(self) -> int:
        """Run what is not done; the exit code."""
        with exit_on_bad_input():
            cluster = self._cluster()
        with cluster as executor:
            return self._run(executor)

    def _cluster(self) -> AbstractContextManager[RayTasks | None]:
        if self.settings.launcher == "local":
            return nullcontext()
        settings = self.settings
        tasks = RayTasks(self.root, settings.ray_address, settings.cpus_per_run, settings.gpus, settings.processes)
        self.note = tasks.warning
        return tasks

    def _run(self, executor: RayTasks | None) -> int:
        console, processes = Console(), self.processes if executor is None else executor.capacity
        runs = counted(len(self.runs), "run")
        print(f"{runs} in {self.root}, {processes} at a time; from any terminal: {self._status()}")
        if self.note:
            print(self.note)
        outcome = sweep(
            self.jobs,
            self.settings.processes,
            retries=self.settings.retries,
            console=console,
            view=SweepView(SweepStatus(self.root, self.runs), processes, console),
            places=self.places,
            executor=executor,
        )
        if outcome.exit_code == 0:
            print(f"done, {runs}: {shell('python', '-m', 'benchmarks.report', self.root)}")
        return outcome.exit_code

    def _status(self) -> str:
        return shell("python", "-m", "benchmarks.atari", "--status", self.root)

    def write_manifest(self) -> None:
        """Put these runs into the folder's list; sweeps that start at the same time wait for one another."""
        self.manifest()
        self._check_devices()
        self.root.mkdir(parents=True, exist_ok=True)
        folder = os.open(self.root, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            self.manifest().save(self.root)
        finally:
            os.close(folder)


def _names(folder: Path) -> set[str]:
    return set(os.listdir(folder)) if folder.is_dir() else set()


def _check_folder(folder: Path) -> None:
    """Raises ConfigError unless runs can be kept there."""
    there = next(part for part in (folder, *folder.parents) if os.path.lexists(part))
    if not there.is_dir():
        raise ConfigError(f"--root: {str(there)!r} is a file, where a folder is wanted")
    if not os.access(there, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigError(f"--root: {str(there)!r} cannot be read and written")


@cli_session()
def main(argv: Sequence[str] | None = None) -> int:
    """Parse, check, and run or tell; the exit code. Bad input ends in one line and code 2, and writes nothing."""
    return carry_out(lambda: Command.parse(argv))


def carry_out(parse: Callable[[], Command]) -> int:
    """What `main` does, for a command that `parse` gives."""
    with exit_on_bad_input():
        command = parse()
        if command.settings.status is not None:
            return _print_status(Path(command.settings.status))
        ready = Sweep(command)
        if command.settings.dry_run:
            ready.dry_run()
            return 0
        ready.write_manifest()
    return ready.run()


def _print_status(root: Path) -> int:
    print_status(SweepStatus(root, Manifest.load(root).runs), Console())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
