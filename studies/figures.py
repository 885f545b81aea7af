"""The figures command of a study: single runs explained, folders of runs compared."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Literal, TypeVar

from experiment.config import ConfigError, exit_on_bad_input, parse_cli
from experiment.interrupt import cli_session
from experiment.storage.run_dir import RunDir
from studies.drawing import plotting
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
        config = parse_cli(FiguresConfig, argv, prog=prog, description="Draw runs.", presets={})
        if not config.runs:
            raise ConfigError("name at least one run directory, or a folder of them")
        plotting()
        out = Path(config.out)
        out.mkdir(parents=True, exist_ok=True)
        for path, name in figure_names([Path(run).resolve() for run in config.runs]).items():
            target = out / f"{name}.{config.format}"
            print(draw_folder(path, target) if inside(path) else draw_run(RunDir.open(path), target))
    return 0


def figure_names(paths: Sequence[Path]) -> dict[Path, str]:
    """A name for the figure of each run: its own, with its folder's before it where two would have the same."""
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


def save(pyplot: Any, figure: Any, out: Path) -> Path:
    """Writes and closes a figure; in an SVG the points of lines are rounded, so that it is half as large."""
    is_svg = out.suffix == ".svg"
    figure.savefig(out, metadata={"Date": None} if is_svg else None)
    pyplot.close(figure)
    if is_svg:
        text = re.sub(r"\n +", "\n", out.read_text(encoding="utf-8"))
        out.write_text(re.sub(r'(?<= d=)"[^"]*"', lambda path: _rounded(path[0]), text), encoding="utf-8")
    return out


def _rounded(path: str) -> str:
    """The path with its numbers to a tenth of a point, on one line."""
    return re.sub(r"(\.\d)\d+", r"\1", path.replace(" \n", "").replace("\n", ""))
