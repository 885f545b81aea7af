"""A whole report as a folder: page, Markdown, CSV tables and figures, written at once or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from experiment.config import ConfigError

if TYPE_CHECKING:
    from benchmarks.report.figures import Figure
    from benchmarks.report.learning_curves import Trace
    from benchmarks.report.scores import Scores
    from benchmarks.report.table import Table

PAGE = "index.html"


@dataclass(frozen=True)
class ReportConfig:
    """What to report."""

    runs: tuple[str, ...] = field(default=(), metadata={"positional": True, "metavar": "RUNS"})
    """Run directories, sweeps (folders with a manifest), CSV files of agent,game,run,score, or folders of them."""
    out: str = "report"
    """Folder of the report; an older report there is replaced."""
    title: str = "Report"
    """Heading of the page."""


def write_report(config: ReportConfig, folder: Path) -> None:
    """Reads, computes and writes everything into a new folder. ConfigError, in one line, for bad input."""
    from benchmarks.report.learning_curves import read_traces
    from benchmarks.report.scores import read_scores

    scores = read_scores(config.runs)
    write_scores(folder, config.title, scores, read_traces(scores.runs))


def write_scores(
    folder: Path, title: str, scores: Scores, traces: Sequence[Trace], first: Sequence[Table] = ()
) -> None:
    """Computes and writes everything into a new folder; the tables `first` come before all others."""
    from benchmarks.report.facts import facts
    from benchmarks.report.figures import draw_figures
    from benchmarks.report.learning_curves import make_curves
    from benchmarks.report.summary import summarize
    from benchmarks.report.tables import all_tables

    curves = make_curves(traces)
    summary = summarize(scores)
    tables = [*first, *all_tables(scores, summary)]
    write_files(folder, title, facts(scores, summary, curves), tables, draw_figures(summary, curves))


def write_files(
    folder: Path, title: str, lines: Sequence[str], tables: Sequence[Table], figures: Sequence[Figure]
) -> None:
    """Writes page, Markdown, tables and figures into a new folder."""
    from benchmarks.report.page import html
    from experiment.tables import escaped

    shown = [table for table in tables if table.rows]
    odd = "backslashreplace"  # names of folders that are no UTF-8
    (folder / "figures").mkdir(parents=True)
    for figure in figures:
        (folder / "figures" / f"{figure.name}.svg").write_text(figure.svg, encoding="utf-8")
        if not figure.vector:
            (folder / "figures" / f"{figure.name}.png").write_bytes(figure.png())
    for table in tables:
        if table.records:
            (folder / f"{table.name}.csv").write_text(table.csv(), encoding="utf-8", errors=odd)
    (folder / PAGE).write_text(html(title, lines, shown, figures), encoding="utf-8", errors=odd)
    listed = "".join(f"- {escaped(line)}\n" for line in lines)
    parts = [f"# {escaped(title)}\n", listed, *(table.markdown() for table in shown)]
    (folder / "report.md").write_text("\n".join(parts), encoding="utf-8", errors=odd)


def replace_report(config: ReportConfig) -> None:
    """Builds the report and puts it in the place of an older one."""
    replace_folder(config.out, lambda folder: write_report(config, folder))


def replace_folder(place: str, write: Callable[[Path], None]) -> None:
    """Builds a report next to its folder, then renames it: the folder holds the old report or a complete new one.

    write: writes it into a new folder. Raises ConfigError for a folder that holds something else.
    """
    out = Path(place).resolve()
    if not _may_be_replaced(out):
        raise ConfigError(f"--out {place!r} is no report: choose a folder that is new, empty or an older report")
    temporary, old = (out.parent / f".{out.name}.{uuid.uuid4().hex}" for _ in range(2))
    try:
        write(temporary)
        if out.exists():
            os.rename(out, old)
        os.rename(temporary, out)
    finally:
        if old.exists() and not out.exists():
            os.rename(old, out)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _may_be_replaced(out: Path) -> bool:
    from benchmarks.report.page import MARK

    if not out.is_dir():
        return not out.exists()
    page = out / PAGE
    return not any(out.iterdir()) or (page.is_file() and MARK in page.read_text(encoding="utf-8", errors="replace"))
