"""The figures command of a study: single runs explained, folders of runs compared."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any, Literal, TypeVar

from experiment import plot
from experiment.config import ConfigError, exit_on_bad_input, parse_cli
from experiment.interrupt import cli_session
from experiment.results import Row
from experiment.storage.run_dir import RunDir
from studies.records import FinishedRun, load

Config = TypeVar("Config")


@dataclass(frozen=True)
class FiguresConfig:
    """What to draw."""

    runs: tuple[str, ...] = field(default=(), metadata={"positional": True, "metavar": "RUN"})
    """Run directories, each explained in a figure, or folders of a suite, each compared in one."""
    out: str = "figures"
    """Folder of the figures."""
    format: Literal["png", "svg"] = "png"
    """Format of the figures."""


@cli_session()
def main(
    argv: Sequence[str] | None,
    *,
    prog: str,
    draw_run: Callable[[RunDir, Path], Path],
    draw_folder: Callable[[Path, Path], Path],
) -> int:
    """Draws what the command line names, and prints the paths of the figures; the exit code."""
    with exit_on_bad_input():
        config = parse_cli(FiguresConfig, argv, prog=prog, description="Draw runs.")
        if not config.runs:
            raise ConfigError("name at least one run directory, or a folder of them")
        plot.plotting()
        out = Path(config.out)
        out.mkdir(parents=True, exist_ok=True)
        for path, name in figure_names([Path(run).resolve() for run in config.runs]).items():
            target = out / f"{name}.{config.format}"
            print(draw_folder(path, target) if inside(path) else draw_run(RunDir.open(path), target))
    return 0


def figure_names(paths: Sequence[Path]) -> dict[Path, str]:
    """A name for the figure of each run: the run's name, after its folder's name if two runs have the same."""
    names: dict[Path, str] = {}
    for path in paths:
        alone = sum(other.name == path.name for other in set(paths)) == 1
        name = path.name if alone else f"{path.parent.name}-{path.name}"
        free = (name if i == 1 else f"{name}-{i}" for i in count(1))
        if path not in names:
            names[path] = next(choice for choice in free if choice not in names.values())
    return names


def inside(folder: Path) -> list[RunDir]:
    """The runs in a folder, by name."""
    items = sorted(folder.iterdir()) if folder.is_dir() else []
    return [RunDir(item) for item in items if (item / "config.yaml").is_file()]


def load_finished(config_class: type[Config], folder: Path) -> list[FinishedRun[Config]]:
    """The finished runs in a folder; others are left out, and named. Raises ConfigError if none is finished."""
    runs = [load(config_class, run) for run in inside(folder) if run.finished]
    if unfinished := [run.path.name for run in inside(folder) if not run.finished]:
        print(f"not finished, left out: {', '.join(unfinished)}")
    if not runs:
        raise ConfigError(f"no run in {str(folder)!r} is finished yet")
    return runs


# --- what the figures of both studies draw


def by_arm(runs: Sequence[FinishedRun[Config]]) -> dict[str, list[FinishedRun[Config]]]:
    """Runs that differ only in the seed, by the common part of their names."""
    groups: dict[str, list[FinishedRun[Config]]] = {}
    for run in runs:
        groups.setdefault(re.sub(r"-s\d+$", "", run.name), []).append(run)
    return groups


def draw_seeds(
    axis: Any,
    runs: Sequence[FinishedRun[Any]],
    color: Any,
    label: str | None,
    *,
    metric: str = "test_accuracy",
    shift: int = 0,
) -> None:
    """A metric over updates, `shift` of them taken off: seeds thin, their median over common updates bold."""
    curves = [dict(zip(run.column("update"), run.column(metric), strict=True)) for run in runs]
    for curve in curves:
        axis.plot([update - shift for update in curve], list(curve.values()), color=color, **plot.THIN)
    common = sorted(set.intersection(*(set(curve) for curve in curves)))
    middle = [median(curve[update] for curve in curves) for update in common]
    axis.plot([update - shift for update in common], middle, color=color, linewidth=1.8, label=label)


def updates_axis(axis: Any, label: str = "updates", *, log: bool = False) -> None:
    """Updates along the axis, from 100 if logarithmic."""
    if log:
        axis.set_xlim(left=100)
        plot.log_axis(axis, "x")
    axis.xaxis.set_major_formatter(plot.thousands)
    axis.set_xlabel(label)


def draw_panels(
    pyplot: Any,
    run: FinishedRun[Any],
    panels: Sequence[Callable[[Any, FinishedRun[Any]], None]],
    mark: Callable[[Any, FinishedRun[Any]], None],
    title: str,
) -> Any:
    """One run explained: panels over updates, three in a line, and in each what `mark` draws."""
    lines = -(-len(panels) // 3)
    figure, axes = pyplot.subplots(lines, 3, figsize=(13, 3.05 * lines), sharex=True, layout="constrained")
    for axis, panel in zip(axes.flat, panels, strict=True):
        panel(axis, run)
        mark(axis, run)
        axis.margins(x=0.01)
        updates_axis(axis, "")
    for axis in axes[-1]:
        axis.set_xlabel("updates")
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def layers(rows: Sequence[Row], metric: str) -> dict[str, str]:
    """The keys of the metric whose name begins so, by layer, in the order of the network."""
    found = {}
    for key in dict.fromkeys(key for row in rows for key in row):
        name, _, layer = key.partition("/")
        if layer and name.startswith(metric):
            found[layer.removesuffix(".weight")] = key
    return found
