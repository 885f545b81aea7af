"""A table of a report, as Markdown and as CSV, and how its numbers are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiment.tables import csv_table, escaped, markdown_table


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


def raw(value: float) -> str:
    """A game score."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.1f}"


def fine(value: float) -> str:
    """A normalised score."""
    return f"{value:.3f}"
