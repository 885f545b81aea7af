"""From points to tables: one score for each run, CSV text, and a summary of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from benchmarks.formats.point import COLUMNS, Point, known_game
from experiment.tables import csv_table

Run = tuple[str, str, str]


def run_of(point: Point) -> Run:
    """What names a run: agent, game and run."""
    return point.agent, point.game, point.run


def final_scores(points: Iterable[Point], last: int) -> list[Point]:
    """One point for each run: its last, with the mean of its last `last` scores.

    The last are those with the most steps or frames; without either, the last in the file.
    """
    runs: dict[Run, list[Point]] = {}
    for point in points:
        runs.setdefault(run_of(point), []).append(point)
    return [_mean(sorted(run, key=_trained)[-last:]) for run in runs.values()]


def _trained(point: Point) -> tuple[int, int]:
    """How long a run had trained; 0 where that is not known."""
    return point.steps or 0, point.frames or 0


def _mean(points: Sequence[Point]) -> Point:
    games = [point.games for point in points if point.games is not None]
    return replace(
        points[-1],
        score=sum(point.score for point in points) / len(points),
        games=sum(games) if len(games) == len(points) else None,
        deviation=points[-1].deviation if len(points) == 1 else None,
    )


def csv_text(points: Sequence[Point]) -> str:
    """A line for each point; columns that no point fills are left out."""
    used = [name for name in COLUMNS if any(getattr(point, name) is not None for point in points)]
    return csv_table(used, [[getattr(point, name) for name in used] for point in points])


def summary(points: Sequence[Point], scores: Sequence[Point], last: int) -> list[str]:
    """Lines for the user: what was read, how the scores were computed, and what the report will not read."""
    per_game = Counter((score.agent, score.game) for score in scores).values()
    spread = "" if min(per_game) == max(per_game) else f"{min(per_game)} to "
    agents, games = {score.agent for score in scores}, {score.game for score in scores}
    made = f"the mean of the last {last} measurements" if last > 1 else "the last measurement"
    lines = [
        f"runs: {len(scores)} (agents: {len(agents)}, games: {len(games)}, runs of a game: {spread}{max(per_game)})",
        f"score of a run: {made} in {scores[0].kind}",
    ]
    if short := sum(count < last for count in Counter(map(run_of, points)).values()):
        lines.append(f"runs with fewer than {last} measurements, whose score is the mean of all of them: {short}")
    if unknown := sorted(game for game in games if known_game(game) is None):
        lines.append(f"games that the report does not know: {', '.join(unknown[:5])}{' ...' * (len(unknown) > 5)}")
    return lines
