"""Learning-rate schedules at a high update-to-data ratio, with and without NaP: `python -m benchmarks.high_utd`.

The reinforcement-learning experiments of arXiv 2507.20057 (section 6.2, figures 7 and 10) as arms of a sweep, and a
first answer to a question that the paper leaves open: when to stop cycling.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from operator import eq
from pathlib import Path
from typing import Literal

from agents.config import DQNConfig
from benchmarks.method_scores import method_arms
from benchmarks.report.writer import PAGE
from benchmarks.sweep.command import AgentSweep, Settings, parse
from benchmarks.sweep.runs import SCHEDULES as KIND
from benchmarks.sweep.suites import arms, games
from envs.registry import registered
from experiment.config import ConfigError, exit_on_bad_input
from experiment.interrupt import cli_session
from experiment.setting import setting
from experiment.sweeps.command import carry_out
from plasticity.registry import METHODS

PROG = "python -m benchmarks.high_utd"
SCHEDULES = {
    "constant": "--schedule constant",
    "low": "--schedule constant --lr {floor}",
    "cyclic": "--schedule cyclic",
    "early-cycle": "--schedule early-cycle",
    "one-cycle": "--schedule one-cycle",
}
NETWORKS = {"plain": "", "layer-norm": "--plasticity layer-norm", "nap": "--nap"}
STOPS = (0.04, 0.1, 0.2, 0.4, 0.8, 1.0)
"""Shares of the schedule in which early-cycle cycles; the first three are of appendix B.3: 8M, 20M, 40M frames."""
PEAKS = (0.25, 1.0, 4.0)
"""Peaks of the experiment `stops`, as multiples of --lr."""
BY_HAND = (0.5, 1.0, 2.0)
"""Stops of the experiment `automatic`, as multiples of --cycle-fraction."""
RULES = ("early-cycle-cusum", "early-cycle-plateau")
WITHIN = ("stops", "automatic")
"""Experiments in a network that is given."""
UTDS = (1, 2, 4, 8)
BASES = ("utd1", "none")
"""Arms that the others of their experiment are compared with, whichever run of it is the first that is finished."""


@dataclass(frozen=True)
class Plan:
    """The runs of an experiment: how many seeds, the first one, and what --suite minatar plays (none: all games)."""

    seeds: int = 5
    first_seed: int = 0
    minatar: tuple[str, ...] = ("MinAtar/Breakout", "MinAtar/SpaceInvaders")


PLANS = {
    "calibrate": Plan(first_seed=100, minatar=()),
    "networks": Plan(seeds=10),
    "automatic": Plan(seeds=10),
    "methods": Plan(),
    "schedules": Plan(),
    "stops": Plan(),
}
MINATAR = (
    "--steps", "30000", "--utd", "4", "--update-start", "1000", "--epsilon-steps", "5000", "--log-interval", "50",
    "--probe-interval", "1500", "--eval-episodes", "100",
)  # fmt: skip
"""Options of all runs on MinAtar's games; those after -- come later and decide."""

DESCRIPTION = f"""Compare learning-rate schedules on many games with several seeds, as benchmarks.atari does, with
the same options. --lr and --lr-floor, of the preset or after --, are the peak and floor of all arms. After
cycling the rate stays at the floor (--anneal floor), unless another --anneal follows after --.

schedules: constant (the peak), low (the floor), cyclic, early-cycle and one-cycle, each with NaP and without;
stops:     early-cycle, stopped after 0.04 to 1 of the schedule, at a quarter of the peak, the peak, 4 times that;
automatic: early-cycle that stops at half of --cycle-fraction, at it and at twice that, against rules: CUSUM on
           fresh TD errors, a plateau of return. The best of the three is chosen on the first half of the seeds;
calibrate: the plain agent at UTD {", ".join(map(str, UTDS))}: where does it lose plasticity?
networks:  constant, cyclic, early-cycle and one-cycle, each without a method, with LayerNorm, and with NaP;
methods:   every method of --plasticity, and none, as benchmarks.method_scores has them.

--suite minatar has a plan for 2 cores: preset minatar, {" ".join(MINATAR[:4])}; calibrate plays
the five games, the others {" and ".join(Plan.minatar)}. The paper's size is {PROG}
--config high-utd: 50M agent steps. One on Atari that 2 cores finish, and what it costs:

{PROG} --suite Breakout,Seaquest,Krull --seeds 3 --dry-run -- --steps 20000 --utd 4 --log-interval 40"""


@dataclass(frozen=True)
class StudySettings(Settings):
    """Which experiment to run, on what, and where."""

    suite: str = setting("high-utd-20", "runs")
    """high-utd-20, atari100k (26 games), atari57, minatar, or games with commas between: Pong,Krull. MinAtar's
    games are not mixed with others."""
    experiment: Literal["schedules", "stops", "automatic", "calibrate", "networks", "methods"] = setting(
        "schedules", "runs"
    )
    """The arms, as above; those of --arm come on top."""
    within: Literal["plain", "layer-norm", "nap"] = setting("nap", "runs")
    """Network of the experiments stops and automatic."""
    seeds: int = setting(0, "runs", at_least=0)
    """Runs of each arm on each game; 0: 10 in networks and automatic, 5 in the others."""
    first_seed: int = setting(0, "runs", at_least=0)
    """Seed of the first run of each arm and game; calibrate: 0 stands for 100, apart from what is reported."""
    figure: str | None = setting(None, "plan and status")
    """Folder of a study, or the CSV file of its runs that --record wrote: write its report. Runs nothing."""
    out: str | None = setting(None, "plan and status")
    """--figure: folder of the report; none: report in the study's folder, or FILE-report next to FILE.csv."""

    def checked(self) -> StudySettings:
        """Checks these settings, as every sweep does."""
        if self.out is not None and self.figure is None:
            raise ConfigError("--out is for --figure")
        if self.within != "nap" and self.experiment not in WITHIN:
            raise ConfigError(
                f"--within has no effect with --experiment {self.experiment}: it is for {' and '.join(WITHIN)}"
            )
        return super().checked()


class StudySweep(AgentSweep):
    """A sweep whose list of finished runs holds their curves."""

    kind = KIND


def experiment_arms(experiment: str, config: DQNConfig, within: str = "nap") -> tuple[str, ...]:
    """The arms of an experiment as name:flags, around the peak, floor and cycles of the settings of all runs."""
    peak, floor = config.lr, config.lr_floor
    network = NETWORKS[within]
    density = config.cycles / config.cycle_fraction  # cycles of one length, as in appendix B.3

    def early_cycle(stop: float) -> str:
        return f"{network} --schedule early-cycle --cycle-fraction {stop:g} --cycles {max(round(stop * density), 1)}"

    if experiment == "schedules":
        plain = {name: flags.format(floor=repr(floor)) for name, flags in SCHEDULES.items()}
        found = [(f"nap-{name}", f"--nap {flags}") for name, flags in plain.items()] + list(plain.items())
    elif experiment == "networks":
        names = [name for name in SCHEDULES if name != "low"]
        found = [(arm_name(each, name), f"{NETWORKS[each]} {SCHEDULES[name]}") for each in NETWORKS for name in names]
    elif experiment == "stops":
        pairs = [(stop, float(f"{peak * factor:.6g}")) for stop in STOPS for factor in PEAKS]
        found = [(f"stop{stop:g}-lr{lr:g}", f"{early_cycle(stop)} --lr {lr!r}") for stop, lr in pairs]
    elif experiment == "automatic":
        shares = [share for factor in BY_HAND if (share := float(f"{config.cycle_fraction * factor:.6g}")) <= 1]
        found = [(f"stop{share:g}", early_cycle(share)) for share in shares]
        found += [(name, f"{network} --schedule {name}") for name in RULES]
    elif experiment == "calibrate":
        found = [(f"utd{utd}", f"--utd {utd}") for utd in UTDS]
    else:
        return method_arms(list(METHODS), int(config.learning_steps * config.utd))
    return tuple(f"{name}:{flags}" for name, flags in found)


def arm_name(network: str, schedule: str) -> str:
    """The name of the arm of a network and a schedule."""
    return schedule if network == "plain" else f"{network}-{schedule}"


def study(settings: StudySettings, given: Sequence[str]) -> StudySweep:
    """The sweep of an experiment; ConfigError for a floor that cannot be a rate of its own."""
    plan = PLANS[settings.experiment]
    suite = ",".join(plan.minatar) if settings.suite == "minatar" and plan.minatar else settings.suite
    first, *_ = games(suite)
    minatar = registered(first).network == "minatar"
    preset = settings.config or ("minatar" if minatar else None)
    common = ("--anneal", "floor", *(MINATAR if minatar else ()), *given)
    (base,) = arms(settings.agent, preset, (), common)
    config = base.config(first)
    if settings.experiment == "schedules" and not 0 < config.lr_floor <= config.lr:
        raise ConfigError(f"--lr-floor is {config.lr_floor}: it has to be above 0, at most --lr {config.lr}, for 'low'")
    own = experiment_arms(settings.experiment, config, settings.within)
    settings = replace(
        settings,
        suite=suite,
        config=preset,
        root=settings.root or f"run/high-utd-{settings.experiment}",
        seeds=settings.seeds or plan.seeds,
        first_seed=settings.first_seed or plan.first_seed,
        arm=(*own, *settings.arm),
    )
    return StudySweep(settings, common)


def contrasts(arms: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs of arms to compare: in a grid of networks and schedules, those that differ in one of the two.

    Of other arms each is compared with the first one.
    """
    grid = {(network, schedule): arm_name(network, schedule) for network in NETWORKS for schedule in SCHEDULES}
    of_arm = {name: key for key, name in grid.items()}
    if not all(arm in of_arm for arm in arms):
        return [(arm, arms[0]) for arm in arms[1:]]
    pairs = combinations(arms, 2)
    return [(two, one) for one, two in pairs if sum(map(eq, of_arm[one], of_arm[two])) == 1]


def report(study: str, out: str | None = None) -> Path:
    """Writes the report on a study's folder or on the list of its runs; the path of the page."""
    from benchmarks.report.contrasts import chosen_stop_table, contrast_table
    from benchmarks.report.late_tables import late_tables
    from benchmarks.report.recorded import read_recorded
    from benchmarks.report.stability import stability_tables
    from benchmarks.report.writer import replace_folder, write_scores

    path = Path(study)
    folder = Path(out) if out else path.with_name(f"{path.stem}-report") if path.is_file() else path / "report"
    scores, runs = read_recorded(study)
    scores = replace(scores, runs=tuple(sorted(scores.runs, key=lambda run: run.arm not in BASES)))
    stops = [arm for arm in scores.arms if re.fullmatch(r"stop[\d.]+", arm)]
    rules = [arm for arm in RULES if arm in scores.arms]
    found = [
        contrast_table(scores, contrasts(scores.arms)),
        chosen_stop_table(scores, stops, rules if stops else ()),
        *late_tables(runs, scores.arms),
        *stability_tables(runs, scores.arms),
    ]
    tables = [table for table in found if table.rows]
    traces = [run.trace for run in runs]
    replace_folder(str(folder), lambda place: write_scores(place, TITLE, scores, traces, tables))
    return folder / PAGE


TITLE = "Schedules at a high update-to-data ratio"


@cli_session()
def main(argv: Sequence[str] | None = None) -> int:
    """Run an experiment, or report on one; the exit code. Bad input ends in one line and code 2."""
    with exit_on_bad_input():
        settings, common = parse(argv, StudySettings, PROG, DESCRIPTION)
        if settings.figure is not None:
            print(report(settings.figure, settings.out))
            return 0
    return carry_out(settings, KIND, lambda: study(settings, common))


if __name__ == "__main__":
    raise SystemExit(main())
