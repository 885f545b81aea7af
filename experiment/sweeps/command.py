"""The command of a sweep, the same for all kinds of runs: options, folder, plan, status and running."""

from __future__ import annotations

import fcntl
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from experiment.command_line import shell
from experiment.config import ConfigError, as_plain, exit_on_bad_input, load_yaml
from experiment.processor import available_cores
from experiment.setting import check_ranges, setting
from experiment.storage.run_dir import RunDir
from experiment.sweeps.calibration import cost
from experiment.sweeps.gpus import gpu_slots
from experiment.sweeps.manifest import NAME, Entry, Manifest
from experiment.sweeps.packing import Mode, Packing
from experiment.sweeps.ray import RayTasks, check_installed
from experiment.sweeps.records import without_recorded, write_records
from experiment.sweeps.status import SweepStatus
from experiment.sweeps.sweep import plan, sweep
from experiment.sweeps.view import SweepView, print_status
from experiment.sweeps.workload import RunKind
from experiment.values import counted


@dataclass(frozen=True)
class SweepSettings:
    """What to run, and where."""

    suite: str = setting("", "runs")
    """Which runs."""
    seeds: int | None = setting(None, "runs", at_least=1)
    """Seeds of each arm."""
    root: str | None = setting(None, "runs")
    """Folder of the runs."""
    have: str | None = setting(None, "runs")
    """CSV file of finished runs, as --record writes it: what it has is not run again."""
    processes: int | None = setting(None, "machine", at_least=1)
    """Processes side by side, one thread each; none: one a core."""
    device: str = setting("cpu", "machine")
    """cpu, cuda (every GPU that is visible), cuda:1 ..."""
    per_gpu: int | None = setting(None, "machine", at_least=1)
    """Runs side by side on a GPU; none: as many as fit its free memory by an estimate, which is printed."""
    retries: int = setting(2, "machine", at_least=0)
    """How often a run that fails is tried again."""
    launcher: Literal["local", "ray"] = setting("local", "machine")
    """local: processes of this machine; ray: tasks of a Ray cluster, whose nodes all see --root (docs/cluster.md)."""
    ray_address: str | None = setting(None, "machine")
    """auto, ray://HOST:10001 ...; none: RAY_ADDRESS, or a new cluster on this machine alone."""
    cpus_per_run: float = setting(1.0, "machine", at_least=0.01)
    """Ray: CPUs set apart for each run."""
    gpus_per_run: float | None = setting(None, "machine", at_least=0)
    """Ray: GPUs set apart for each run, 0.25 for four on one; none: 1 with --device cuda, else 0."""
    dry_run: bool = setting(False, "plan and status")
    """Print the number of runs, their cost and what is done. Runs nothing and writes nothing in --root."""
    calibrate: bool = setting(False, "plan and status")
    """--dry-run: measure the cost now, by 200 updates of each arm in a temporary folder. Otherwise the cost is the last
    measurement of such settings on this processor, kept in ~/.cache/rewarm."""
    all_commands: bool = setting(False, "plan and status")
    """--dry-run: print the command of every run instead of the first one only."""
    status: str | None = setting(None, "plan and status")
    """Folder of a sweep: print its progress, from any terminal, and do nothing else."""
    record: str | None = setting(None, "plan and status")
    """--status: also add the finished runs, with their scores and settings, to this CSV file."""

    def checked(self) -> Self:
        """Checks these settings: a value out of range, or one without effect, raises ConfigError."""
        check_ranges(self)
        for name in ("calibrate", "all_commands"):
            if getattr(self, name) and not self.dry_run:
                raise ConfigError(f"--{name.replace('_', '-')} is for --dry-run")
        if self.record is not None and self.status is None:
            raise ConfigError("--record is for --status")
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


class Sweep(ABC):
    """A sweep that is ready to start: the runs that were asked for. ConfigError for any mistake.

    Attributes:
        runs, jobs: the runs, and each by itself as a job; `packing` makes the jobs that are started.
    """

    kind: RunKind
    fleet: Mode = "off"

    def __init__(self, settings: SweepSettings, root: Path | str) -> None:
        self.settings, self.root = settings, Path(os.path.abspath(root))
        _check_folder(self.root)
        on_gpus = settings.device != "cpu" and settings.launcher == "local"
        self.device = "cuda" if on_gpus else settings.device  # a process sees its own GPU alone
        self.runs = self.entries()
        self.note = ""
        if settings.have is not None:
            every = len(self.runs)
            left = without_recorded(self.kind, self.runs, self.wanted, Path(settings.have))
            self.note = f"{every - len(left)} of {counted(every, 'run')} are in {settings.have}"
            self.runs = self._with_sources(left)
        self.jobs = [entry.job(self.root, self.resume_options()) for entry in self.runs]
        self.packing = Packing(self.kind, self.root, self.fleet, self.device)
        self.slots: list[dict[str, str]] | None = None
        if on_gpus and self.runs:
            workload = SweepStatus(self.kind, self.root, self.runs).workload
            need = max(workload(entry).bytes for entry in self.runs)
            slots, note = gpu_slots(settings.device, need, settings.per_gpu)
            self.note = "\n".join(filter(None, (self.note, note)))
            self.slots = slots[: settings.processes]

    def _with_sources(self, left: tuple[Entry, ...]) -> tuple[Entry, ...]:
        """The runs that are left, and those that one of them forks and whose checkpoint is not there."""
        waiting = {entry.name: entry.source.name for entry in self.runs if entry.source and not self._is_ready(entry)}
        names = {entry.name for entry in left}
        while more := {waiting[name] for name in names & waiting.keys()} - names:
            names |= more
        if again := len(names) - len(left):
            self.note += f"; {counted(again, 'run')} of them made again, for a checkpoint to fork"
        return tuple(entry for entry in self.runs if entry.name in names)

    def _is_ready(self, entry: Entry) -> bool:
        return entry.job(self.root).is_ready()

    @abstractmethod
    def entries(self) -> tuple[Entry, ...]:
        """The runs, on `device`, with directories in `root`."""

    @abstractmethod
    def wanted(self, entry: Entry) -> Any | None:
        """The settings that this sweep would give to a run in the folder; None if the sweep does not have its arm."""

    def check_starts(self) -> None:
        """Raises ConfigError for what a run would refuse at its start. Of each arm the first run to do is tried."""
        arms: dict[str, Entry] = {}
        for entry, job in zip(self.runs, self.jobs, strict=True):
            if job.state() != "done":
                arms.setdefault(entry.arm, entry)
        for arm, entry in arms.items():
            try:
                self.kind.check_start(entry, here=self.settings.launcher == "local")
            except ConfigError as error:
                raise ConfigError(f"arm {arm!r}: {error}") from None

    def resume_options(self) -> tuple[str, ...]:
        """Options of every run that may change when it is resumed."""
        return ()

    def prepare(self) -> None:  # noqa: B027 (most have nothing to do)
        """Called once, before the first run. Raises ConfigError if nothing can be run."""

    @property
    def processes(self) -> int:
        """Runs that go side by side."""
        return len(self.slots) if self.slots is not None else self.settings.processes or available_cores()

    def manifest(self) -> Manifest:
        """The folder's list with these runs in it; ConfigError if runs of an arm's name have other settings."""
        known = Manifest.load(self.root) if (self.root / NAME).exists() else None
        there = set(os.listdir(self.root)) if self.root.is_dir() else set()
        compared: set[tuple[str, str, str]] = set()
        for entry in known.runs if known else self.runs:
            key = (entry.arm, entry.task, entry.config_hash if known else entry.name)
            if key in compared or not (known or entry.name in there) or (wanted := self.wanted(entry)) is None:
                continue
            compared.add(key)
            if known is None or self.kind.config_hash(wanted) != entry.config_hash:
                self._compare(entry, wanted)  # equal ones were hashed by a version with other settings
        if known is None:
            return Manifest(self.settings.suite, self.runs)
        runs = {entry.name: entry for entry in (*known.runs, *self.runs)}
        suites = known.suite.split(",") + self.settings.suite.split(",")
        return Manifest(",".join(dict.fromkeys(suites)), tuple(runs.values()))

    def _compare(self, entry: Entry, wanted: Any) -> None:
        """Raises ConfigError with the first setting in which an existing run differs from its arm."""
        stored = RunDir(self.root / entry.name).config
        there = load_yaml(self.kind.config_class, stored).resolved() if stored.is_file() else self.kind.settings(entry)
        if found := self.kind.difference(as_plain(there), as_plain(wanted)):
            where = f"arm {entry.arm!r} has other settings in {self.root}, {found}"
            raise ConfigError(f"{where}: give the arm another name, or the sweep another --root")

    def _check_devices(self) -> None:
        """Raises ConfigError if a run would be resumed on another device: `--resume` keeps its first device."""
        for each in self.jobs:
            if each.state() == "interrupted" and not each.is_running():
                began = load_yaml(self.kind.config_class, RunDir(each.directory).config).device
                if began != self.device:
                    raise ConfigError(
                        f"--device {self.settings.device}: {each.directory} was interrupted and can only be resumed on "
                        f"{began}, where it began: finish with --device {began}, or move it away"
                    )

    def _open_runs(self) -> list[Entry]:
        return [entry for entry, job in zip(self.runs, self.jobs, strict=True) if job.state() != "done"]

    def dry_run(self) -> None:
        """Print the number of runs, the cost of the unfinished ones, and the state of each."""
        self.manifest()
        self._check_devices()
        first, *lines = plan(self.jobs, self.settings.all_commands).splitlines()
        print(first)
        if self.note:
            print(self.note)
        if open_runs := self._open_runs():
            unknown = self.settings.launcher == "ray" and not self.settings.processes
            processes = None if unknown else self.processes
            slot = self.slots[0] if self.slots else {}
            for line in cost(self.packing, open_runs, processes, slot, self.settings.calibrate):
                print(line, flush=True)
            for line in self.packing.lines(open_runs):
                print(line)
            jobs = self.packing.jobs(self.runs, processes, self.resume_options())
            _, *lines = plan(jobs, self.settings.all_commands).splitlines()
        for line in lines:
            print(line)

    def run(self) -> int:
        """Run what is not done; the exit code."""
        given = self.settings
        if given.launcher == "local":
            return self._run(None, self.processes)
        with exit_on_bad_input():
            tasks = RayTasks(self.root, given.ray_address, given.cpus_per_run, given.gpus, given.processes)
        with tasks:
            self.note = "\n".join(filter(None, (self.note, tasks.warning)))
            return self._run(tasks, tasks.capacity)

    def _run(self, executor: RayTasks | None, processes: int) -> int:
        from rich.console import Console

        console = Console()
        runs = counted(len(self.runs), "run")
        status = shell("python", "-m", self.kind.command, "--status", self.root)
        print(f"{runs} in {self.root}, {processes} at a time; from any terminal: {status}")
        for line in filter(None, (self.note, *self.packing.lines(self._open_runs(), fleets_only=True))):
            print(line)
        outcome = sweep(
            self.packing.jobs(self.runs, processes, self.resume_options()),
            self.settings.processes,
            retries=self.settings.retries,
            console=console,
            view=SweepView(SweepStatus(self.kind, self.root, self.runs), processes, console),
            slots=self.slots,
            executor=executor,
        )
        if outcome.exit_code == 0:
            print(f"done, {runs}: {shell('python', '-m', *self.kind.report.split(), self.root)}")
        return outcome.exit_code

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


def _check_folder(folder: Path) -> None:
    """Raises ConfigError unless runs can be kept there."""
    there = next(part for part in (folder, *folder.parents) if os.path.lexists(part))
    if not there.is_dir():
        raise ConfigError(f"--root: {str(there)!r} is a file, where a folder is wanted")
    if not os.access(there, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigError(f"--root: {str(there)!r} cannot be read and written")


def carry_out(settings: SweepSettings, kind: RunKind, make: Callable[[], Sweep]) -> int:
    """Print the status, or make the sweep and plan or run it; returns the exit code.

    Bad input ends in one line and code 2, and writes nothing.
    """
    with exit_on_bad_input():
        if settings.status is not None:
            from rich.console import Console

            root = Path(settings.status)
            runs = Manifest.load(root).runs
            print_status(SweepStatus(kind, root, runs), Console())
            if settings.record is not None:
                print(f"{settings.record} has {counted(write_records(kind, root, runs, Path(settings.record)), 'run')}")
            return 0
        ready = make()
        if not ready.runs:
            print(f"nothing to do: {ready.note}")
            return 0
        ready.check_starts()
        if settings.dry_run:
            ready.dry_run()
            return 0
        ready.prepare()
        ready.write_manifest()
    return ready.run()
