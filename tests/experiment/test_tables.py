"""Tables as Markdown and CSV."""

import csv
import math

from hypothesis import given
from hypothesis import strategies as st

from experiment.statistics import Interval
from experiment.tables import csv_table, markdown_table, with_bounds

CELLS = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]))


def test_markup_in_cells_stays_text():
    assert markdown_table(("arm", "n"), [("a|b", "<1>")]) == "| arm | n |\n| :-- | --: |\n| a\\|b | &lt;1> |\n"


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1))
def test_csv_is_read_back(rows):
    assert list(csv.reader(csv_table(("one", "two"), rows).splitlines(keepends=True))) == [
        ["one", "two"], *map(list, rows),
    ]  # fmt: skip


def test_what_is_unknown_is_empty():
    assert csv_table(("a", "b", "c"), [(math.nan, None, 0.5)]) == "a,b,c\n,,0.5\n"


def test_an_interval_without_bounds_is_its_value():
    assert with_bounds(Interval(1.0, math.nan, math.nan), "{:.1f}".format) == "1.0"
    assert with_bounds(Interval(1.0, 0.5, 2), "{:.1f}".format) == "1.0 [0.5, 2.0]"
