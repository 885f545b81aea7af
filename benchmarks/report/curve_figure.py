"""The figure of learning curves by game, with what the probes saw below, and the final scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import fill
from typing import Any

from benchmarks.report.learning_curves import Curve, Trace, game_curves, group, measure_curves
from benchmarks.report.metric_series import MEASURES, WINDOW, Measure
from benchmarks.report.panels import FEW, Look, draw_curves, looks
from benchmarks.report.panels import WIDTH as LETTERS
from benchmarks.report.runs import Run, trace_of
from benchmarks.report.table import raw
from envs.games import reference_scores
from experiment.config import ConfigError
from experiment.plot import INK, log_axis
from experiment.statistics import t_interval
from experiment.tables import with_bounds

BELOW = tuple(measure for measure in MEASURES if measure.name in ("elr", "dormant", "erank", "srank", "fit"))
"""The measures that --plasticity draws."""
POINTS = 200
"""Places of a curve."""
COLUMNS = 4
"""Games in a row."""
WIDTH = 4.6
"""Inches of a panel."""


@dataclass(frozen=True)
class Game:
    """What is drawn of a game: curves and measures by arm, and the runs with a trace."""

    name: str
    curves: Mapping[str, Curve]
    measures: Mapping[str, Mapping[str, Curve]]
    runs: Sequence[Run]


def draw_learning(pyplot: Any, runs: Sequence[Run], each: bool, plasticity: bool) -> Any:
    """A panel for each game, with every arm or every run. Raises ConfigError if no run has played a whole game."""
    if each:
        runs = [replace(run, arm=name) for run, name in zip(runs, own_names(runs), strict=True)]
    traces = [trace_of(run) for run in runs]
    drawn = [run for run, trace in zip(runs, traces, strict=True) if trace is not None]
    if blank := [Path(run.name).name for run, trace in zip(runs, traces, strict=True) if trace is None]:
        print(f"no whole game played yet, left out: {', '.join(blank)}")
    if not drawn:
        raise ConfigError("there is nothing to draw: no run has played a whole game yet")
    games = _games(drawn, [trace for trace in traces if trace is not None], plasticity)
    shared = looks(list(dict.fromkeys(run.arm for run in drawn)))  # an arm looks alike in all games
    return _figure(pyplot, [(game, looks(list(game.curves)) if each else shared) for game in games])


def own_names(runs: Sequence[Run]) -> list[str]:
    """A name for each run: that of its directory, after the folder's name if two directories have the same name."""
    paths = [Path(run.name) if run.directory is None else run.directory.path.resolve() for run in runs]
    names = [path.name for path in paths]
    alike = {name for name in names if names.count(name) > 1}
    return ["/".join(path.parts[-2:]) if path.name in alike else path.name for path in paths]


def _games(runs: Sequence[Run], traces: Sequence[Trace], plasticity: bool) -> list[Game]:
    found = []
    for name, curves in game_curves(group(traces), points=POINTS).items():
        groups = group([trace for trace in traces if trace.game == name])
        measures = {measure.name: measure_curves(groups, measure.name) for measure in BELOW} if plasticity else {}
        found.append(Game(name, curves, measures, [run for run in runs if run.game == name]))
    return found


def _figure(pyplot: Any, looking: Sequence[tuple[Game, Look]]) -> Any:
    """Rows of games, with a row for every measure below each. Empty panels are left out."""
    games = [game for game, _ in looking]
    below = [measure for measure in BELOW if any(game.measures.get(measure.name) for game in games)]
    across = min(len(games), COLUMNS)
    captions = [[_caption(look(arm)["label"], _of(game, arm)) for arm in game.curves] for game, look in looking]
    lines = max(sum(text.count("\n") + 1 for text in texts) for texts in captions)
    heights = [3.6 + 0.19 * lines, *[1.8] * len(below)]
    blocks = -(-len(games) // across)
    figure = pyplot.figure(figsize=(WIDTH * across, sum(heights) * blocks), layout="constrained")
    grid = figure.add_gridspec(len(heights) * blocks, across, height_ratios=heights * blocks)
    for place, (game, look) in enumerate(looking):
        row, column = len(heights) * (place // across), place % across
        top = figure.add_subplot(grid[row, column])
        draw_game(top, game, look)
        lowest = top
        for i, measure in enumerate(below, 1):
            if curves := game.measures[measure.name]:
                if lowest is not top:
                    lowest.tick_params(labelbottom=False)
                lowest = figure.add_subplot(grid[row + i, column], sharex=top)
                draw_measure(lowest, measure, curves, look)
        lowest.set_xlabel("agent steps")
    figure.supxlabel(fill(_note(games, bool(below)), int(WIDTH * across / 0.068)), fontsize=8, x=0.01, ha="left")
    return figure


def _note(games: Sequence[Game], measures: bool) -> str:
    """What lines and bands are."""
    counts = {len(curve.lines) for game in games for curve in game.curves.values()}
    tables = any(run.trace is not None for game in games for run in game.runs)
    stated = " Runs of tables: as their tables state them." * tables
    parts = [f"The running mean return of {WINDOW} games.{stated}"]
    if max(counts) > 1:
        thin = "thin: single runs" * any(1 < count <= FEW for count in counts)
        band = "band: 95% Student-t interval" * (max(counts) > FEW)
        parts.append(f"Bold: mean over runs; {', '.join(filter(None, (thin, band)))}.")
        if measures:
            parts.append("Below: the median run, and the middle half.")
    if any(run.score is not None for game in games for run in game.runs):
        parts.append(f"Dot: the final score{', and its 95% Student-t interval' * (max(counts) > 1)}.")
    return " ".join(parts)


def draw_game(axis: Any, game: Game, look: Look) -> None:
    """Curves, final scores and random play of a game, with their numbers in a legend below."""
    from matplotlib.transforms import ScaledTranslation

    draw_curves(axis, game.curves, lambda arm: look(arm) | {"label": _caption(look(arm)["label"], _of(game, arm))})
    scores = {arm: [run.score for run in _of(game, arm) if run.score is not None] for arm in game.curves}
    ends = {arm: (_of(game, arm)[0].budget, t_interval(scores[arm])) for arm in scores if scores[arm]}
    for arm, (end, found) in ends.items():
        axis.plot(end, found.value, "o", markersize=5, color=look(arm)["color"], clip_on=False)
    if game.name in reference_scores():
        random = reference_scores()[game.name][0]
        axis.axhline(random, color=INK, alpha=0.5, linestyle=":", label=f"random play: {raw(random)}")
    axis.set(title=game.name, ylabel=f"return (mean of {WINDOW} games)")
    if axis.dataLim.ymin >= 0:  # some games, such as Pong and Catch, are lost below 0
        axis.set_ylim(0, None)
    axis.set_ylim(axis.get_ylim())  # wide intervals would squeeze the curves: the legend has their numbers
    for arm, (end, found) in ends.items():
        axis.vlines(end, found.low, found.high, color=look(arm)["color"], linewidth=3, alpha=0.3)
    figure = axis.get_figure()
    below = axis.transAxes + ScaledTranslation(0, -0.42, figure.dpi_scale_trans)  # inches: off ticks and their label
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=below, borderpad=0)


def _of(game: Game, arm: str) -> list[Run]:
    return [run for run in game.runs if run.arm == arm]


def _caption(name: str, runs: Sequence[Run]) -> str:
    """A legend's entry: the arm, its runs, and what they scored."""
    scores = [run.score for run in runs if run.score is not None]
    parts = [f"{len(runs)} runs"] * (len(runs) > 1)
    if len(runs) == 1 and scores:
        games = {None: "", 1: " of 1 game"}.get(runs[0].games, f" of {runs[0].games} games")
        parts.append(f"score{games}: {raw(scores[0])}")
    elif scores:
        some = f" of {len(scores)}" * (len(scores) < len(runs))
        parts.append(f"score{some}: {with_bounds(t_interval(scores), raw)}")
    more = ", ".join(parts)
    fits = len(name.splitlines()[-1]) + len(more) + 2 <= LETTERS
    return f"{name},{' ' if fits else chr(10)}{more}" if more else name


def draw_measure(axis: Any, measure: Measure, arms: Mapping[str, Curve], look: Look) -> None:
    """One measure over agent steps, in the looks of the arms."""
    draw_curves(axis, arms, look)
    axis.set_title(measure.title)
    if measure.log:
        log_axis(axis)
