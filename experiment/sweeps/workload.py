"""Facts about runs that their package gives to a sweep."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from experiment.config import as_plain
from experiment.fork_settings import asked_steps
from experiment.processor import check_precision
from experiment.setting import names_of
from experiment.storage.run_dir import RunDir
from experiment.storage.tracking import check_tracker
from experiment.sweeps.manifest import Entry

Config = TypeVar("Config", bound=Any)
"""The config dataclass of a run, with `device`."""


class Workload(NamedTuple):
    """The work of a run.

    `budget`: its steps. Each step after the first `start` costs `cost` cheap steps more. `bytes`: the GPU memory that
    it needs. `first`: the steps that a fork does not make itself.
    """

    budget: int
    start: int = 0
    cost: float = 0.0
    bytes: float = 0.0
    first: int = 0

    def work(self, step: int) -> float:
        """The cost of the steps up to `step`, in cheap steps."""
        return self._whole(max(step, self.first)) - self._whole(self.first)

    def _whole(self, step: int) -> float:
        return step + self.cost * max(step - self.start, 0)


class RunKind(ABC, Generic[Config]):
    """The runs of one program or family of programs, as a sweep sees them."""

    command: ClassVar[str]
    """The module that runs a sweep of them."""
    report: ClassVar[str]
    """The module that shows what a sweep came to, and the option that takes the folder, if it needs one."""
    config_class: ClassVar[Any]
    """The settings of a run."""
    axes: ClassVar[frozenset[str]] = frozenset({"seed"})
    """Settings in which the runs of an arm differ."""
    lengths: ClassVar[frozenset[str]]
    """Settings of a run's length that do not change the cost of a step."""
    step: ClassVar[str]
    """The step in a row of metrics.jsonl, "update"."""
    metric: ClassVar[str]
    """The score in a row of metrics.jsonl."""
    score: ClassVar[str]
    """Name of the score."""
    scale: ClassVar[str]
    """Name of the scale of `rank`."""

    @abstractmethod
    def settings(self, entry: Entry) -> Config:
        """The resolved settings of a run's command. Raises ConfigError if this version does not understand it."""

    def check_start(self, entry: Entry, here: bool) -> None:
        """Raises ConfigError for settings that the run would refuse at its start; `here`: on this machine.

        A kind adds what its runs build. Writes nothing.
        """
        config = self.settings(entry)
        check_tracker(config.track)
        asked_steps(config)
        if here:
            check_precision(config.precision, config.device)

    @abstractmethod
    def workload(self, config: Config) -> Workload:
        """What a run with these settings takes."""

    @abstractmethod
    def outcome(self, result: Mapping[str, Any]) -> tuple[float | None, int, float]:
        """The score in a result.json, None if there is none, the steps, and seconds of training.

        Raises LookupError, TypeError or ValueError if it cannot be read.
        """

    @abstractmethod
    def short(self, config: Config, updates: int) -> list[str]:
        """Options that shorten a run to about so many updates, with a row of metrics at each quarter of its steps.

        The last two quarters have all updates; nothing is saved or evaluated.
        """

    def is_timed(self, config: Config, row: Mapping[str, Any]) -> bool:
        """Whether a row of metrics of a short run is of the steps that are timed."""
        return "seconds" in row

    @abstractmethod
    def rank(self, entry: Entry, score: float) -> float | None:
        """The score on a scale that all tasks share; None if there is none."""

    def fleet_refusal(self, config: Config) -> str:
        """Why one process cannot train several seeds of these settings together, or "" if it can."""
        return "such runs train one by one"

    def fleet_rule(self, config: Config) -> tuple[bool, str]:
        """Whether such a fleet counts as faster than single runs as long as it was not measured, and why."""
        return False, ""

    def shared(self, config: Config) -> dict[str, Any]:
        """The settings that the runs of an arm share, as plain values."""
        return self._shared(as_plain(config))

    def _shared(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        names = names_of(self.config_class, "learning") - self.axes
        return {name: value for name, value in settings.items() if name in names}

    def config_hash(self, config: Config) -> str:
        """A hash of the settings that an arm's runs share: equal for runs that may be averaged."""
        return hashlib.sha256(json.dumps(self.shared(config), sort_keys=True).encode()).hexdigest()[:16]

    def columns(self, result: Mapping[str, Any], run: RunDir) -> dict[str, str]:
        """Further columns of a finished run in a list of them (`--record`), from its result and its directory."""
        return {}

    def difference(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
        """The first shared setting in which two differ, as "--lr is 0.1 there and 0.2 here", or ""."""
        before = self._shared(old)
        for name, value in self._shared(new).items():
            if before[name] != value:
                return f"--{name.replace('_', '-')} is {before[name]} there and {value} here"
        return ""
