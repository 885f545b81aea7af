"""A scan's report as tables for a terminal and as one HTML page."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from nap.scanning import LayerScan, ScanReport, WeightScan

LEAST_NAME = 26
"""Columns that a name keeps in a narrow terminal, as long as there is another column to leave out."""
WIDTH, HEIGHT = 120, 28
"""Pixels of a spectrum."""
DECADES = 4
"""Orders of magnitude that a spectrum shows."""


class Column(NamedTuple):
    """A figure of a weight or layer."""

    head: str
    text: Callable[[Any], str]
    rank: int = 0
    """Columns of a higher rank are left out first in a narrow terminal."""


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return "nan" if math.isnan(value) else f"{value:.1e}" if value and not 1e-3 <= abs(value) < 1e5 else f"{value:.4g}"


def _share(value: float) -> str:
    return "nan" if math.isnan(value) else f"{value:.1%}"


def _of(rank: float, full: int) -> str:
    return f"{rank:.1f}/{full}"


WEIGHTS = (
    Column("weight", lambda w: w.name),
    Column("shape", lambda w: "x".join(map(str, w.shape)), 2),
    Column("role", lambda w: w.role),
    Column("norm", lambda w: _number(w.norm)),
    Column("/initial", lambda w: _number(w.growth), 1),
    Column("ELR", lambda w: _number(w.elr)),
    Column("erank", lambda w: _of(w.erank, w.full_rank)),
    Column("stable", lambda w: f"{w.stable_rank:.1f}", 1),
    Column("largest σ", lambda w: _number(w.singular_values[0]), 3),
    Column("median σ", lambda w: _number(w.singular_values[len(w.singular_values) // 2]), 4),
    Column("least σ", lambda w: _number(w.singular_values[-1]), 5),
)
LAYERS = (
    Column("layer", lambda layer: layer.name),
    Column("units", lambda layer: str(layer.units), 1),
    Column("dead", lambda layer: _share(layer.dead)),
    Column("dormant", lambda layer: _share(layer.dormant)),
    Column("by gradient", lambda layer: _share(layer.dormant_by_gradient)),
    Column("erank", lambda layer: _of(layer.erank, layer.full_rank)),
    Column("srank", lambda layer: f"{layer.srank:.0f}", 1),
)


def text_tables(report: ScanReport, width: int) -> str:
    """The report for a terminal of so many columns."""
    parts = [f"{report.title}: {_size(report)}"]
    if report.weights:
        parts.append(_table(_known(WEIGHTS, report.weights), report.weights, width))
    if report.layers:
        parts.append(_table(LAYERS, report.layers, width))
    if report.untrained:
        parts.append(_table((LAYERS[0]._replace(head="untrained"), *LAYERS[1:]), report.untrained, width))
    if report.advice:
        lines = [textwrap.fill(f"{a.where}: {a.found}. {a.attempt}", width, **_BULLET) for a in report.advice]
        parts.append("\n".join(["What to try", *lines]))
    elif report.layers:
        parts.append("What to try: no rule applies.")
    if report.notes:
        parts.append("\n".join(["Notes", *(textwrap.fill(note, width, **_BULLET) for note in report.notes)]))
    return "\n\n".join(parts)


def _size(report: ScanReport) -> str:
    matrices = "1 weight matrix" if len(report.weights) == 1 else f"{len(report.weights)} weight matrices"
    return f"{report.parameters:,} parameters, {matrices}"


_BULLET: dict[str, Any] = {"initial_indent": "- ", "subsequent_indent": "  ", "break_on_hyphens": False}


def _known(columns: Sequence[Column], rows: Sequence[Any]) -> list[Column]:
    """Without the columns of which no row has a figure."""
    return [column for column in columns if any(column.text(row) != "-" for row in rows)]


def _table(columns: Sequence[Column], rows: Sequence[Any], width: int) -> str:
    columns = list(columns)
    while True:
        cells = [[column.head for column in columns], *([column.text(row) for column in columns] for row in rows)]
        sizes = [max(map(len, column)) for column in zip(*cells, strict=True)]
        room = width - sum(sizes[1:]) - 2 * (len(sizes) - 1)
        last = max(range(len(columns)), key=lambda i: columns[i].rank)
        if room >= min(sizes[0], LEAST_NAME) or not columns[last].rank:
            break
        del columns[last]
    sizes[0] = min(sizes[0], max(room, LEAST_NAME))
    lines = []
    for name, *others in cells:
        figures = (text.rjust(size) for text, size in zip(others, sizes[1:], strict=True))
        lines.append("  ".join([_shortened(name, sizes[0]).ljust(sizes[0]), *figures]))
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _shortened(name: str, size: int) -> str:
    """A name without its middle: its end says most."""
    head = (size - 3) // 3
    return name if len(name) <= size else f"{name[:head]}...{name[len(name) - size + head + 3 :]}"


STYLE = """
:root { color-scheme: light dark; --text: #1d2430; --soft: #5b6675; --line: #d9dee5; --mark: #1f6fb2; --back: #fff }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e8ee; --soft: #9aa5b4; --line: #353d49; --mark: #6db3f2; --back: #14181f }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); margin: 2rem auto;
  max-width: 75rem; padding: 0 1rem }
h1 { font-size: 1.4rem; overflow-wrap: anywhere } h2 { font-size: 1.1rem; margin-top: 2rem }
.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100% }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap }
th { color: var(--soft); font-weight: 600 } th:first-child, td:first-child { text-align: left }
small, p.soft, li small { color: var(--soft) } svg { display: block } polyline { fill: none; stroke: var(--mark) }
line { stroke: var(--line) }
"""
LEGEND = (
    "σ are the singular values. The spectrum goes from the largest to the least, on a logarithmic scale of "
    f"{DECADES} decades; flat means that every direction counts. erank is the effective rank of how many are possible."
)
UNITS = (
    "Dormant: by activation at most 0.025 of the layer's mean (arXiv 2302.12902), by gradient at most 0.01 of it "
    "(arXiv 2505.24061). Dead: 0 on every input. srank: singular values that hold 99% of their sum."
)


def page(report: ScanReport) -> str:
    """The report as one HTML page."""
    spectrum = Column("spectrum", lambda w: _spectrum(w.singular_values))
    parts = [
        f"<h1>{escape(report.title)}</h1>",
        f'<p class="soft">{_size(report)}</p>',
        "<h2>What to try</h2>",
        _list([f"<b>{escape(a.where)}</b>: {escape(a.found)}. {escape(a.attempt)}" for a in report.advice])
        or "<p>No rule applies.</p>",
    ]
    if report.layers:
        parts += ["<h2>Layers</h2>", _html_table(LAYERS, report.layers), f'<p class="soft">{escape(UNITS)}</p>']
    if report.untrained:
        parts += ["<h2>Layers, untrained</h2>", _html_table(LAYERS, report.untrained)]
    if report.weights:
        columns = _known(WEIGHTS, report.weights)
        parts += ["<h2>Weights</h2>", _html_table(columns, report.weights, spectrum)]
        parts += [f'<p class="soft">{escape(LEGEND)}</p>']
    if report.notes:
        parts += ["<h2>Notes</h2>", _list([escape(note) for note in report.notes])]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(report.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def _list(items: list[str]) -> str:
    return "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>" if items else ""


def _html_table(columns: Sequence[Column], rows: Sequence[WeightScan | LayerScan], drawn: Column | None = None) -> str:
    shown = [columns[0], *filter(None, [drawn]), *columns[1:]]
    heads = "".join(f"<th>{escape(column.head)}</th>" for column in shown)
    body = []
    for row in rows:
        cells = [f"<td>{column.text(row) if column is drawn else _cell(column, row)}</td>" for column in shown]
        body.append(f"<tr>{''.join(cells)}</tr>")
    rows_text = "\n".join(body)
    return f'<div class="wide"><table><thead><tr>{heads}</tr></thead>\n<tbody>{rows_text}</tbody></table></div>'


def _cell(column: Column, row: Any) -> str:
    reason = getattr(row, "reason", "") if column.head == "role" else ""
    return escape(column.text(row)) + (f"<br><small>{escape(reason)}</small>" if reason else "")


def _spectrum(values: list[float]) -> str:
    """A line of the singular values over the largest."""
    top = values[0] or 1.0
    heights = [min(-math.log10(max(value / top, 10.0**-DECADES)) / DECADES, 1.0) for value in values]
    steps = max(len(values) - 1, 1)
    points = " ".join(f"{i * WIDTH / steps:.1f},{1 + h * (HEIGHT - 2):.1f}" for i, h in enumerate(heights))
    return (
        f'<svg role="img" aria-label="spectrum" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}">'
        f'<line x1="0" x2="{WIDTH}" y1="{HEIGHT - 1}" y2="{HEIGHT - 1}"/><polyline points="{points}"/></svg>'
    )
