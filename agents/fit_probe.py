"""Whether trained networks still learn as fresh ones do: `python -m agents.fit_probe RUNS...`.

What is measured is `nap.metrics.fit_random_targets`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.checks import check_kind
from agents.config import DQNConfig
from experiment.config import ConfigError, exit_on_bad_input, parse_cli
from experiment.interrupt import cli_session
from experiment.setting import check_ranges, setting
from experiment.storage.files import to_json, write_atomic
from experiment.storage.run_dir import RunDir, load_settings
from experiment.values import counted

if TYPE_CHECKING:
    from agents.training.fitting import FitSummary

ALL = "all"


@dataclass(frozen=True)
class FitConfig:
    """What is fitted, and how."""

    runs: tuple[str, ...] = field(default=(), metadata={"positional": True, "metavar": "RUNS"})
    """Run directories, each the newest good checkpoint; RUN@STEP the one of an agent step, RUN@all all that are kept.
    A run may be training."""
    updates: int = setting(200, at_least=1, at_most=1_000_000)
    """Updates of a fit, on minibatches of 32."""
    draws: int = setting(5, at_least=2, at_most=1_000)
    """Draws of targets, of fresh networks and of minibatches. The intervals are over them."""
    lr: float = setting(1e-3, at_least=1e-12, at_most=10)
    """Rate of Adam, the same for all networks."""
    states: int = setting(256, at_least=2, at_most=100_000)
    """States, drawn from the replay of the checkpoint."""
    seed: int | None = setting(None, at_least=0)
    """Decides states, targets, fresh networks and minibatches; none: it follows from each run's own."""
    device: str = "cpu"
    """Device of the fits: cpu, cuda, cuda:1 ..."""
    json: str | None = None
    """File .json for every draw and the errors over the course of the fits. An existing file is replaced."""

    def check(self) -> None:
        """Raise ConfigError for what cannot be fitted or written."""
        check_ranges(self)
        if not self.runs:
            raise ConfigError("name a run directory: python -m agents.fit_probe RUN")
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


def main(argv: Sequence[str] | None = None) -> int:
    """Load, fit, print and write. A mistake of the user ends in one line and exit code 2."""
    with cli_session(), exit_on_bad_input():
        options = parse_cli(
            FitConfig,
            argv,
            prog="python -m agents.fit_probe",
            description="Fit copies of a run's network, and freshly drawn networks, to random targets on states of its "
            "replay: how much worse and slower the trained network learns. The run is not changed.",
        )
        options.check()
        places = [place for given in options.runs for place in checkpoints(given)]
        with ExitStack() as view:
            rows = list(fit_all(options, places, view))
        print(report(options, rows))
        if options.json is not None:
            found = {"settings": asdict(options), "rows": [row.as_dict() for row in rows]}
            try:
                write_atomic(Path(options.json), to_json(found, indent=2) + "\n")
            except OSError as error:
                raise ConfigError(f"--json {options.json!r} cannot be written: {error.strerror}") from None
    return 0


def fit_all(options: FitConfig, places: Sequence[tuple[RunDir, int | None]], view: ExitStack) -> Iterator[Fitted]:
    """The rows, under a progress line that begins with the first errors: bad input comes before."""
    from experiment.progress import Progress

    work = 2 * options.draws * options.updates
    shown: list[Progress] = []

    def note(done: int) -> None:
        if not shown:
            shown.append(view.enter_context(Progress(work * len(places), "updates")))
        shown[0].update(done)

    for i, (directory, step) in enumerate(places):
        yield fitted(options, directory, step, lambda done, made=i * work: note(made + done))  # type: ignore[misc]


def checkpoints(given: str) -> list[tuple[RunDir, int | None]]:
    """The checkpoints that RUN, RUN@STEP or RUN@all names; None stands for the newest good one."""
    path, at, step = given.rpartition("@")
    plain = not at or Path(given).exists() or not (step == ALL or step.isdecimal())
    directory = RunDir.open(given if plain else path)
    check_kind(directory)
    if plain:
        return [(directory, None)]
    if step != ALL:
        return [(directory, int(step))]
    kept = directory.checkpoints.iterdir() if directory.checkpoints.is_dir() else []
    steps = sorted(int(each.name) for each in kept if each.name.isdecimal())
    return [(directory, each) for each in steps] or [(directory, None)]


def fitted(options: FitConfig, directory: RunDir, step: int | None, progress: Callable[[int], object]) -> Fitted:
    """The fits of a checkpoint's network. Raises ConfigError for a checkpoint without a replay, or with too few."""
    from agents.build import build_agent, build_env, build_fit_probe, build_replay
    from agents.run import restore_agent
    from agents.training.fitting import FitSummary
    from experiment.determinism import configure, device_of
    from experiment.storage.checkpoint import checked_restore, load_latest
    from experiment.storage.segments import Segments

    device = device_of(options.device)
    saved = load_latest(directory.checkpoints, step=step)
    if "replay" not in saved.state or saved.rows is None:
        raise ConfigError(f"checkpoint {saved.path} holds no replay, whose states the networks are fitted on")
    config = replace(load_settings(DQNConfig, directory), device="cpu").resolved()
    configure(config.threads, config.seed)
    with closing(build_env(config, config.num_envs, seed=0)) as env:
        agent = build_agent(config, env.frame_shape, env.num_actions, 0, env.stack)
        restore_agent(agent, saved)
        replay = build_replay(config, env, seed=0)
        with checked_restore(saved):
            replay.load_state_dict(saved.state["replay"])
            saved.load_rows(Segments(replay))
        named = {name: getattr(options, name) for name in ("draws", "updates", "lr", "states")}
        probe = build_fit_probe(config, env, **named)
        if options.seed is not None:
            probe = replace(probe, seed=options.seed)
        try:
            curves = probe.curves(agent.network.to(device), replay, progress)
        except ValueError as error:
            raise ConfigError(f"checkpoint {saved.path}: {error}") from None
    if curves is None:
        held = f"its replay has {replay.num_legal():,} states"
        raise ConfigError(f"checkpoint {saved.path}: {held}, fewer than --states {options.states}")
    errors = {name: getattr(curves, name).tolist() for name in ("updates", "aged", "fresh")}
    return Fitted(str(directory.path), saved.step, agent.updates, FitSummary.of(curves), errors)


def report(options: FitConfig, rows: Sequence[Fitted]) -> str:
    """The table, and how it is read."""
    from experiment.tables import aligned_table

    header = ("run", "step", "updates made", "error", "fresh", "ratio", "slowdown")
    how = (
        f"Fits of random targets: {counted(options.updates, 'update')} of Adam at rate {options.lr:g}, minibatches of "
        f"32 of {options.states} states, {options.draws} draws."
    )
    notes = (
        "error, fresh: error at the end of the run's network and of fresh ones; 1 before the first update.",
        "ratio: the former over the latter. slowdown: updates needed over those of the fresh one, to the worse error.",
        "Above 1 the run's network has lost plasticity. [95% interval over the draws].",
    )
    return "\n".join([how, "", aligned_table(header, [row.cells() for row in rows]), *notes])


if __name__ == "__main__":
    raise SystemExit(main())
