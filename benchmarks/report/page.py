"""A report as one HTML page that needs nothing else: no script, no font, no file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from benchmarks.report.figures import Figure
from benchmarks.report.table import Table
from experiment.plot import COLORS, INK

DARK = ("#63a4e8", "#f0924f", "#5cbd89", "#b794f4", "#f27878", "#a3b1c2", "#e0b04c", "#4cc3dc", "#e07ab8")
"""COLORS for a dark background."""

MARK = '<meta name="generator" content="benchmarks.report">'
"""Marks a page as a report: only a report may be replaced."""
SHOWN_WITH = {
    "aggregates": ("aggregates",),
    "improvement": ("improvement",),
    "area": ("visit_returns",),
    "plasticity": ("visit_plasticity",),
}
"""Figures that show a table's numbers, by the name of the table."""

STYLE = """
:root {{ color-scheme: light dark; --ink: {ink}; --soft: #5a6778; --ground: #fff; --line: #d9dee5; --shade: #f5f7f9;
  {light} }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e4e8ee; --soft: #a3adba; --ground: #14171c; --line: #343b45;
  --shade: #1c2128; {dark} }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; max-width: 68rem; padding: 1.5rem 1rem 4rem; color: var(--ink); background: var(--ground);
  font: 16px/1.5 system-ui, sans-serif; }}
h1 {{ font-size: 1.6rem; line-height: 1.2; margin: 0 0 1rem; }}
h2 {{ font-size: 1.15rem; margin: 2.5rem 0 .4rem; }}
ul {{ padding-left: 1.2rem; margin: 0; }}
p, figcaption {{ color: var(--soft); font-size: .9rem; margin: .2rem 0 .7rem; max-width: 54rem; }}
figure {{ margin: 1.2rem 0 0; }}
h2 + figure {{ margin-top: 0; }}
.box {{ overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }}
figure .box {{ padding: .5rem; }}
svg {{ display: block; width: 100%; height: auto; color: var(--ink); }}
svg text {{ font-family: system-ui, sans-serif !important; }}
table {{ border-collapse: separate; border-spacing: 0; width: 100%; font-size: .85rem;
  font-variant-numeric: tabular-nums; }}
th, td {{ padding: .35rem .7rem; text-align: right; white-space: nowrap; border-top: 1px solid var(--line); }}
thead th {{ border-top: 0; color: var(--soft); font-weight: 600; white-space: normal; vertical-align: bottom; }}
th:first-child {{ text-align: left; position: sticky; left: 0; background: var(--ground); }}
tbody th {{ font-weight: 600; }}
tbody tr:nth-child(even) > * {{ background: var(--shade); }}
@media (max-width: 40rem) {{ th:first-child {{ min-width: 7rem; max-width: 9.5rem; white-space: normal; }} }}
@media print {{ .box {{ overflow: visible; border: 0; }} }}
"""


def html(title: str, facts: Sequence[str], tables: Sequence[Table], figures: Sequence[Figure]) -> str:
    """The page: the facts, each table with its figure, the other figures, then tables about the runs."""
    drawn = {figure.name: figure for figure in figures}
    parts = []
    for table in tables:
        if table.name == "arms":  # what the numbers stand on comes behind all of them
            parts += [_section(figure.title, _figure(figure)) for figure in drawn.values()]
            drawn = {}
        own = [_figure(drawn.pop(name)) for name in SHOWN_WITH.get(table.name, ()) if name in drawn]
        parts.append(_section(table.title, _table(table), *own))
    items = "\n".join(f"<li>{escape(line)}</li>" for line in facts)
    return "\n".join([
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n{MARK}',
        f"<title>{escape(title)}</title>\n<style>{_style()}</style>\n</head>\n<body>",
        f"<h1>{escape(title)}</h1>\n<ul>\n{items}\n</ul>",
        *parts,
        "</body>\n</html>\n",
    ])  # fmt: skip


def _style() -> str:
    light, dark = (" ".join(f"--c{i}: {color};" for i, color in enumerate(colors)) for colors in (COLORS, DARK))
    return STYLE.format(ink=INK, light=light, dark=dark)


def _section(title: str, *parts: str) -> str:
    return "\n".join([f"<section>\n<h2>{escape(title)}</h2>", *parts, "</section>"])


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.header)
    rows = "\n".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in row[1:])}</tr>'
        for row in table.rows
    )
    note = f"<p>{escape(table.note)}</p>\n" if table.note else ""
    return (
        f'{note}<div class="box" tabindex="0">\n<table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody>\n</table>\n</div>"
    )


def _figure(figure: Figure) -> str:
    return (
        f"<figure>\n<figcaption>{escape(figure.note)}</figcaption>\n"
        f'<div class="box" tabindex="0">\n{inline(figure)}\n</div>\n</figure>'
    )


def inline(figure: Figure) -> str:
    """The SVG as a part of a page: its own names, the page's colours, its width."""
    text = figure.svg[figure.svg.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' (xmlns(:xlink)?|version)="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r'( id="|url\(#|href="#)', rf"\1{figure.name}-", text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"| height="[^"]*"(?=[^>]*viewBox)', r"\1", text, count=2)
    text = text.replace(INK, "currentColor")
    for i, color in enumerate(COLORS):
        text = text.replace(color, f"var(--c{i})")
    widest = round(96 * figure.figure.get_figwidth())
    label = f'role="img" aria-label="{escape(figure.title)}" style="min-width: {figure.width}px; max-width: {widest}px"'
    return text.replace("<svg", f"<svg {label}", 1)
