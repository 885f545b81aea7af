"""The report on a study of games in sequence, in the format of all reports."""

from __future__ import annotations

from pathlib import Path

from benchmarks.report.facts import rules_of
from benchmarks.report.tables import arms, differences, missing, versions
from benchmarks.report.visit_figures import draw_visits
from benchmarks.report.visit_runs import Study, read_study, short_game
from benchmarks.report.visit_tables import ratios, visit_tables
from benchmarks.report.writer import replace_folder, write_files
from experiment.values import counted

TITLE = "Games in sequence"


def report_visits(path: Path, out: Path, plain: str, fresh: str, fresh_nap: str = "") -> None:
    """Writes the report on a study's folder, or on the list of its runs, as a folder. ConfigError for bad input.

    plain: the arm that the others are compared with. fresh: the arm that is a fresh agent in each visit; fresh_nap: one
    with NaP.
    """
    study = read_study(path, plain, fresh, fresh_nap)

    def write(folder: Path) -> None:
        about = [arms(study.scores), differences(study.scores), missing(study.scores), versions(study.scores)]
        found = ratios(study)
        tables = [*visit_tables(study, found), *(table for table in about if table.rows)]
        write_files(folder, TITLE, facts(study), tables, draw_visits(study, found))

    replace_folder(str(out), write)


def facts(study: Study) -> list[str]:
    """Sentences about the runs, and what is missing."""
    tasks, runs = study.tasks, len(study.runs)
    games = ", ".join(map(short_game, tasks.games))
    steps = f"{counted(tasks.visits, 'visit')} of {tasks.task_steps:,} agent steps to each"
    lines = [f"{counted(runs, 'run')} of {counted(len(study.arms), 'arm')}. One network plays {games}: {steps}."]
    if study.missing:
        lines.append(f"{counted(len(study.missing), 'run')} missing: see the table.")
    if study.fresh in study.arms:
        lines.append(
            f"A fresh agent in each visit ({study.fresh_names}): network, target, optimiser, replay, exploration and "
            "schedule restart at each change, in the same run."
        )
    else:
        lines.append(f"No arm is {study.fresh}, a fresh agent in each visit: nothing is divided by what it learns.")
    return [*lines, rules_of(study.scores)]
