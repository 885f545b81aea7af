"""What a sweep has to be told about its runs by those who know their settings: the agents, or a study."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from experiment.config import as_plain
from experiment.setting import names_of
from experiment.sweeps.manifest import Entry

Config = TypeVar("Config", bound=Any)
"""The config dataclass of a run, with `device`."""


class Workload(NamedTuple):
    """What a run takes.

    Attributes:
        budget: its steps.
        start: steps before the costly ones.
        cost: what a costly step takes in addition to one of the others, in units of the latter.
        bytes: memory of a GPU.
    """

    budget: int
    start: int = 0
    cost: float = 0.0
    bytes: float = 0.0

    def work(self, step: int) -> float:
        """What the first `step` steps cost, in steps of the cheap kind."""
        return step + self.cost * max(step - self.start, 0)


class RunOutcome(NamedTuple):
    """What a sweep shows of a finished run; `score` is None where nothing was scored."""

    score: float | None
    steps: int
    seconds: float
    """Of training."""


class RunKind(ABC, Generic[Config]):
    """The runs of one program or of a family of programs, as a sweep sees them.

    Attributes:
        command, report: the modules that run a sweep, and that show what it came to.
        config_class: the settings of a run.
        axes: settings that tell the runs of an arm apart.
        lengths: settings that say how long a run is, and change nothing of what a step costs.
        step, steps: the key of a row's step in metrics.jsonl; what steps are called.
        metric, score, digits: the key of what rows are judged by; what it is called, and how it is written.
        ranking: what `rank` is called.
        ending: what a run does after its last step.
        on_top: what an estimate of the cost leaves out.
        lighter: how a run takes less memory of a GPU, or "".
    """

    command: ClassVar[str]
    report: ClassVar[str]
    config_class: ClassVar[Any]
    axes: ClassVar[frozenset[str]] = frozenset({"seed"})
    lengths: ClassVar[frozenset[str]]
    step: ClassVar[str]
    steps: ClassVar[str]
    metric: ClassVar[str]
    score: ClassVar[str]
    digits: ClassVar[str] = ".3f"
    ranking: ClassVar[str]
    ending: ClassVar[str]
    on_top: ClassVar[str]
    lighter: ClassVar[str] = ""

    @abstractmethod
    def settings(self, entry: Entry) -> Config:
        """The resolved settings of a run's command. Raises ConfigError if this version does not understand it."""

    @abstractmethod
    def workload(self, config: Config) -> Workload:
        """What a run with these settings takes."""

    @abstractmethod
    def outcome(self, result: Mapping[str, Any]) -> RunOutcome:
        """Reads result.json. Raises LookupError, TypeError or ValueError if it cannot."""

    @abstractmethod
    def short(self, config: Config, updates: int) -> list[str]:
        """Options that make of a run one of about so many updates.

        It has rows of metrics at the quarters of its steps, of which the last two have all updates, and no more work.
        """

    @abstractmethod
    def rank(self, entry: Entry, score: float) -> float | None:
        """The score on a scale that all tasks share; None if there is none."""

    def shared(self, config: Config) -> dict[str, Any]:
        """The settings that the runs of an arm share on a task, as plain values."""
        names = names_of(type(config), "learning") - self.axes
        return {name: value for name, value in as_plain(config).items() if name in names}

    def config_hash(self, config: Config) -> str:
        """Stands for what an arm learns by: equal for runs that may be averaged."""
        return hashlib.sha256(json.dumps(self.shared(config), sort_keys=True).encode()).hexdigest()[:16]

    def difference(self, old: Config, new: Config) -> str:
        """The first shared setting in which two differ, as "--lr is 0.1 there and 0.2 here", or ""."""
        before = self.shared(old)
        for name, value in self.shared(new).items():
            if before[name] != value:
                return f"--{name.replace('_', '-')} is {before[name]} there and {value} here"
        return ""
