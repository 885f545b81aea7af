"""Runs many games and seeds of one or several arms, each a run directory: `python -m benchmarks.atari`.

What is finished is never run again, what was interrupted goes on, and what failed is retried and named at the end.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from rich.console import Console

from agents.config import DQNConfig
from benchmarks.calibration import cost
from benchmarks.manifest import NAME, Entry, Manifest
from benchmarks.places import places
from benchmarks.ray_launcher import RayTasks, check_installed
from benchmarks.status import Board, SweepView, print_status
from benchmarks.suites import SUITES, arms, config_hash, difference, entries, games, job, settings_of
from experiment.command_line import shell
from experiment.config import ConfigError, exit_on_bad_input, load_yaml, parse_cli
from experiment.cores import available_cores
from experiment.interrupt import terminal_manners
from experiment.run_dir import RunDir
from experiment.sweep import plan, sweep

DESCRIPTION = f"""Train an agent on many games with several seeds, a process per core. The same command goes on where
it stopped.

Suites: {", ".join(SUITES)}. An arm is a name and flags of the agent, which override its preset; every arm plays every
game with every seed. Options of all runs stand after --:

python -m benchmarks.atari --suite Pong,Qbert --agent der --arm nap:"--nap --utd 2" --arm plain:"" -- --steps 50000"""


@dataclass(frozen=True)
class Settings:
    """What to run, and where."""

    suite: str = "atari100k"
    """atari100k (26 games), high-utd-20, atari57, or games with commas between: Pong,Breakout."""
    agent: str = "dqn"
    """dqn, rainbow, der, or module:Class of an own one."""
    arm: tuple[str, ...] = ()
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
    calibration: bool = True
    """--dry-run: foretell the cost from 200 updates of each arm, trained now in a temporary folder."""
    status: str | None = None
    """A sweep's folder: say how far it is, from any terminal, and do nothing else."""

    def checked(self) -> Self:
        """These settings; a number out of its range raises ConfigError."""
        least = {"seeds": 1, "processes": 1, "per_gpu": 1, "retries": 0, "cpus_per_run": 0.01, "gpus_per_run": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and not value >= low:
                raise ConfigError(f"--{name.replace('_', '-')} is {value}: it has to be at least {low}")
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
        rest, taken = _take(words[:end], "--arm", "--config")
        if len(taken["--config"]) > 1:
            raise ConfigError("--config is given twice; an arm has its own in its flags")
        settings = parse_cli(kind, rest, prog=prog, description=description, presets={}).checked()
        preset = next(iter(taken["--config"]), None)
        return cls(settings, tuple(taken["--arm"]), preset, tuple(words[end + 1 :]))

    def folder(self) -> Path:
        """The full path of --root."""
        suite = self.settings.suite
        name = suite if suite in SUITES else "-".join(games(suite)).replace("/", "_")[:100]
        root = Path(self.settings.root or Path("run") / name)
        return Path(os.path.abspath(root))


def _take(words: Sequence[str], *options: str) -> tuple[list[str], dict[str, list[str]]]:
    """The other words, and the values of options whose value may look like an option itself."""
    rest: list[str] = []
    taken: dict[str, list[str]] = {option: [] for option in options}
    left = iter(words)
    for word in left:
        option, equals, value = word.partition("=")
        if option not in taken:
            rest.append(word)
            continue
        if not equals and (value := next(left, "")) == "":
            raise ConfigError(f"{option} needs a value")
        taken[option].append(value)
    return rest, taken


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
        first, *lines = plan(self.jobs).splitlines()
        print(first)
        if self.note:
            print(self.note)
        open_runs = [entry for entry, job in zip(self.runs, self.jobs, strict=True) if job.state() != "done"]
        if self.settings.calibration and open_runs:
            unknown = self.settings.launcher == "ray" and not self.settings.processes
            place = self.places[0] if self.places else {}
            for line in cost(open_runs, None if unknown else self.processes, place):
                print(line, flush=True)
        print("\n".join(lines))

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
        print(f"{len(self.runs)} runs in {self.root}, {processes} at a time; from any terminal: {self._status()}")
        if self.note:
            print(self.note)
        outcome = sweep(
            self.jobs,
            self.settings.processes,
            retries=self.settings.retries,
            console=console,
            view=SweepView(Board(self.root, self.runs), processes, console),
            places=self.places,
            executor=executor,
        )
        if outcome.exit_code == 0:
            print(f"all {len(self.runs)} runs are done: {shell('python', '-m', 'benchmarks.report', self.root)}")
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


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, check, and run or tell; the exit code. Bad input ends in one line and code 2, and writes nothing."""
    return carry_out(lambda: Command.parse(argv))


def carry_out(parse: Callable[[], Command]) -> int:
    """What `main` does, for a command that `parse` gives."""
    with terminal_manners():
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
    print_status(Board(root, Manifest.load(root).runs), Console())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
