"""One run from settings to result, for agents and studies alike: build or resume, train, save, finish.

    settings -> the run to go on with and its checkpoint -> device, threads, seeds -> build -> restore
             -> run directory, metrics cut to the checkpoint -> advance, log, save, ... -> evaluate -> result.json

Everything that bad input can break comes before the run directory: until then nothing is written. After that, a run
ends with its result, with a state that can be resumed, or with one line that says what is lost.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from torch import nn

from experiment.command_line import shell
from experiment.config import ConfigError, as_plain
from experiment.determinism import configure, device_of, environment, made_by, parameter_hash
from experiment.failure import FAILURES, reason_for
from experiment.fork_settings import asked_steps
from experiment.fork_state import Source, summary
from experiment.guard import check_finite
from experiment.interrupt import INTERRUPTED, Interrupt
from experiment.part import as_mistake
from experiment.processor import check_precision
from experiment.progress import Progress
from experiment.setting import changeable
from experiment.storage import checkpoint
from experiment.storage.run_dir import RunDir, find_resumed, load_settings, say_kept
from experiment.storage.segments import Segments
from experiment.storage.tracking import Tracker, check_tracker

Config = TypeVar("Config", bound=Any)
"""A config dataclass with seed, threads, device, root, name, resume, track, checkpoint_interval, keep_checkpoints,
checkpoint_at, fork and what belongs to it, budget, compile and `resolved()`; steps are in units of the run."""


class Learner(Protocol):
    """What is trained."""

    updates: int

    def state_dict(self) -> dict[str, Any]: ...


class Run(ABC, Generic[Config]):
    """A run that is ready to train: everything that bad input can break has been tried.

    Attributes:
        unit: what budget, checkpoints and intervals count, as "agent step".
        rows_end: the key, in the part "run" of a checkpoint, of the length of metrics.jsonl.
        memory_options: the options that reduce memory.
        resumed: the directory of the resumed run, None for a new one; known when `build` is called.
        command: the command that resumes it, such as "python -m agents.dqn".
        remedies: options that make an overflow less likely.
        skipping: the option that skips updates that overflow, if there is one and it is not given yet.
        learner: what is trained. network: what the result has the hash of.
        source: what a fork begins at, None once it has a checkpoint of its own; known when `build` is called.
        segments: rows that are saved with each checkpoint, if there are any. `build` sets these from `command` on.
    """

    unit: ClassVar[str]
    rows_end: ClassVar[str]
    memory_options: ClassVar[str] = "--batch-size"
    command: str
    remedies: str
    skipping: str = ""
    learner: Learner
    network: nn.Module
    segments: Segments | None = None

    def __init__(self, config: Config, at: int | None = None, trained: str = "alone") -> None:
        """Build every part, or load the run to go on with; ConfigError before anything is written.

        at: the step of the checkpoint to load, 0 for none; None: the newest. trained: "alone", or with what.
        """
        check_tracker(config.track)
        self.kept_steps = asked_steps(config)
        self.resumed = find_resumed(config)
        self.source: Source[Config] | None = None
        self.origin: dict[str, Any] | None = None
        self.config, saved = self._found(config, at)
        self.device = device_of(self.config.device)
        check_precision(self.config.precision, self.config.device, self.resumed is not None)
        configure(self.config.threads, self.config.seed)
        self.build(saved)
        self.made_by = made_by(self.config.compile) | {"trained": trained}
        self.saved_at: int | None = None
        if self.source is not None:
            self._begin_at(self.source)
        elif saved is not None:
            self._restore(saved)
        with as_mistake("what a checkpoint would hold"):
            checkpoint.check_plain(self.learner.state_dict(), "learner")
        self.check_compiler()
        self.directory = self.resumed or self._create()
        self.tracker = Tracker(self.directory.metrics, self.config.track, config=as_plain(self.config))
        self.tracker.cut_to(0 if saved is None or self.source else saved.state["run"][self.rows_end])
        if self.source is not None:
            self.save()  # from now on the fork needs its source no more

    # --- what a subclass defines

    @staticmethod
    @abstractmethod
    def default_name(config: Any) -> str:
        """The default name of the run directory: its main settings and the time."""

    @abstractmethod
    def build(self, saved: checkpoint.Checkpoint | None) -> None:
        """Builds all parts from `config`, on `device`; `saved` is restored afterwards. Raises ConfigError."""

    @property
    @abstractmethod
    def step(self) -> int:
        """Units done."""

    @abstractmethod
    def advance(self, progress: Progress) -> None:
        """Does one unit (of agents: one in each environment) and logs the due rows."""

    @abstractmethod
    def state_dict(self) -> dict[str, dict[str, Any]]:
        """The parts of a checkpoint by name. The harness adds settings, software and rows to the part "run"."""

    @abstractmethod
    def restore(self, saved: checkpoint.Checkpoint) -> str:
        """Loads a `state_dict`; returns where the run goes on, as text. May raise any error."""

    @abstractmethod
    def headline(self) -> str:
        """What is trained on what, in a few lines."""

    @abstractmethod
    def live_metrics(self) -> dict[str, str]:
        """The metrics of the live view: text by label."""

    @abstractmethod
    def conclude(self) -> dict[str, Any]:
        """Prints the outcome of the run, and returns it for result.json. Raises ConfigError if it is not known."""

    @abstractmethod
    def adapted(self, source: Source[Config]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The parts of a source's checkpoint as the fork takes them over, and facts on that for the result.

        Raises ConfigError for a state that the fork's settings do not fit.
        """

    # --- what a subclass may override

    def check_compiler(self) -> None:
        """Raises ConfigError if what is left to train cannot be compiled here."""

    def finished(self) -> bool:
        """Whether all training is done."""
        return self.step >= self.config.budget

    def check(self) -> None:
        """Raises NonFinite if the learner's state must not be saved."""
        check_finite(self.learner.state_dict())

    @contextmanager
    def live_view(self, interrupt: Interrupt) -> Iterator[Progress]:
        """The progress of training, shown while it is entered."""
        with Progress(self.config.budget, f"{self.unit}s", start=self.step) as progress:
            yield progress

    def evaluate(self, interrupt: Interrupt) -> bool:
        """Runs after training, e.g. an evaluation. Returns whether it was completed."""
        return True

    # --- making a run

    def _found(self, config: Config, at: int | None) -> tuple[Config, checkpoint.Checkpoint | None]:
        """The settings, those of the run that is resumed if there is one, and its checkpoint. Locks the run."""
        if self.resumed is None:
            if config.resume is not None:
                print(f"no unfinished run of these settings in {config.root!r}: a new one begins")
            return self._forked(dataclasses.replace(config, resume=None))
        saved = checkpoint.load_for_resume(self.resumed, at)
        stored = load_settings(type(config), self.resumed)
        if config.resume == "auto":
            say_kept(self.resumed, config, stored)
        config = dataclasses.replace(stored, **changeable(config))
        if saved is not None:
            checkpoint.check_settings(saved, config, self.resumed.config)
            return config, saved
        return self._forked(config)

    def _forked(self, config: Config) -> tuple[Config, checkpoint.Checkpoint | None]:
        """The settings, and the checkpoint that a fork begins at, if it is one."""
        if config.fork is None:
            return config, None
        self.source = Source(config)
        return config, self.source.saved

    def _begin_at(self, source: Source[Config]) -> None:
        """Takes over what a fork begins at."""
        saved = source.saved
        with checkpoint.checked_restore(saved):
            state, facts = self.adapted(source)
            how = self.restore(saved._replace(state=state))
        self.config, self.origin = source.taken_over(self.learner, self.network, self.config)
        self.origin |= facts
        print(f"forking {source.run.path} at {self.unit} {saved.step:,}, {how}\n{summary(self.origin)}")

    def _restore(self, saved: checkpoint.Checkpoint) -> None:
        with checkpoint.checked_restore(saved):
            how = self.restore(saved)
        self.saved_at, self.origin = saved.step, saved.state["run"].get("fork")
        asked = saved.state["run"]["settings"].get("checkpoint_at", ())  # earlier checkpoints do not know it
        self.kept_steps = tuple({*self.kept_steps, *map(int, asked)})
        print(f"resuming at {self.unit} {saved.step:,}, {how}")
        if differs := checkpoint.changes(saved.state["run"].get("made_by", {}), self.made_by):
            print(f"saved elsewhere ({differs}): the run goes on, but its bits may differ from there")

    def _create(self) -> RunDir:
        name = self.default_name(self.config) if self.config.name is None else self.config.name
        stored = dataclasses.replace(self.config, name=None)
        room = checkpoint.tensor_bytes(self.learner.state_dict())
        return RunDir.create(self.config.root, name, stored, explicit=self.config.name is not None, room=room)

    # --- training

    def train(self) -> int:
        """Train to the end of the budget, save, evaluate; the exit code."""
        try:
            return self._train()
        except FAILURES as error:
            return self.fail(error)

    def fail(self, error: Exception) -> int:
        """Ends the run with one line, and its exit code; raises an error that has no line."""
        reason = reason_for(self, error)
        if reason is None:
            raise error
        self.tracker.close()
        return _failed(reason)

    def _train(self) -> int:
        print(f"{self.headline()}\nrun directory: {self.directory.path}", flush=True)
        saved = True
        with Interrupt() as interrupt:
            if not self.finished():
                self._train_until(interrupt)
                saved = self.save()
            whole = self.evaluated(interrupt)
        return self.end(saved, whole)

    def evaluated(self, interrupt: Interrupt) -> bool:
        """Evaluates what is trained, if training is done; whether the run is then whole."""
        self.trained = parameter_hash(self.network)  # an evaluation may draw the noise of noisy layers again
        return self.finished() and self.evaluate(interrupt)

    def end(self, saved: bool, whole: bool) -> int:
        """Writes the result of a whole run, or says how another goes on; the exit code."""
        self.tracker.close()
        return self.finish(saved) if whole else self._stop(saved)

    def _train_until(self, interrupt: Interrupt) -> None:
        with self.live_view(interrupt) as progress:
            while not self.finished() and not interrupt.requested:
                before = self.step
                self.advance(progress)
                if self.saves_after(before):
                    self.save()
                progress.update(self.step, self.live_metrics)

    def saves_after(self, before: int) -> bool:
        """Whether a checkpoint is due now, `before` being the step before this one."""
        interval = self.config.checkpoint_interval
        due = interval and self.step // interval > before // interval
        asked = any(before < step <= self.step for step in self.kept_steps)
        return bool(due or asked) and not self.finished()

    def save(self) -> bool:
        """Saves, or warns, unless the newest checkpoint is of this very step; returns whether all is saved."""
        self.check()
        if self.step == self.saved_at:
            return True
        state = self.state_dict()
        run = {"settings": as_plain(self.config), "made_by": self.made_by, self.rows_end: self.tracker.offset()}
        run["fork"] = self.origin
        state["run"] = state["run"] | run
        keep = math.inf if self.config.keep_checkpoints == "every" else self.config.keep_checkpoints
        how = {"keep": keep, "kept_steps": self.kept_steps, "rows": self.segments}
        saved = checkpoint.save_or_warn(self.directory.checkpoints, self.step, state, **how)
        self.saved_at = self.step if saved else self.saved_at
        return saved

    # --- how it ends

    def finish(self, saved: bool) -> int:
        """Writes the result, unless the final network could not be saved: a result would claim that it exists."""
        try:
            found, fault = self.conclude(), ""
        except ConfigError as error:
            found, fault = {}, str(error)
        if not saved:
            fault = f"no result: {self._unsaved()}"
        if fault:
            return _failed(fault)
        try:
            self.directory.write_result(found | self._facts())
        except OSError as error:
            print(f"warning: {self.directory.result} could not be written: {error.strerror}", file=sys.stderr)
            return 1
        print(f"result: {self.directory.result}")
        return 0

    def _facts(self) -> dict[str, Any]:
        """The keys of every result, next to the run's outcome: see `experiment.results`."""
        return {
            "settings": as_plain(self.config),
            "seed": self.config.seed,
            "updates": self.learner.updates,
            "parameters": sum(parameter.numel() for parameter in self.network.parameters()),
            "parameter_hash": self.trained,
            "environment": environment(),
            **({} if self.origin is None else {"fork": self.origin}),
        }

    def _stop(self, saved: bool) -> int:
        done = f"{self.where()}, all is saved; go on with: {self.resume_command()}"
        print(f"stopped at {done}" if saved else f"stopped: {self._unsaved()}")
        return INTERRUPTED

    def _unsaved(self) -> str:
        return self.directory.unsaved(self.where(), self.resume_command())

    def where(self) -> str:
        """The step that training is at, with its unit."""
        return f"{self.unit} {self.step:,}"

    def resume_command(self) -> str:
        """The command that goes on with this run."""
        return f"{self.command} {shell('--resume', self.directory.path)}"


def _failed(reason: str) -> int:
    print(f"error: {reason}", file=sys.stderr)
    return 1
