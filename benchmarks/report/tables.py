"""The tables of a report, once for Markdown, CSV and HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from benchmarks.report.agreement import comparable, kind_of, list_of
from benchmarks.report.played import described, total
from benchmarks.report.published import STEPS, published_label
from benchmarks.report.published_runs import published_runs_table
from benchmarks.report.scores import Score, Scores, run_order
from benchmarks.report.summary import AGGREGATES, Aggregate, Cell, Summary
from benchmarks.report.table import MOST_COLUMNS, Cells, Table, by_row, fine, raw, table_of_means
from envs.games import reference_scores
from experiment.tables import with_bounds
from experiment.values import counted

ALL_GAMES = "all games, human-normalised"
ENOUGH = 10
"""Fewest runs of a game for which bootstrap intervals reach about their nominal coverage."""


def all_tables(scores: Scores, summary: Summary) -> list[Table]:
    """The tables that have rows, in order."""
    tables = [
        aggregates(summary),
        own_aggregates(summary),
        improvements(summary),
        games(summary),
        paired(scores, summary),
        published_runs_table(scores, summary),
        evaluations(scores),
        arms(scores),
        differences(scores),
        missing(scores),
        versions(scores),
        runs(scores),
    ]
    return [table for table in tables if table.rows or table.records]


def aggregates(summary: Summary) -> Table:
    """Human-normalised aggregates of the arms and, as far as their means are known, of published methods."""
    published = [[label, "", fine(median), fine(mean), "", "", ""] for label, mean, median in summary.published]
    count = f"the {len(summary.common)} games" if len(summary.common) > 1 else "the one game"
    without = [arm for arm in summary.arms if arm not in {found.arm for found in summary.aggregates}]
    every = "every arm with scores has" if without else "every arm has"
    some = f"{count} that {every}" if summary.common else "each arm's own games"
    note = (
        f"Over {some}; 95% intervals of {summary.resamples:,} stratified bootstrap resamples of the runs. For the "
        "optimality gap lower is better."
    ) + _few(min((each.fewest for each in summary.aggregates), default=ENOUGH))
    if without:
        note += f" Without a normalised score so far: {', '.join(without)}."
    if published:
        note += " Published rows are made from means per game, which give mean and median alone."
    if any(found.uneven for found in summary.aggregates):
        note += (
            " Some arms have more runs of some games than of others: in the IQM every run weighs the same, in the rest "
            "every game."
        )
    if not summary.common:
        note += " The arms have no game in common: these rows do not compare."
    note += _after(summary.caution([each.arm for each in summary.aggregates]))
    return _aggregate_table("aggregates", "Human-normalised score", summary.aggregates, published, note)


def own_aggregates(summary: Summary) -> Table:
    """The same over all games of an arm, where others lack some of them."""
    note = "Over all games of the arm, some of which other arms lack: these rows do not compare."
    return _aggregate_table("own_games", "Each arm over all its games", summary.own, [], note)


def _aggregate_table(name: str, title: str, found: list[Aggregate], more: list[list[str]], note: str) -> Table:
    header = ["arm", *(_capital(key) for key in AGGREGATES), "games", "runs"]
    rows = [
        [each.arm, *(with_bounds(each.values[key], fine) for key in AGGREGATES), str(len(each.games)), f"{each.runs:,}"]
        for each in found
    ]
    records = [
        {"arm": each.arm, "aggregate": key, **each.values[key]._asdict(), "games": len(each.games), "runs": each.runs}
        for each in found
        for key in AGGREGATES
    ]
    return Table(name, title, header, rows + more if found else [], note, records)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def improvements(summary: Summary) -> Table:
    """How likely a run of an arm beats a run of another."""
    found = summary.improvements
    rows = [
        [
            f"{each.arm} > {each.other}",
            with_bounds(each.interval, fine),
            str(len(each.games)),
            ", ".join(f"{count:,}" for count in each.runs),
        ]
        for each in found
    ]
    records = [
        {"arm": each.arm, "other": each.other, **each.interval._asdict(), "games": len(each.games)}
        | {"arm_runs": each.runs[0], "other_runs": each.runs[1]}
        for each in found
    ]
    note = (
        "That a run of the first arm scores above one of the second in a random game of both; a tie counts one half. "
        f"95% intervals of {summary.resamples:,} stratified bootstrap resamples of the runs."
    ) + _few(min((each.fewest for each in found), default=ENOUGH))
    if len(summary.first) > MOST_COLUMNS:  # of those with runs
        note += f" Of more than {MOST_COLUMNS} arms each is compared with the first alone."
    note += _after(summary.caution(summary.paired))
    header = ["arms", "probability", "games", "runs of each"]
    return Table("improvement", "Probability of improvement", header, rows, note, records)


def _after(sentence: str) -> str:
    return f" {sentence}" if sentence else ""


def _few(fewest: int) -> str:
    """A warning of bootstrap intervals of few runs; `experiment.statistics.stratified_intervals` has the numbers."""
    if fewest >= ENOUGH:
        return ""
    runs = counted(fewest, "run")
    return f" With as few as {runs} of a game they are too narrow."


def games(summary: Summary) -> Table:
    """Every game: random play, the human tester, published means, and each arm."""
    random, human = (published_label(name, summary.arms) for name in ("random", "human"))
    with_reference = any(game in reference_scores() for game in summary.games)
    shown = [*((random, human) if with_reference else ()), *summary.references]
    header = ["game", *shown, *summary.arms]
    rows, records = [], []
    for game in summary.games:
        references = dict(zip((random, human), reference_scores().get(game, (None, None)), strict=True))
        references |= {name: scores.get(game) for name, scores in summary.references.items()}
        cells = [summary.cells.get((arm, game)) for arm in summary.arms]
        known = ["–" if (value := references[name]) is None else raw(value) for name in shown]
        rows.append([game, *known, *map(_game_cell, cells)])
        for arm, cell in zip(summary.arms, cells, strict=True):
            if cell is not None:
                counts = {"runs": cell.runs, "missing": cell.missing}
                records.append({"game": game, "arm": arm, **cell.interval._asdict(), **counts, **references})
    note = (
        "Mean raw score, its 95% Student-t interval over runs, and the number of runs (n). † marks runs that are "
        "missing."
    )
    if summary.references:
        note += f" {', '.join(summary.references)}: means at {STEPS:,} agent steps."
    note += _after(summary.caution(summary.arms))
    return Table("games", "Every game", *by_row(header, rows, len(summary.arms)), note, records)


def paired(scores: Scores, summary: Summary) -> Table:
    """How far each arm is from the first one with the same seeds: in games with two of them, and over two games."""
    by_seed: dict[tuple[str, str], dict[str, float]] = {}
    for run in scores.runs:
        if run.settings is not None:  # elsewhere the number of a run need not be a seed
            by_seed.setdefault((run.game, run.arm), {})[run.run] = run.score
    first = scores.arms[0] if scores.arms else ""
    cells: Cells = {}
    over_games: dict[str, list[float]] = {}
    for (game, arm), own in sorted(by_seed.items()):
        of_first = by_seed.get((game, first), {})
        found = [score - of_first[seed] for seed, score in own.items() if seed in of_first]
        if arm == first or not found:
            continue
        if len(found) > 1:
            cells[game, arm] = found
        if game in reference_scores():
            random, human = reference_scores()[game]
            over_games.setdefault(arm, []).append(float(np.mean(found)) / (human - random))
    cells |= {(ALL_GAMES, arm): found for arm, found in over_games.items() if len(found) > 1}
    note = (
        f"Mean raw score less that of {first} with the same seed, 95% Student-t interval, number of seeds (n). "
        "Over all games of both: the mean of their human-normalised differences, its interval over these games, and "
        "how many they are (n)."
    ) + _after(summary.caution([first, *{arm: None for _, arm in cells}]))
    return table_of_means("paired", f"Difference from {first}, paired by seed", note, cells, scores.arms)


def _game_cell(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    text = f"{with_bounds(cell.interval, raw)} n={cell.runs}" if cell.runs else "no run"
    return f"{text} †{cell.missing}" if cell.missing else text


def evaluations(scores: Scores) -> Table:
    """The games that the scores are means of; no rows if no run says how they ended."""
    names = [arm for arm in scores.arms if any(run.arm == arm for run in scores.runs)]
    grouped: dict[tuple[str, str], list[Score]] = {}
    for run in scores.runs:
        grouped.setdefault((run.game, run.arm), []).append(run)
    rows, records = [], []
    for game in sorted({run.game for run in scores.runs if run.played is not None}):
        groups = [grouped.get((game, arm), []) for arm in names]
        rows.append([game, *(described([run.played for run in group]) for group in groups)])
        for arm, group in zip(names, groups, strict=True):
            played = total([run.played for run in group])
            if played is not None:
                recorded = sum(run.played is not None for run in group)
                records.append({"game": game, "arm": arm, "runs": len(group), "recorded": recorded, **played._asdict()})
    note = (
        "Games of the final evaluations, of all runs together: whole ones unless some were cut at the limit. With a "
        "deterministic agent many games are the same: different counts those that differ in actions, length or return, "
        "within each run. The effective number is n² / Σ c² for n games, each different game played c times: that many "
        "independent games are worth as much. Intervals over runs do not depend on it; each run's score does."
    )
    return Table("evaluations", "Evaluations", *by_row(["game", *names], rows, len(names)), note, records)


def arms(scores: Scores) -> Table:
    """The rules, budget and runs of each arm."""
    header = ["arm", "runs", "missing", "games", "seeds", "protocol", "agent steps", "frame skip", "games per score"]
    rows = []
    by_arm: dict[str, list[Score]] = {arm: [] for arm in scores.arms}
    for run in scores.runs:
        by_arm[run.arm].append(run)
    for arm, own in by_arm.items():
        gone = sum(item.arm == arm for item in scores.missing)
        rows.append([
            arm,
            f"{len(own):,}",
            f"{gone:,}",
            str(len({run.game for run in own})),
            _seeds([run.run for run in own]),
            _span(run.rules or None for run in own),
            _budgets([run.steps for run in own]),
            _span(run.skip for run in own),
            _span(run.games for run in own),
        ])  # fmt: skip
    return Table("arms", "Arms", header, rows)


def _budgets(steps: Sequence[int | None]) -> str:
    """The budget of an arm; of runs scored in training it may differ a little, by the end of the last game."""
    known = sorted({each for each in steps if each is not None})
    return f"{known[0]:,} to {known[-1]:,}" if len(known) > 1 else _span(steps)


def _span(values: Iterable[str | int | None]) -> str:
    distinct = dict.fromkeys(values)
    texts = ["not stated" if value is None else value if isinstance(value, str) else f"{value:,}" for value in distinct]
    return list_of(texts) or "–"


def _seeds(names: Sequence[str]) -> str:
    """Seeds in order, long lists as their ends."""
    distinct = sorted(set(names), key=run_order)
    if len(distinct) <= 6:
        return ", ".join(distinct) or "–"
    return f"{distinct[0]} to {distinct[-1]} ({len(distinct)})"


def differences(scores: Scores) -> Table:
    """The settings in which the arms differ."""
    first: dict[str, Score] = {}
    for run in scores.runs:
        first.setdefault(run.arm, run)
    known = {arm: run.settings for arm, run in first.items() if run.settings is not None}
    names = list(dict.fromkeys(name for each in known.values() for name in comparable(each)))
    differing = [name for name in names if len({repr(each.get(name)) for each in known.values()}) > 1]
    rows = [[name, *(_setting(each.get(name)) for each in known.values())] for name in differing]
    return Table("settings", "Settings that differ", *by_row(["setting", *known], rows, len(known)))


def _setting(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def missing(scores: Scores) -> Table:
    """The runs without a score."""
    records = [{"arm": item.arm, "game": item.game, "seed": item.run, "why": item.why} for item in scores.missing]
    groups: dict[tuple[str, str, str], list[str]] = {}
    for item in scores.missing:
        groups.setdefault((item.arm, item.game, item.why), []).append(item.run)
    rows = [[arm, game, _seeds(seeds), why] for (arm, game, why), seeds in groups.items()]
    return Table("missing", "Missing runs", ["arm", "game", "seeds", "why"], rows, "", records)


def versions(scores: Scores) -> Table:
    """The software and machines of the runs, and how many runs each had."""
    counts: dict[tuple[str, str], int] = {}
    for run in scores.runs:
        for name, value in (run.versions or {}).items():
            counts[name, str(value)] = counts.get((name, str(value)), 0) + 1
    rows = [[name, value, f"{count:,}"] for (name, value), count in sorted(counts.items()) if value != "None"]
    return Table("versions", "Versions", ["of", "version", "runs"], rows)


def runs(scores: Scores) -> Table:
    """Every score, in the columns that the report reads back; for the CSV file alone."""
    records = [
        {
            "agent": run.arm,
            "game": run.game,
            "run": run.run,
            "score": run.score,
            "protocol": run.rules,
            "agent_steps": "" if run.steps is None else run.steps,
            "frame_skip": "" if run.skip is None else run.skip,
            "games": "" if run.games is None else run.games,
            "kind": kind_of(run) or "",
        }
        for run in scores.runs
    ]
    return Table("scores", "Scores", [], [], "", records)
