"""Facts that a report states about its numbers."""

from __future__ import annotations

from benchmarks.report.agreement import list_of
from benchmarks.report.learning_curves import Curves
from benchmarks.report.metric_series import WINDOW
from benchmarks.report.played import sentence
from benchmarks.report.scores import Scores
from benchmarks.report.summary import Summary
from envs.games import SCORE_NOTES, reference_scores
from envs.protocol import Protocol
from experiment.values import counted


def facts(scores: Scores, summary: Summary, curves: Curves) -> list[str]:
    """Sentences about the runs, their rules, and what is missing or left out."""
    runs, missing = len(scores.runs), len(scores.missing)
    played = {run.game for run in scores.runs}
    lines = [f"{counted(runs, 'run')} of {counted(len(scores.arms), 'arm')} in {counted(len(played), 'game')}."]
    lines.append(f"{counted(missing, 'run')} missing: see the table." if missing else "No run is known to be missing.")
    if failed := sum(item.why.startswith("failed") for item in scores.missing):
        lines.append(f"{counted(failed, 'run')} failed: the numbers of their arms come from the other runs.")
    lines += [rules_of(scores), *filter(None, (summary.caution(scores.arms), summary.why_not_published)), *scores.notes]
    lines.append(sentence([run.played for run in scores.runs]))
    if summary.left_out:
        names = ", ".join(summary.left_out)
        lines.append(f"Left out of all normalised numbers, since they have no human reference score: {names}.")
    known = [game for game in summary.games if game in reference_scores()]
    if summary.common and len(summary.common) < len(known):
        rest = [game for game in known if game not in summary.common]
        lines.append(f"Aggregates are over the games that every arm with scores has, without {', '.join(rest)}.")
    lines += [note for game, note in SCORE_NOTES.items() if game in played]
    if single := sum(cell.runs == 1 for cell in summary.cells.values()):
        lines.append(f"Games with one run of an arm have no interval, and add no spread to its aggregates: {single:,}.")
    if curves.runs:
        lines.append(f"Learning curves (running mean of {WINDOW} games) are of {counted(curves.runs, 'run')}.")
    else:
        lines.append("There are no learning curves: no run came with a directory that has a finished game of training.")
    return lines


def rules_of(scores: Scores) -> str:
    """The rules of all runs that state them: they are the same."""
    stated = next((run.protocol for run in scores.runs if run.protocol is not None), None)
    silent = list(dict.fromkeys(run.arm for run in scores.runs if run.protocol is None))
    if stated is None:
        return "The protocol is not stated."
    try:
        text = Protocol(**stated).summary()
    except TypeError:  # rules of another version, or a bare name
        text = str(stated.get("name", "unnamed"))
    return f"Protocol: {text}." + (f" Not stated by {list_of(silent)}." if silent else "")
