"""Learning-rate schedules at a high update-to-data ratio, with and without NaP: `python -m benchmarks.high_utd`.

The reinforcement-learning experiments of arXiv 2507.20057 (section 6.2, figures 7 and 10) as arms of a sweep, and a
first answer to a question that the paper leaves open: when to stop cycling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from agents.config import DQNConfig
from benchmarks.report.writer import ReportConfig, replace_report
from benchmarks.sweep.command import AgentSweep, Settings, parse
from benchmarks.sweep.runs import KIND
from benchmarks.sweep.suites import arms, games
from experiment.config import ConfigError, exit_on_bad_input
from experiment.interrupt import cli_session
from experiment.setting import setting
from experiment.sweeps.command import carry_out

PROG = "python -m benchmarks.high_utd"
DESCRIPTION = f"""Compare learning-rate schedules on many games with several seeds, as benchmarks.atari does, with
the same options. --lr and --lr-floor, of the preset or after --, are the peak and floor of all arms. After
cycling the rate stays at the floor (--anneal floor), unless another --anneal follows after --.

schedules: constant (the peak), low (the floor), cyclic, early-cycle and one-cycle, each with NaP and without;
stops:     early-cycle with NaP, stopped after 0.04 to 1 of it, at a quarter of the peak, the peak, 4 times that;
automatic: early-cycle with NaP that stops at a set step, by CUSUM on fresh TD errors, or by a plateau of return.

The paper's size is {PROG} --config high-utd: 50M agent steps. One that 2 cores finish, and what it costs:

{PROG} --suite Breakout,Seaquest,Krull --seeds 3 --dry-run -- --steps 20000 --utd 4 --log-interval 40"""

SCHEDULES = {
    "constant": "--schedule constant",
    "low": "--schedule constant --lr {floor}",
    "cyclic": "--schedule cyclic",
    "early-cycle": "--schedule early-cycle",
    "one-cycle": "--schedule one-cycle",
}
STOPS = (0.04, 0.1, 0.2, 0.4, 0.8, 1.0)
"""Shares of the schedule in which early-cycle cycles; the first three are of appendix B.3: 8M, 20M, 40M frames."""
PEAKS = (0.25, 1.0, 4.0)
"""Peaks of the experiment `stops`, as multiples of --lr."""
AUTOMATIC = ("early-cycle", "early-cycle-cusum", "early-cycle-plateau")


@dataclass(frozen=True)
class StudySettings(Settings):
    """Which experiment to run, on what, and where."""

    suite: str = setting("high-utd-20", "runs")
    """high-utd-20, atari100k (26 games), atari57, minatar (5), or games with commas between: Pong,Krull. MinAtar's
    games are not mixed with others."""
    experiment: Literal["schedules", "stops", "automatic"] = setting("schedules", "runs")
    """The arms, as above; those of --arm come on top."""
    figure: str | None = setting(None, "plan and status")
    """Folder of a study: write its report, with the largest falls and the stops, into the folder report in it. Runs
    nothing."""


def experiment_arms(experiment: str, config: DQNConfig) -> tuple[str, ...]:
    """The arms of an experiment as name:flags, around the peak, floor and cycles of the settings of all runs."""
    peak, floor = config.lr, config.lr_floor
    if experiment == "schedules":
        plain = {name: flags.format(floor=repr(floor)) for name, flags in SCHEDULES.items()}
        found = [(f"nap-{name}", f"--nap {flags}") for name, flags in plain.items()] + list(plain.items())
    elif experiment == "stops":
        flags = "--nap --schedule early-cycle --cycle-fraction {} --cycles {} --lr {!r}"
        density = config.cycles / config.cycle_fraction  # cycles of one length, as in appendix B.3
        pairs = [(stop, float(f"{peak * factor:.6g}")) for stop in STOPS for factor in PEAKS]
        found = [
            (f"stop{stop:g}-lr{lr:g}", flags.format(stop, max(round(stop * density), 1), lr)) for stop, lr in pairs
        ]
    else:
        found = [(name, f"--nap --schedule {name}") for name in AUTOMATIC]
    return tuple(f"{name}:{flags}" for name, flags in found)


def study(settings: StudySettings, given: Sequence[str]) -> AgentSweep:
    """The sweep of an experiment; ConfigError for a floor that cannot be a rate of its own."""
    common = ("--anneal", "floor", *given)
    (base,) = arms(settings.agent, settings.config, (), common)
    config = base.config(games(settings.suite)[0])
    if settings.experiment == "schedules" and not 0 < config.lr_floor <= config.lr:
        raise ConfigError(f"--lr-floor is {config.lr_floor}: it has to be above 0, at most --lr {config.lr}, for 'low'")
    own = experiment_arms(settings.experiment, config)
    root = settings.root or f"run/high-utd-{settings.experiment}"
    return AgentSweep(replace(settings, root=root, arm=(*own, *settings.arm)), common)


def report(folder: str) -> str:
    """Writes the report on a study's folder; the path of it."""
    from benchmarks.report.stability import stability_tables

    config = ReportConfig((folder,), f"{folder.rstrip('/')}/report", "Schedules at a high update-to-data ratio")
    replace_report(config, stability_tables)
    return config.out


@cli_session()
def main(argv: Sequence[str] | None = None) -> int:
    """Run an experiment, or report on one; the exit code. Bad input ends in one line and code 2."""
    with exit_on_bad_input():
        settings, common = parse(argv, StudySettings, PROG, DESCRIPTION)
        if settings.figure is not None:
            print(report(settings.figure))
            return 0
    return carry_out(settings, KIND, lambda: study(settings, common))


if __name__ == "__main__":
    raise SystemExit(main())
