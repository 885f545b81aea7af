"""The command that measures whether trained networks still learn as fresh ones do, for every kind of runs.

What is measured is `nap.metrics.fit_random_targets`'s.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from experiment.config import ConfigError, exit_on_bad_input, parse_cli
from experiment.interrupt import cli_session
from experiment.setting import check_ranges, setting
from experiment.storage.files import to_json, write_atomic
from experiment.storage.run_dir import RunDir
from experiment.values import counted

if TYPE_CHECKING:
    from experiment.fits import FitCurves, FitSummary
    from experiment.storage.checkpoint import Checkpoint

ALL = "all"


@dataclass(frozen=True)
class FitConfig:
    """What is fitted, and how."""

    runs: tuple[str, ...] = field(default=(), metadata={"positional": True, "metavar": "RUNS"})
    """Run directories, each the newest good checkpoint; RUN@STEP the one of a step, RUN@all all that are kept.
    A run may be training."""
    updates: int = setting(200, at_least=1, at_most=1_000_000)
    """Updates of a fit, on minibatches of 32."""
    draws: int = setting(5, at_least=2, at_most=1_000)
    """Draws of targets, of fresh networks and of minibatches. The intervals are over them."""
    lr: float = setting(1e-3, at_least=1e-12, at_most=10)
    """Rate of Adam, the same for all networks."""
    states: int = setting(256, at_least=2, at_most=100_000)
    """Inputs of the networks: states, drawn from the replay of the checkpoint, or training images of a study."""
    seed: int | None = setting(None, at_least=0)
    """Decides states, targets, fresh networks and minibatches; none: it follows from each run's own."""
    device: str = "cpu"
    """Device of the fits: cpu, cuda, cuda:1 ..."""
    json: str | None = None
    """File .json for every draw and the errors over the course of the fits. An existing file is replaced."""

    def check(self, program: str) -> None:
        """Raise ConfigError for what cannot be fitted or written."""
        check_ranges(self)
        if not self.runs:
            raise ConfigError(f"name a run directory: python -m {program} RUN")
        if self.json is not None:
            out = Path(self.json)
            if out.suffix != ".json" or out.name == "result.json" or out.is_dir():
                raise ConfigError(f"--json {self.json!r}: name a file that ends in .json, and is no run's result.json")
            if not out.parent.is_dir():
                raise ConfigError(f"--json {self.json!r}: there is no folder {str(out.parent)!r}")


@dataclass(frozen=True)
class Fitted:
    """One row: a checkpoint, and what the fits of its network found."""

    run: str
    step: int
    updates: int
    summary: FitSummary
    curves: dict[str, list[Any]]

    def cells(self) -> list[str]:
        """The row of the table."""
        from experiment.tables import with_bounds

        found = self.summary
        bounds = (with_bounds(interval, "{:.2f}".format) for interval in (found.ratio, found.slowdown))
        numbers = f"{self.step:,}", f"{self.updates:,}", f"{found.aged:.3f}", f"{found.fresh:.3f}"
        return [self.run, *numbers, *bounds]

    def as_dict(self) -> dict[str, Any]:
        """The row of the file."""
        found = self.summary
        ends = {"aged": found.aged, "fresh": found.fresh}
        intervals = {"ratio": found.ratio._asdict(), "slowdown": found.slowdown._asdict()}
        return {"run": self.run, "step": self.step, "updates": self.updates, **ends, **intervals, "errors": self.curves}


class FitCommand(ABC):
    """The command that fits the networks of one kind of runs.

    Attributes:
        program: its module. inputs: what the networks are fitted on, in the report; source: where they are from.
    """

    program: ClassVar[str]
    inputs: ClassVar[str]
    source: ClassVar[str]

    @abstractmethod
    def curves(
        self, options: FitConfig, directory: RunDir, saved: Checkpoint, progress: Callable[[int], object]
    ) -> tuple[FitCurves, int]:
        """The errors of the fits of a checkpoint's network, and the updates that it has made.

        Raises ConfigError for a checkpoint that has not what is needed, ValueError for a network that cannot be fitted.
        """

    def check_kind(self, directory: RunDir) -> None:  # noqa: B027 (settings that are read tell most)
        """Raises ConfigError for a run of another kind."""

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Load, fit, print and write. A mistake of the user ends in one line and exit code 2."""
        with cli_session(), exit_on_bad_input():
            options = parse_cli(
                FitConfig,
                argv,
                prog=f"python -m {self.program}",
                description="Fit copies of a run's network, and freshly drawn networks, to random targets on "
                f"{self.inputs} of {self.source}: how much worse and slower the trained network learns. The run is not "
                "changed.",
            )
            options.check(self.program)
            places = [place for given in options.runs for place in self.checkpoints(given)]
            with ExitStack() as view:
                rows = list(self.fit_all(options, places, view))
            print(report(options, rows, self.inputs))
            if options.json is not None:
                found = {"settings": asdict(options), "rows": [row.as_dict() for row in rows]}
                try:
                    write_atomic(Path(options.json), to_json(found, indent=2) + "\n")
                except OSError as error:
                    raise ConfigError(f"--json {options.json!r} cannot be written: {error.strerror}") from None
        return 0

    def checkpoints(self, given: str) -> list[tuple[RunDir, int | None]]:
        """The checkpoints that RUN, RUN@STEP or RUN@all names; None stands for the newest good one."""
        path, at, step = given.rpartition("@")
        plain = not at or Path(given).exists() or not (step == ALL or step.isdecimal())
        directory = RunDir.open(given if plain else path)
        self.check_kind(directory)
        if plain:
            return [(directory, None)]
        if step != ALL:
            return [(directory, int(step))]
        return [(directory, each) for each in directory.steps()] or [(directory, None)]

    def fit_all(
        self, options: FitConfig, places: Sequence[tuple[RunDir, int | None]], view: ExitStack
    ) -> Iterator[Fitted]:
        """The rows, under a progress line that begins with the first errors: bad input comes before."""
        from experiment.progress import Progress

        work = 2 * options.draws * options.updates
        shown: list[Progress] = []

        def note(done: int) -> None:
            if not shown:
                shown.append(view.enter_context(Progress(work * len(places), "updates")))
            shown[0].update(done)

        for i, (directory, step) in enumerate(places):
            yield self.fitted(options, directory, step, lambda done, made=i * work: note(made + done))  # type: ignore[misc]

    def fitted(
        self, options: FitConfig, directory: RunDir, step: int | None, progress: Callable[[int], object]
    ) -> Fitted:
        """The fits of a checkpoint's network. Raises ConfigError for a checkpoint whose network cannot be fitted."""
        from experiment.determinism import device_of
        from experiment.fits import FitSummary
        from experiment.storage.checkpoint import load_latest

        device_of(options.device)
        saved = load_latest(directory.checkpoints, step=step)
        try:
            curves, updates = self.curves(options, directory, saved, progress)
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(f"checkpoint {saved.path}: {error}") from None
        errors = {name: getattr(curves, name).tolist() for name in ("updates", "aged", "fresh")}
        return Fitted(str(directory.path), saved.step, updates, FitSummary.of(curves), errors)


def report(options: FitConfig, rows: Sequence[Fitted], inputs: str) -> str:
    """The table, and how it is read."""
    from experiment.tables import aligned_table

    header = ("run", "step", "updates made", "error", "fresh", "ratio", "slowdown")
    how = (
        f"Fits of random targets: {counted(options.updates, 'update')} of Adam at rate {options.lr:g}, minibatches of "
        f"32 of {options.states} {inputs}, {options.draws} draws."
    )
    notes = (
        "error, fresh: error at the end of the run's network and of fresh ones; 1 before the first update.",
        "ratio: the former over the latter. slowdown: updates needed over those of the fresh one, to the worse error.",
        "Above 1 the run's network has lost plasticity. [95% interval over the draws].",
    )
    return "\n".join([how, "", aligned_table(header, [row.cells() for row in rows]), *notes])
