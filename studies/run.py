"""One run of a study from settings to result: build or resume, train with a live view, save, draw."""

from __future__ import annotations

import dataclasses
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from torch import nn

from experiment.command_line import shell
from experiment.compiler import ADVICE, check_compiler, complaint, is_toolchain_failure
from experiment.config import ConfigError, as_plain
from experiment.determinism import configure, device_of, environment, parameter_hash
from experiment.guard import NonFinite, check_finite, is_out_of_memory
from experiment.interrupt import INTERRUPTED, Interrupt
from experiment.progress import Progress
from experiment.storage import checkpoint
from experiment.storage.run_dir import RunDir
from experiment.storage.tracking import Tracker, check_tracker
from experiment.terminal import children_outlive_interrupt
from studies.records import Row, read_rows

Config = TypeVar("Config", bound=Any)
"""A config dataclass with seed, threads, device, root, name, resume, track, log_interval, checkpoint_interval, budget,
figure, precision and compile; lengths are in updates."""


class Learner(Protocol):
    """What is trained."""

    updates: int

    @property
    def model(self) -> nn.Module: ...

    def prepare(self) -> None:
        """Compiles; nothing that a run consists of changes. Called only with --compile."""

    def update(self) -> None:
        """One update, counted in `updates`."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Monitor(Protocol):
    """What measures the learner, and changes nothing of it."""

    def row(self) -> Row:
        """All metrics by name, as plain numbers."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class StudyRun(ABC, Generic[Config]):
    """A run that is ready to train: whatever bad input could spoil has been tried by then.

    A study gives `program`, `default_name`, `build`, `headline`, `figures`, `outcome`, `sentence` and `draw`; `due` and
    `finished` if it measures or ends at other times.
    """

    program: ClassVar[str]
    """The module that is run, "studies.grokking"."""
    learner: Learner
    monitor: Monitor

    def __init__(self, config: Config) -> None:
        """Build every part, or load the run to go on with; ConfigError before anything is written."""
        check_tracker(config.track)
        directory = None if config.resume is None else RunDir.open(config.resume)
        saved = None if directory is None else checkpoint.load_for_resume(directory)
        self.config: Config = dataclasses.replace(config, resume=None)
        if directory is not None and saved is not None:
            checkpoint.check_settings(saved, self.config, directory.config)
        self.device = device_of(config.device)
        configure(config.threads, config.seed)
        self.build()
        self.seconds = {"training": 0.0, "measuring": 0.0, "compiling": 0.0}
        self.last: Row = {}
        self.rows = 0
        self.saved_at: int | None = None
        if saved is not None:
            self._restore(saved)
        if config.compile and not self.finished():
            check_compiler(self.device)
        self.directory = directory or self._create()
        self.tracker = Tracker(self.directory.metrics, config.track, config=as_plain(self.config))
        self.tracker.cut_to(saved.state["run"]["offset"] if saved is not None else 0)

    @staticmethod
    @abstractmethod
    def default_name(config: Any) -> str:
        """What tells the run from others, and the time."""

    @abstractmethod
    def build(self) -> None:
        """Sets `learner` and `monitor` from `config`, on `device`. Raises ConfigError."""

    @abstractmethod
    def headline(self) -> str:
        """What is trained on what, in a few lines."""

    @abstractmethod
    def figures(self) -> dict[str, str]:
        """The figures of the live line, from `last`, the last row."""

    @abstractmethod
    def outcome(self, rows: list[Row]) -> dict[str, Any]:
        """What the rows come to, for result.json."""

    @abstractmethod
    def sentence(self, found: dict[str, Any]) -> str:
        """The outcome in one line."""

    @abstractmethod
    def draw(self) -> Path:
        """Draws the run into its directory. Raises ConfigError if it cannot."""

    def finished(self) -> bool:
        """Whether the run has come to its end."""
        return self.learner.updates >= self.config.budget

    def due(self, updates: int) -> bool:
        """Whether a row is measured after so many updates, of which it is asked once each, before the next begins."""
        return updates % self.config.log_interval == 0 or self.finished()

    def train(self) -> int:
        """Train to the end, save, draw; the exit code."""
        try:
            return self._train()
        except NonFinite as error:
            reason = self._diverged(str(error))
        except (MemoryError, RuntimeError) as error:
            if is_out_of_memory(error):
                reason = self._out_of_memory()
            elif is_toolchain_failure(error):
                reason = f"the loss cannot be compiled: {complaint(error)}; {ADVICE}"
            else:
                raise
        self.tracker.close()
        print(f"error: {reason}", file=sys.stderr)
        return 1

    def _train(self) -> int:
        print(f"{self.headline()}\nrun directory: {self.directory.path}", flush=True)
        with Interrupt() as interrupt:
            self._train_until(interrupt)
            saved = self._save()
        self.tracker.close()
        if not self.finished():
            return self._stop(saved)
        return self._finish() if saved else self._end_unsaved()

    def ms_per_update(self) -> float:
        """Milliseconds of training per update so far."""
        return 1e3 * self.seconds["training"] / max(self.learner.updates, 1)

    def _create(self) -> RunDir:
        config = self.config
        name = self.default_name(config) if config.name is None else config.name
        stored = dataclasses.replace(config, name=None)
        room = checkpoint.tensor_bytes(self.learner.state_dict())
        return RunDir.create(config.root, name, stored, explicit=config.name is not None, room=room)

    def _restore(self, saved: checkpoint.Checkpoint) -> None:
        state = saved.state
        with checkpoint.checked_restore(saved):
            self.learner.load_state_dict(state["learner"])
            self.monitor.load_state_dict(state["probe"])
            checkpoint.set_rng_state(state["rng"])
            self.rows = state["run"]["rows"]
        self.seconds = state["run"]["seconds"]
        self.last = state["run"]["last"]
        self.saved_at = saved.step

    def _save(self) -> bool:
        """Saves, or warns, unless the newest checkpoint is of this very update; returns whether all is saved."""
        check_finite(self.learner.state_dict())
        if self.learner.updates == self.saved_at:
            return True
        run = {"settings": as_plain(self.config), "seconds": self.seconds, "last": self.last, "rows": self.rows}
        state = {
            "learner": self.learner.state_dict(),
            "probe": self.monitor.state_dict(),
            "rng": checkpoint.rng_state(),
            "run": run | {"offset": self.tracker.offset()},
        }
        saved = checkpoint.save_or_warn(self.directory.checkpoints, self.learner.updates, state)
        self.saved_at = self.learner.updates if saved else self.saved_at
        return saved

    def _prepare(self, progress: Progress) -> None:
        """Compiles and measures what is there before the first update."""
        if self.config.compile and not self.finished():
            progress.say("compiling: up to a minute once, later from a cache")
            progress.busy("compiling")
            began = time.perf_counter()
            with children_outlive_interrupt():
                self.learner.prepare()
            self.seconds["compiling"] += time.perf_counter() - began
        if self.learner.updates == 0 and self.saved_at is None:
            progress.busy("measuring")
            self._measure()
        progress.busy("")

    def _train_until(self, interrupt: Interrupt) -> None:
        learner = self.learner
        with Progress(self.config.budget, "updates", start=learner.updates) as progress:
            self._prepare(progress)
            while not self.finished() and not interrupt.requested:
                began = time.perf_counter()
                learner.update()
                due = self.due(learner.updates)
                if due:
                    synchronize(self.device)
                self.seconds["training"] += time.perf_counter() - began
                self._report(due)
                progress.update(learner.updates, self.figures)

    def _report(self, due: bool) -> None:
        interval = self.config.checkpoint_interval
        if due:
            self._measure()
        if interval and self.learner.updates % interval == 0 and not self.finished():
            self._save()

    def _measure(self) -> None:
        began = time.perf_counter()
        row = self.monitor.row()
        self.seconds["measuring"] += time.perf_counter() - began
        times = {"seconds": self.seconds["training"], "measuring_seconds": self.seconds["measuring"]}
        self.tracker.log(row | times)
        self.last, self.rows = row, self.rows + 1
        check_finite({}, {name: value for name, value in row.items() if name.endswith("loss") and value is not None})

    def _diverged(self, found: str) -> str:
        last = self.directory.newest_checkpoint()
        good = f"the last good checkpoint is {last}" if last else "no checkpoint had been written"
        advice = "try a lower --lr or --precision fp32" if self.config.precision == "bf16" else "try a lower --lr"
        return f"stopped at update {self.learner.updates:,}: {found}; {good}; {advice}"

    def _out_of_memory(self) -> str:
        resume = f"go on, where there is more, with: {self._resume_command()}"
        advice = resume if self.directory.newest_checkpoint() else "a smaller --batch-size helps"
        return f"out of memory at update {self.learner.updates:,}: {advice}"

    def _resume_command(self) -> str:
        return shell("python", "-m", self.program, "--resume", self.directory.path)

    def _stop(self, saved: bool) -> int:
        if saved:
            print(f"stopped at update {self.learner.updates:,}, all is saved; go on with: {self._resume_command()}")
        else:
            print("stopped:", self._unsaved())
        return INTERRUPTED

    def _unsaved(self) -> str:
        return self.directory.unsaved(f"update {self.learner.updates:,}", self._resume_command())

    def _end_unsaved(self) -> int:
        """Ends a run whose model is lost: a result would say that it is done."""
        print(f"error: no result: {self._unsaved()}", file=sys.stderr)
        return 1

    def _finish(self) -> int:
        try:
            found = self.outcome(self._all_rows())
        except ConfigError as error:
            print(f"error: {error}; no result without all rows: run it again", file=sys.stderr)
            return 1
        print(self.sentence(found))
        try:
            self.directory.write_result(found | self._facts())
        except OSError as error:
            print(f"warning: {self.directory.result} could not be written: {error.strerror}", file=sys.stderr)
            return 1
        print(f"result: {self.directory.result}")
        if self.config.figure:
            self._draw()
        return 0

    def _all_rows(self) -> list[Row]:
        """The rows of the whole run. Raises ConfigError if a full disk lost some, or one cannot be read."""
        rows = read_rows(self.directory)
        if len(rows) != self.rows:
            raise ConfigError(f"{self.directory.metrics} has {len(rows):,} of {self.rows:,} rows")
        return rows

    def _draw(self) -> None:
        try:
            print(f"figure: {self.draw()}")
        except (ConfigError, OSError) as error:
            print(f"no figure: {error}", file=sys.stderr)

    def _facts(self) -> dict[str, Any]:
        """What every result says in addition to the outcome."""
        return {
            "study": self.program.rpartition(".")[2],
            "settings": as_plain(self.config),
            "updates": self.learner.updates,
            "seconds": self.seconds,
            "ms_per_update": self.ms_per_update(),
            "parameters": sum(parameter.numel() for parameter in self.learner.model.parameters()),
            "parameter_hash": parameter_hash(self.learner.model),
            "environment": environment(),
        }


def synchronize(device: torch.device) -> None:
    """Waits for what the device still has to do, so that a clock read next is right."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
