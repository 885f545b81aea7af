"""A table of a report, as Markdown and as CSV, and how its numbers are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiment.statistics import Interval, t_interval
from experiment.tables import csv_table, escaped, markdown_table, with_bounds

Cells = dict[tuple[str, str], list[float]]
"""Values by game and arm."""
MOST_COLUMNS = 6
"""Arms next to one another in a table; of more, each has a row."""


@dataclass(frozen=True)
class Table:
    """Text in rows under a header; the first column names the row.

    Attributes:
        note: what the numbers are.
        records: the same numbers unrounded, a CSV file's rows.
    """

    name: str
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    records: Sequence[Mapping[str, Any]] = field(default_factory=list)

    def markdown(self) -> str:
        """Heading, note and a pipe table whose numbers are to the right."""
        note = f"{escaped(self.note)}\n\n" if self.note else ""
        return f"## {self.title}\n\n{note}{markdown_table(self.header, self.rows)}"

    def csv(self) -> str:
        """The records; empty for what is unknown."""
        return csv_table(list(self.records[0]), [list(record.values()) for record in self.records])


def table_of_means(name: str, title: str, note: str, cells: Cells, arms: Sequence[str]) -> Table:
    """The mean of each game and arm, its interval and the number of values; of the arms that have some."""
    shown = [arm for arm in arms if any(arm == known for _, known in cells)]
    games = sorted({game for game, _ in cells})
    found = {key: (t_interval(values), len(values)) for key, values in cells.items()}
    rows = [[game, *(_mean(found.get((game, arm))) for arm in shown)] for game in games]
    records = [
        {"game": game, "arm": arm, **interval._asdict(), "runs": runs}
        for (game, arm), (interval, runs) in found.items()
    ]
    return Table(name, title, *by_row(["game", *shown], rows, len(shown)), note, records)


def _mean(found: tuple[Interval, int] | None) -> str:
    return "–" if found is None else f"{with_bounds(found[0], raw)} n={found[1]}"


def by_row(header: Sequence[str], rows: Sequence[Sequence[str]], arms: int) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table whose last columns are so many arms: each column becomes a row where they are many."""
    if arms <= max(MOST_COLUMNS, len(rows)) or not rows:
        return list(header), [list(row) for row in rows]
    (_, *turned), *columns = zip(header, *rows, strict=True)
    return ["arm", *turned], [list(column) for column in columns]


def raw(value: float) -> str:
    """A game score."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 1 else f"{value:z.2f}"


def fine(value: float) -> str:
    """A normalised score."""
    return f"{value:.3f}"
