"""A report as one HTML page that needs nothing else: no script, no font, no file."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from html import escape

from benchmarks.report_figures import INK, Figure
from benchmarks.tables import Table
from studies.drawing import COLORS

DARK = ("#63a4e8", "#f0924f", "#5cbd89", "#b794f4", "#f27878", "#a3b1c2", "#e0b04c", "#4cc3dc", "#e07ab8")
"""COLORS on a dark ground."""

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
p, figcaption {{ color: var(--soft); font-size: .9rem; margin: .2rem 0 .7rem; max-width: 48rem; }}
figure {{ margin: 0; }}
.box {{ overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }}
figure .box {{ padding: .5rem; }}
svg {{ display: block; width: 100%; height: auto; color: var(--ink); }}
svg text {{ font-family: system-ui, sans-serif !important; }}
table {{ border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; width: 100%; }}
th, td {{ padding: .35rem .7rem; text-align: right; white-space: nowrap; border-top: 1px solid var(--line); }}
thead th {{ border-top: 0; color: var(--soft); font-weight: 600; }}
th:first-child {{ text-align: left; position: sticky; left: 0; background: var(--ground); }}
tbody th {{ font-weight: 600; }}
tbody tr:nth-child(even) > * {{ background: var(--shade); }}
@media print {{ .box {{ overflow: visible; border: 0; }} }}
"""


def html(title: str, facts: Sequence[str], tables: Sequence[Table], figures: Sequence[Figure]) -> str:
    """The page; each figure stands behind the table of its name, others behind all tables with numbers."""
    drawn = {figure.name: figure for figure in figures}
    parts = []
    for table in tables:
        if table.name == "arms":  # what the numbers stand on comes behind all of them
            parts += [_figure(drawn.pop(name)) for name in list(drawn)]
        parts.append(_table(table))
        names = {"aggregates": ("aggregates", "profiles"), "improvement": ("improvement",)}.get(table.name, ())
        parts += [_figure(drawn.pop(name)) for name in names if name in drawn]
    items = "\n".join(f"<li>{escape(line)}</li>" for line in facts)
    return "\n".join([
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>\n<style>{_style()}</style>\n</head>\n<body>",
        f"<h1>{escape(title)}</h1>\n<ul>\n{items}\n</ul>",
        *parts,
        "</body>\n</html>\n",
    ])  # fmt: skip


def _style() -> str:
    light, dark = (" ".join(f"--c{i}: {color};" for i, color in enumerate(colors)) for colors in (COLORS, DARK))
    return STYLE.format(ink=INK, light=light, dark=dark)


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.header)
    rows = "\n".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in row[1:])}</tr>'
        for row in table.rows
    )
    note = f"<p>{escape(table.note)}</p>\n" if table.note else ""
    return (
        f'<section>\n<h2>{escape(table.title)}</h2>\n{note}<div class="box" tabindex="0">\n<table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>\n</div>\n</section>"
    )


def _figure(figure: Figure) -> str:
    return (
        f"<section>\n<h2>{escape(figure.title)}</h2>\n<figure>\n<figcaption>{escape(figure.note)}</figcaption>\n"
        f'<div class="box" tabindex="0">\n{inline(figure)}\n</div>\n</figure>\n</section>'
    )


def svg(figure: Figure) -> str:
    """A figure as SVG on no ground; equal figures give equal text."""
    file = io.StringIO()
    figure.figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue()


def inline(figure: Figure) -> str:
    """The SVG as a part of a page: its own names, the page's colours, its width."""
    text = svg(figure)
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL).strip()
    text = re.sub(r' (xmlns(:xlink)?|version)="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r'( id="|url\(#|href="#)', rf"\1{figure.name}-", text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"| height="[^"]*"(?=[^>]*viewBox)', r"\1", text, count=2)
    text = text.replace(INK, "currentColor")
    for i, color in enumerate(COLORS):
        text = text.replace(color, f"var(--c{i})")
    label = f'role="img" aria-label="{escape(figure.title)}" style="min-width: {figure.width}px"'
    return text.replace("<svg", f"<svg {label}", 1)
