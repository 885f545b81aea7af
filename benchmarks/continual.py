"""What keeps a network plastic when its game changes: `python -m benchmarks.continual`.

One network plays games in sequence, the list several times. The arms differ in what happens at a change of game and in
how the learning rate goes; one of them starts again from scratch, which is what a network that lost nothing would do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.report.writer import PAGE
from benchmarks.sweep.command import AgentSweep, Settings, parse
from benchmarks.sweep.runs import SEQUENCES
from benchmarks.sweep.suites import arms, file_name
from envs.registry import registered, resolve_game
from envs.sequences import joined, named
from experiment.config import ConfigError, exit_on_bad_input, suggest
from experiment.interrupt import cli_session
from experiment.part import join_options, short_name
from experiment.setting import setting
from experiment.sweeps.command import carry_out

PROG = "python -m benchmarks.continual"
PLAIN = "plain"
"""The arm that the others are compared with."""
RESET, NAP_RESET = "full-reset", "nap-reset"
"""The arms whose visits are those of a fresh agent, without and with NaP."""
FRESH = (
    "--plasticity reset:at=task,layers=all,target=draw --task-optimizer fresh --task-replay clear "
    "--task-schedule restart"
)
STUDY = {
    PLAIN: "",
    "fresh-optimizer": "--task-optimizer fresh",
    RESET: FRESH,
    "layer-norm": "--plasticity layer-norm",
    NAP_RESET: f"--nap --schedule constant {FRESH}",
    "nap-constant": "--nap --schedule constant",
    "nap-aligned": "--nap --schedule cyclic --cycles 1 --task-schedule restart",
    "nap-cyclic": "--nap --schedule cyclic --cycles {unaligned}",
    "nap-cusum": "--nap --schedule cusum --cycles {visits}",
    "l2-init": "--plasticity l2-init",
    "shrink-perturb": "--plasticity shrink-perturb:at=task",
    "redo": "--plasticity redo",
}
"""The flags of each arm. `visits` are those to all games together. `unaligned` is one more: the two numbers have no
divisor in common, so that no restart is at a change, and a cycle is about as long as a visit, as where the restarts are
aligned. A restart of cusum is as long as a visit, too."""
NORMED = ("layer-norm", "nap-")
"""How the names of arms begin that have norms before their nonlinearities."""
AT_CHANGES = ("adam-rel", "dash", "fire", "optimizer-reset", "reset", "shrink-perturb")
"""Methods that can act at a change of game, which they do here where only their name is given."""
DESCRIPTION = f"""Play games in sequence with one network, several times through the list, in arms that treat a change
of game in their own ways; with the options of benchmarks.atari. Arms are compared with {PLAIN}, and with {RESET}
(with NaP: {NAP_RESET}). Those draw network and target again at each change, and restart optimiser, replay,
exploration and schedule: each of their visits is that of a fresh agent.

arms: {", ".join(STUDY)}. nap-aligned restarts the learning rate at each change, nap-cyclic where no change is,
nap-cusum where it finds one.

A plan of it, and its report:

{PROG} --sequence minatar3 --seeds 5 --dry-run
{PROG} --figure run/continual-minatar3"""


@dataclass(frozen=True)
class ContinualSettings(Settings):
    """Which games, in which arms, and where."""

    suite: str = field(default="", init=False)
    """The games of the sequence."""
    sequence: str = setting("minatar3", "runs")
    """minatar3, minatar5, atari10, or games of one family with commas between."""
    task_steps: int = setting(150_000, "runs", at_least=1)
    """Agent steps of each visit to a game."""
    visits: int = setting(2, "runs", at_least=1, at_most=10_000)
    """How often the list is played."""
    only: str | None = setting(None, "runs")
    """Arms of the study with commas between; none: all of them. Those of --methods and --arm come on top."""
    norm_lr: float | None = setting(None, "runs", at_least=1e-12, at_most=10)
    """Learning rate, or peak, of the study's arms with norms (layer-norm and nap-*); none: that of all arms."""
    methods: str | None = setting(None, "runs")
    """Further arms, each an agent with one method: names with commas between, with options as --plasticity takes them.
    A name alone of one that can act at a change (dash, fire, reset ...) gets at=task."""
    config: str | None = setting(None, "runs", metavar="PRESET|FILE")
    """Preset or YAML file of the agent, for all arms; none: minatar for MinAtar's games, else the agent's own."""
    root: str | None = setting(None, "runs")
    """Folder of the runs; none: run/continual-SEQUENCE."""
    figure: str | None = setting(None, "plan and status")
    """Folder of a study, or the CSV file of its runs that --record wrote: write its report. Runs nothing."""
    out: str | None = setting(None, "plan and status")
    """--figure: folder of the report; none: report in the study's folder, or FILE-report next to FILE.csv."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "suite", self.sequence)

    def checked(self) -> ContinualSettings:
        """Checks these settings, as every sweep does."""
        if self.out is not None and self.figure is None:
            raise ConfigError("--out is for --figure")
        return super().checked()


class SequenceSweep(AgentSweep):
    """Every arm plays the sequence with every seed."""

    kind = SEQUENCES

    def tasks(self, suite: str) -> tuple[str, ...]:
        return (listed(suite),)


def listed(sequence: str) -> str:
    """The games of a sequence as --env takes them; ConfigError for what is none."""
    try:
        return resolve_game(joined(named(sequence)))
    except ValueError as error:
        raise ConfigError(f"--sequence: {error}") from None


def study_arms(only: str | None, visits: int, norm_lr: float | None = None) -> list[str]:
    """The arms of the study as name:flags, all or those that are named; `visits` are those to all games together."""
    names = list(STUDY) if only is None else [name.strip() for name in only.split(",") if name.strip()]
    for name in names:
        if name not in STUDY:
            raise ConfigError(f"--only: {name!r} is no arm of the study{suggest(name, STUDY, list_all=True)}")
    rates = {name: f" --lr {norm_lr!r}" for name in names if norm_lr is not None and name.startswith(NORMED)}
    if norm_lr is not None and not rates:
        raise ConfigError(f"--norm-lr has no effect with --only {only}: no arm there has norms")
    return [f"{name}:{STUDY[name].format(visits=visits, unaligned=visits + 1)}{rates.get(name, '')}" for name in names]


def method_arms(methods: str | None, names: Sequence[str]) -> list[str]:
    """Arms of one method each as name:flags, named after it; `names` are those of other arms."""
    specs = [] if methods is None else join_options(spec.strip() for spec in methods.split(",") if spec.strip())
    flags = {spec: f"{spec}:at=task" if spec in AT_CHANGES else spec for spec in specs}
    for spec in specs:
        if (name := short_name(spec)) in names:
            own = f'--arm NAME:"--plasticity {spec}"'
            raise ConfigError(f"--methods: an arm of the study is named {name}: leave it out, or give {own}")
    return [f"{short_name(spec)}:--plasticity {flags[spec]}" for spec in specs]


def study(settings: ContinualSettings, given: Sequence[str]) -> SequenceSweep:
    """The sweep of the study; ConfigError for any mistake in it."""
    games = listed(settings.sequence)
    preset = settings.config or ("minatar" if registered(games).network == "minatar" else None)
    rows = () if settings.config else ("--log-interval", "none")  # a preset's are of far longer runs; cusum reads rows
    common = ("--task-steps", str(settings.task_steps), "--visits", str(settings.visits), *rows, *given)
    (base,) = arms(settings.agent, preset, (), common)
    visits = len(base.config(games).tasks)
    chosen = study_arms(settings.only, visits, settings.norm_lr)
    methods = method_arms(settings.methods, [arm.partition(":")[0] for arm in chosen])
    own = (*chosen, *methods, *settings.arm)
    root = settings.root or f"run/continual-{file_name(games)}"
    return SequenceSweep(replace(settings, root=root, config=preset, arm=own), common)


def report(study: str, out: str | None) -> Path:
    """Writes the report on a study's folder or on the list of its runs; the path of the page."""
    from benchmarks.report.visit_report import report_visits

    path = Path(study)
    folder = Path(out) if out else path.with_name(f"{path.stem}-report") if path.is_file() else path / "report"
    report_visits(path, folder, PLAIN, RESET, NAP_RESET)
    return folder / PAGE


@cli_session()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the study, or report on one; the exit code. Bad input ends in one line and code 2."""
    with exit_on_bad_input():
        settings, common = parse(argv, ContinualSettings, PROG, DESCRIPTION)
        if settings.figure is not None:
            print(report(settings.figure, settings.out))
            return 0
    return carry_out(settings, SEQUENCES, lambda: study(settings, common))


if __name__ == "__main__":
    raise SystemExit(main())
