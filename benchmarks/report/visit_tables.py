"""The tables of a study of games in sequence: what each visit brought, by arm."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.report.table import Table, by_row, raw
from benchmarks.report.visit_runs import SequenceRun, Study, short_game
from experiment.statistics import Interval, bootstrap_interval, t_interval
from experiment.tables import with_bounds

Values = dict[tuple[str, str], np.ndarray]
"""By row and arm: one value a seed, or of a pair one row a seed."""
Found = dict[tuple[str, str], tuple[Interval, int]]
"""By row and arm: an interval, and the number of seeds."""
Statistic = Callable[[np.ndarray], Interval]
ALL = "all visits"
LATER = "after the first change"


def visit_tables(study: Study, ratios: Found) -> list[Table]:
    """The tables that have rows, in order. ratios: those of `ratios`."""
    tables = [
        areas(study),
        paired(study),
        plasticity(study, ratios),
        _means(study, "last_tenth", "Mean return of a visit's last tenth", "Games that ended in the last tenth."),
        _means(study, "score", "Evaluation at a visit's end", "Mean return on the visit's own game."),
        forgetting(study),
        alarms(study),
        *features(study),
    ]
    return [table for table in tables if table.rows]


def _table(
    name: str,
    title: str,
    note: str,
    rows: Sequence[str],
    arms: Sequence[str],
    found: Found,
    text: Callable[[float], str] = raw,
    first: str = "visit",
) -> Table:
    """The interval of each row and arm; the number of seeds in the cells only where it differs."""
    shown = [arm for arm in arms if any((row, arm) in found for row in rows)]
    counts = {count for _, count in found.values()}

    def cell(row: str, arm: str) -> str:
        if (row, arm) not in found:
            return "–"
        of, count = found[row, arm]
        return with_bounds(of, text) + f" n={count}" * (len(counts) > 1)

    lines = [[row, *(cell(row, arm) for arm in shown)] for row in rows if any((row, arm) in found for arm in shown)]
    records = [
        {first: row, "arm": arm, **found[row, arm][0]._asdict(), "seeds": found[row, arm][1]}
        for row in rows
        for arm in shown
        if (row, arm) in found
    ]
    seeds = " n: seeds." if len(counts) > 1 else f" Over {counts.pop()} seeds." if counts else ""
    return Table(name, title, *by_row([first, *shown], lines, len(shown)), note + seeds, records)


BOOTSTRAP = "The mean over seeds and its 95% bootstrap interval, which is too narrow for few seeds (holds 83% at 5)."
STUDENT = "95% Student-t intervals."


def _intervals(values: Values, interval: Statistic) -> Found:
    return {key: (interval(of), len(of)) for key, of in values.items()}


def _by_visit(study: Study, measure: str) -> Values:
    """The known values of a measure by visit and arm."""
    found: Values = {}
    for arm in study.arms:
        of_runs = np.stack([run.values(measure) for run in study.of(arm)])
        for label, values in zip(study.labels, of_runs.T, strict=True):
            if (known := values[np.isfinite(values)]).size:
                found[label, arm] = known
    return found


def _means(
    study: Study, measure: str, title: str, note: str, text: Callable[[float], str] = raw, student: bool = False
) -> Table:
    interval, how = (t_interval, STUDENT) if student else (bootstrap_interval, BOOTSTRAP)
    found = _intervals(_by_visit(study, measure), interval)
    return _table(measure, title, f"{note} {how}", study.labels, study.arms, found, text)


def areas(study: Study) -> Table:
    """The mean return over the agent steps of each visit."""
    note = (
        "The area under a visit's curve of returns over its length: the mean, over the agent steps of the visit, of "
        "the return of the game that a step belongs to. Games that a change cut are left out."
    )
    return _means(study, "area", "Mean return of each visit", note)


def digits(value: float) -> str:
    """A ratio."""
    return f"{value:.2f}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


# --- against other arms, by seed


def _pairs(study: Study, arm: str, other: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """The areas of runs of two arms with the same seed."""
    one, two = study.by_seed(arm, "area"), study.by_seed(other, "area")
    return [(one[seed], two[seed]) for seed in one if seed in two]


def paired(study: Study) -> Table:
    """How far each arm is from the plain one with the same seeds, at each visit and over all."""
    first = study.plain if study.plain in study.arms else study.arms[0]
    values: Values = {}
    for arm in study.arms:
        if arm == first or not (pairs := _pairs(study, arm, first)):
            continue
        gaps = np.stack([one - two for one, two in pairs])
        for label, column in zip(study.labels, gaps.T, strict=True):
            if (known := column[np.isfinite(column)]).size:
                values[label, arm] = known
        overall = (gaps / study.scales).mean(1)
        if (known := overall[np.isfinite(overall)]).size:
            values[ALL, arm] = known
    note = f"Mean return of the visit less that of {first} with the same seed. {STUDENT}"
    if study.fresh in study.arms:
        note += (
            f" {_capital(ALL)}: the mean over visits of the difference over the mean return of {study.fresh} "
            "on that game (of all its seeds and visits), so that every game weighs the same."
        )
    found = _intervals(values, t_interval)
    return _table("paired", f"Difference from {first}, by seed", note, [ALL, *study.labels], study.arms, found)


def ratio(rows: np.ndarray) -> float:
    """Rows of an arm's areas and a fresh agent's, shape (seeds, 2, visits): the mean over visits of their ratio."""
    one, fresh = rows.mean(0)
    return float((one / fresh).mean()) if (fresh > 0).all() else math.nan


def ratios(study: Study) -> Found:
    """The plasticity of each arm at each visit, and after the first change."""
    values: Values = {}
    for arm in study.arms:
        if arm == (fresh := study.fresh_of(arm)) or not (pairs := _pairs(study, arm, fresh)):
            continue
        whole = np.array(pairs)
        for number, label in enumerate(study.labels):
            _keep(values, (label, arm), whole[:, :, number : number + 1])
        _keep(values, (LATER, arm), whole[:, :, 1:])
    return _intervals(values, lambda rows: bootstrap_interval(rows, ratio))


def _keep(values: Values, key: tuple[str, str], rows: np.ndarray) -> None:
    """Keep the seeds whose values are all known, if their ratio is."""
    known = rows[np.isfinite(rows).all((1, 2))]
    if len(known) and not math.isnan(ratio(known)):
        values[key] = known


def plasticity(study: Study, ratios: Found) -> Table:
    """What a visit brought over what it brings a fresh agent."""
    note = (
        f"The mean return of a visit over that of a fresh agent in the same visit ({study.fresh_names}): 1 is a "
        "network that learns as well as a fresh one; below 1 it has lost plasticity, or what it kept is in the way. "
        "The ratio of the means over the same seeds, and its 95% bootstrap interval over seeds. "
        f"{_capital(LATER)}: the mean over those visits."
    )
    title, rows = "Plasticity: a visit over a fresh agent's", [LATER, *study.labels]
    return _table("plasticity", title, note, rows, study.arms, ratios, digits)


# --- what is forgotten, found, and seen by the probes


def forgetting(study: Study) -> Table:
    """The best evaluation of each game at the end of an earlier visit, less that at the end of the run."""
    values: dict[tuple[str, str], list[float]] = {}
    for run in study.runs:
        *earlier, last = run.visits
        for game in last.scores if len(last.scores) == len(study.tasks.games) else ():
            best = max((visit.scores[game] for visit in earlier if game in visit.scores), default=math.nan)
            if math.isfinite(lost := best - last.scores[game]):
                values.setdefault((short_game(game), run.arm), []).append(lost)
    note = (
        "The best mean return on the game in the evaluation at the end of an earlier visit, to any game, less that at "
        f"the end of the run. The best of several is a little above 0 even where nothing is forgotten. {STUDENT}"
    )
    rows = [short_game(game) for game in study.tasks.games]
    found = _intervals({key: np.array(lost) for key, lost in values.items()}, t_interval)
    return _table("forgetting", "Forgetting", note, rows, study.arms, found, first="game")


def found_at(run: SequenceRun) -> list[tuple[int | None, int]]:
    """For each visit of a run: agent steps from its start to the first alarm, if a change is found, and false alarms.

    The first visit has no change before it, so that all of its alarms are false.
    """
    found: list[tuple[int | None, int]] = []
    for number in range(len(run.visits)):
        visit = run.config.tasks[number]
        own = [step - visit.start for step in sorted(run.alarms or ()) if visit.start < step <= visit.stop]
        found.append((own[0] if own and number else None, len(own) - bool(own and number)))
    return found


def updates_until(run: SequenceRun, steps: int) -> float:
    """The updates that a run makes in the first agent steps of a visit that is not the first."""
    waits = run.config.update_start if run.config.task_replay == "clear" else 0
    return float(run.config.utd) * max(steps - waits, 0)


def alarms(study: Study) -> Table:
    """How soon the schedules that listen found each change, and how often they restarted without one."""
    rows, records = [], []
    for arm in study.arms:
        runs = [run for run in study.of(arm) if run.alarms is not None]
        for number, label in enumerate([*study.labels, ALL]) if runs else ():
            numbers = range(len(study.labels)) if label == ALL else [number]
            record: dict[str, Any] = {"arm": arm, "visit": label} | _found_by(runs, numbers)
            records.append(record)
            rows.append([f"{arm}, {label}", *_found_cells(record)])
    note = (
        "A change is found by the first alarm of the visit that it begins. Agent steps and updates from the change to "
        "that alarm: means over the runs that found it; alarms come at rows of metrics (--log-interval). False alarms: "
        "all others, those of the first visit among them."
    )
    header = ["arm and visit", "changes found", "agent steps until then", "updates until then", "false alarms a run"]
    return Table("alarms", "Alarms of schedules that listen", header, rows, note, records)


def _found_by(runs: Sequence[SequenceRun], numbers: Sequence[int]) -> dict[str, float]:
    """What the alarms of some runs found in some visits."""
    pairs = [(run, own[number]) for run in runs for own in [found_at(run)] for number in numbers]
    delays = [(steps, updates_until(run, steps)) for run, (steps, _) in pairs if steps is not None]
    steps, updates = np.mean(delays, axis=0).tolist() if delays else (math.nan, math.nan)
    return {
        "changes": len(runs) * len([number for number in numbers if number]),
        "found": len(delays),
        "agent_steps": steps,
        "updates": updates,
        "false_alarms_a_run": sum(false for _, (_, false) in pairs) / len(runs),
    }


def _found_cells(record: Mapping[str, Any]) -> list[str]:
    times = [record["agent_steps"], record["updates"]]
    return [
        f"{record['found']} of {record['changes']}" if record["changes"] else "–",
        *("–" if math.isnan(time) else f"{time:,.0f}" for time in times),
        f"{record['false_alarms_a_run']:.1f}",
    ]


def features(study: Study) -> list[Table]:
    """What the probes saw at the end of each visit."""
    states = "On 256 states of the game, at the end of each visit."
    what: Mapping[str, tuple[str, str]] = {
        "dormant": ("Share of dormant units", states),
        "rank": ("Effective rank of the last hidden layer", states),
        "td_error": ("TD error of the newest transitions", "In the last row of metrics of each visit."),
    }

    return [_means(study, name, *about, short, student=True) for name, about in what.items()]


def short(value: float) -> str:
    """A number of any size, to three digits."""
    return f"{value:.3g}"
