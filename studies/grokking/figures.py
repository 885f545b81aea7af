"""Figures from run directories: `python -m studies.grokking.figures RUN... --out DIR`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiment.plot import plotting, save
from studies import figures
from studies.grokking.comparisons import DRAWINGS, draw_curves
from studies.grokking.config import GrokkingConfig
from studies.grokking.run_figure import draw_run


def draw_folder(folder: Path, out: Path) -> Path:
    """The figure of a suite, from the folder of its runs; those that are not finished are left out, and named."""
    runs, pyplot = figures.load_finished(GrokkingConfig, folder), plotting()
    return save(DRAWINGS.get(folder.resolve().name, draw_curves)(pyplot, runs), out)


def main(argv: Sequence[str] | None = None) -> int:
    return figures.main(argv, prog="python -m studies.grokking.figures", draw_run=draw_run, draw_folder=draw_folder)


if __name__ == "__main__":
    raise SystemExit(main())
