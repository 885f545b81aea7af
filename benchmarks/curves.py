"""Learning curves of runs, and what their probes saw: `python -m benchmarks.curves RUN... --out FIGURE`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from benchmarks.reporting.measures import MEASURES, Measure, series
from envs.games import reference_scores
from experiment.config import ConfigError, exit_on_bad_input, parse_cli
from experiment.interrupt import terminal_manners
from experiment.run_dir import RunDir
from studies.drawing import plotting, thousands
from studies.records import read_rows

WINDOW = 20
BELOW = ("elr", "dormant", "erank", "srank")
"""The measures that --plasticity draws."""


@dataclass(frozen=True)
class CurvesConfig:
    """What to draw."""

    runs: tuple[str, ...] = field(default=(), metadata={"positional": True, "metavar": "RUN"})
    """Run directories; runs of one game share a panel."""
    plasticity: bool = False
    """Below each game's curves: ELR, dormant units and ranks of the same runs."""
    out: str = "curves.svg"
    """File of the figure; its ending tells the format."""


def episodes(run: RunDir) -> tuple[list[int], list[float]]:
    """Agent steps at which whole games ended, and their raw returns."""
    return returns(read_rows(run))


def returns(rows: Iterable[Mapping[str, Any]]) -> tuple[list[int], list[float]]:
    """The same of rows of metrics."""
    ended = [row for row in rows if "episode_return" in row]
    return [row["agent_step"] for row in ended], [row["episode_return"] for row in ended]


def smooth(values: Sequence[float], window: int = WINDOW) -> list[float]:
    """Mean of each value and those before it, at most `window` in all."""
    sums = [0.0, *accumulate(values)]
    return [(sums[end] - sums[max(0, end - window)]) / min(end, window) for end in range(1, len(sums))]


def draw(runs: list[RunDir], out: Path, plasticity: bool = False) -> None:
    """A column a game: running mean of the episode returns over agent steps, random play, and the final score.

    plasticity: below it a panel for each measure that any of the runs has.
    """
    plt = plotting()
    results = [json.loads(run.result.read_text()) if run.result.is_file() else None for run in runs]
    games: dict[str, list[tuple[RunDir, Any]]] = {}
    for run, result in zip(runs, results, strict=True):
        games.setdefault(game_of(run), []).append((run, result))
    measured = {run.path: series(read_rows(run)) for run in runs} if plasticity else {}
    below = [each for each in MEASURES if each.name in BELOW and any(len(m[each.name][0]) for m in measured.values())]
    most = max(map(len, games.values()))  # runs of a panel, each with two lines of the legend
    plt.rcParams |= {"svg.hashsalt": "rewarm", "svg.fonttype": "none"}  # the same runs give the same, small file
    heights = [3 + 0.4 * most, *[1.8] * len(below)]
    figure, axes = plt.subplots(
        len(heights), len(games), figsize=(4.6 * len(games), sum(heights)), squeeze=False, layout="constrained",
        height_ratios=heights, sharex="col",
    )  # fmt: skip
    for column, (game, members) in zip(axes.T, games.items(), strict=True):
        draw_game(column[0], game, members)
        for axis, measure in zip(column[1:], below, strict=True):
            draw_measure(axis, measure, [measured[run.path][measure.name] for run, _ in members])
        column[0].tick_params(labelbottom=True)
        column[-1].set_xlabel("agent steps")
    figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None)


def draw_game(axis: Any, game: str, members: list[tuple[RunDir, Any]]) -> None:
    for run, result in members:
        steps, returns = episodes(run)
        (line,) = axis.plot(steps, smooth(returns), label=run.label, linewidth=1.3)
        if result and result["score"]:
            score = result["score"]["mean"]
            label = f"score of {result['score']['episodes']} games: {score:,.1f}"
            axis.plot(result["agent_steps"], score, "o", color=line.get_color(), label=label, clip_on=False)
    if game in reference_scores():
        random = reference_scores()[game][0]
        axis.axhline(random, color="0.4", linestyle=":", label=f"random play: {random:,.1f}")
    axis.set(title=game, xlabel="agent steps", ylabel=f"return (mean of {WINDOW} games)")
    if axis.dataLim.ymin >= 0:  # some games, such as Pong and Catch, are lost below 0
        axis.set_ylim(0, None)
    _finish(axis)
    axis.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2))  # below, off the curves


def draw_measure(axis: Any, measure: Measure, runs: Sequence[tuple[Any, Any]]) -> None:
    """One measure over agent steps, in the colours of the runs' curves."""
    for steps, values in runs:
        axis.plot(steps, values, linewidth=1.3)
    axis.set(title=measure.title, yscale="log" if measure.log else "linear")
    _finish(axis)


def _finish(axis: Any) -> None:
    axis.xaxis.set_major_formatter(thousands)
    axis.spines[["top", "right"]].set_visible(False)


def game_of(run: RunDir) -> str:
    """The game that a run plays."""
    from agents.config import DQNConfig
    from experiment.config import load_yaml

    return load_yaml(DQNConfig, run.config).env


@terminal_manners()
def main(argv: Sequence[str] | None = None) -> int:
    with exit_on_bad_input():
        config = parse_cli(
            CurvesConfig, argv, prog="python -m benchmarks.curves", description="Draw learning curves.", presets={}
        )
        if not config.runs:
            raise ConfigError("name at least one run directory")
        draw([RunDir.open(path) for path in config.runs], Path(config.out), config.plasticity)
    print(config.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
