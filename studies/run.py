"""One run of a study: updates, measured rows between them, and the outcome."""

from __future__ import annotations

import sys
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import nn

import experiment.run
from experiment.compiler import check_compiler
from experiment.config import ConfigError
from experiment.determinism import rng_state, set_rng_state
from experiment.fork_state import Source, check_fits
from experiment.guard import check_finite
from experiment.interrupt import Interrupt
from experiment.progress import Progress
from experiment.results import Row, read_rows
from experiment.run import Config, Run
from experiment.storage import checkpoint
from experiment.terminal import children_outlive_interrupt
from plasticity.joining import Comparison, attach_later, compare, method_names
from plasticity.method import Method


class Learner(experiment.run.Learner, Protocol):
    """What is trained."""

    @property
    def model(self) -> nn.Module: ...

    @property
    def methods(self) -> Sequence[Method]: ...

    def prepare(self) -> None:
        """Compiles the loss. Does not change the state of the run. Called only with --compile."""

    def update(self) -> None:
        """One update, counted in `updates`."""

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Monitor(Protocol):
    """Measures the learner without changing it."""

    def row(self) -> Row:
        """All metrics by name, as plain numbers."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class StudyRun(Run[Config]):
    """A run of a study, ready to train.

    A study gives `program`, `default_name`, `make`, `headline`, `live_metrics`, `outcome`, `sentence` and `draw`; `due`
    and `finished` if it measures or ends at other times.

    methods: of a fork, its methods next to those of its source, once they are prepared.
    """

    unit = "update"
    rows_end = "offset"
    program: ClassVar[str]
    """The module that is run, "studies.grokking"."""
    learner: Learner
    monitor: Monitor
    methods: Comparison | None = None

    @abstractmethod
    def make(self) -> None:
        """Sets `learner` and `monitor` from `config`, on `device`. Raises ConfigError."""

    def prepared(self, network: nn.Module, methods: list[Method]) -> list[Method]:
        """The methods, once each has changed the structure of the network as it needs; for `make`."""
        if self.source is not None:
            self.methods = compare(self.source.settings, self.config)
            attach_later(method_names(self.config), methods, self.methods.fresh)
        for method in methods:
            method.prepare(network)
        return methods

    @abstractmethod
    def outcome(self, rows: list[Row]) -> dict[str, Any]:
        """The outcome of the rows, for result.json."""

    @abstractmethod
    def sentence(self, found: dict[str, Any]) -> str:
        """The outcome in one line."""

    @abstractmethod
    def draw(self) -> Path:
        """Draws the run into its directory. Raises ConfigError if it cannot."""

    def due(self, updates: int) -> bool:
        """Whether a row is measured after this number of updates. Called once after each update."""
        return updates % self.config.log_interval == 0 or self.finished()

    def build(self, saved: checkpoint.Checkpoint | None) -> None:
        self.make()
        self.command, self.network = f"python -m {self.program}", self.learner.model
        self.remedies = "a lower --lr, --precision fp32" if self.config.precision == "bf16" else "a lower --lr"
        self.seconds = {"training": 0.0, "measuring": 0.0, "compiling": 0.0}
        self.last: Row = {}
        self.rows = 0

    @property
    def step(self) -> int:
        return self.learner.updates

    def state_dict(self) -> dict[str, dict[str, Any]]:
        return {
            "learner": self.learner.state_dict(),
            "probe": self.monitor.state_dict(),
            "rng": rng_state(),
            "run": {"seconds": self.seconds, "last": self.last, "rows": self.rows},
        }

    def adapted(self, source: Source[Config]) -> tuple[dict[str, Any], dict[str, Any]]:
        learner, facts = self.adapted_learner(source)
        state = source.saved.state
        return state | {"learner": learner, "run": state["run"] | {"rows": 0}}, facts

    def adapted_learner(self, source: Source[Config]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The saved learner as a fork takes it over, and facts on that for the result; as `adapted` otherwise."""
        assert self.methods is not None
        saved = source.saved.state["learner"]
        check_fits(self.learner.model, saved["model"], self.methods.reason())
        self.methods.check_to_come(self.learner.methods, source.saved.step)
        state = source.learner_state(self.learner, saved, self.config) | self.methods.states(saved)
        return saved | state, self.methods.facts()

    def restore(self, saved: checkpoint.Checkpoint) -> str:
        state, run = saved.state, saved.state["run"]
        self.learner.load_state_dict(state["learner"])
        self.monitor.load_state_dict(state["probe"])
        set_rng_state(state["rng"])
        self.seconds, self.last, self.rows = run["seconds"], run["last"], run["rows"]
        return "where it was saved"

    def check_compiler(self) -> None:
        if self.config.compile and not self.finished():
            check_compiler(self.device)

    @contextmanager
    def live_view(self, interrupt: Interrupt) -> Iterator[Progress]:
        """Compiles first, and measures the state before the first update."""
        with super().live_view(interrupt) as progress:
            if self.config.compile:
                progress.say("compiling: up to a minute once, later from a cache")
                progress.busy("compiling")
                with self._timed("compiling"), children_outlive_interrupt():
                    self.learner.prepare()
            if self.learner.updates == 0 and self.saved_at is None:
                progress.busy("measuring")
                self._measure()
            progress.busy("")
            yield progress

    def advance(self, progress: Progress) -> None:
        with self._timed("training"):
            self.learner.update()
            if due := self.due(self.learner.updates):
                synchronize(self.device)
        if due:
            self._measure()

    def _measure(self) -> None:
        with self._timed("measuring"):
            row = self.monitor.row()
        times = {"seconds": self.seconds["training"], "measuring_seconds": self.seconds["measuring"]}
        self.tracker.log(row | times)
        self.last, self.rows = row, self.rows + 1
        check_finite({}, {name: value for name, value in row.items() if name.endswith("loss") and value is not None})

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - began

    def ms_per_update(self) -> float:
        """Milliseconds of training per update so far."""
        return 1e3 * self.seconds["training"] / max(self.learner.updates, 1)

    def conclude(self) -> dict[str, Any]:
        found = self.outcome(self._all_rows())
        print(self.sentence(found))
        study = self.program.rpartition(".")[2]
        return found | {"study": study, "seconds": self.seconds, "ms_per_update": self.ms_per_update()}

    def _all_rows(self) -> list[Row]:
        """The rows of the whole run. Raises ConfigError if a full disk lost some, or one cannot be read."""
        try:
            rows = read_rows(self.directory)
            if len(rows) != self.rows:
                raise ConfigError(f"{self.directory.metrics} has {len(rows):,} of {self.rows:,} rows")
        except ConfigError as error:
            raise ConfigError(f"{error}; no result without all rows: run it again") from None
        return rows

    def finish(self, saved: bool) -> int:
        code = super().finish(saved)
        if code == 0 and self.config.figure:
            try:
                print(f"figure: {self.draw()}")
            except (ConfigError, OSError) as error:
                print(f"no figure: {error}", file=sys.stderr)
        return code


def synchronize(device: torch.device) -> None:
    """Waits for the device, so that the next clock reading includes its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
