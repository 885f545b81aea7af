"""Tables as text: Markdown, CSV, and values with their intervals."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from experiment.statistics import Interval


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A pipe table: the first column to the left, the others, which hold numbers, to the right."""
    rule = [":--", *["--:"] * (len(header) - 1)]
    return "".join(f"| {' | '.join(map(escaped, row))} |\n" for row in (header, rule, *rows))


def aligned_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table for a terminal, in columns like `markdown_table`'s."""
    lines = [list(header), *map(list, rows)]
    sizes = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ([text.rjust(size) for text, size in zip(line, sizes, strict=True)] for line in lines)
    return "".join(
        f"{'  '.join([line[0].ljust(sizes[0]), *cells[1:]])}\n" for line, cells in zip(lines, padded, strict=True)
    )


def escaped(text: str) -> str:
    """Text as Markdown shows it, not as markup."""
    return text.replace("<", "&lt;").replace("|", "\\|")


def csv_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """CSV text; None and NaN, which are unknown, become empty fields."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([["" if _is_nan(cell) else cell for cell in row] for row in rows])
    return text.getvalue()


def _is_nan(cell: Any) -> bool:
    return isinstance(cell, float) and math.isnan(cell)


def with_bounds(interval: Interval, text: Callable[[float], str]) -> str:
    """Value [low, high]; the bounds are left out where there are none."""
    if math.isnan(interval.low):
        return text(interval.value)
    return f"{text(interval.value)} [{text(interval.low)}, {text(interval.high)}]"
