"""The style of figures, their files, and what they need."""

import re
import sys

import pytest

from experiment.config import ConfigError
from experiment.plot import COLORS, draw_intervals, log_axis, plotting, save
from experiment.statistics import Interval


def test_without_matplotlib_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"matplotlib, which is not installed: pip install 'rewarm\[plot\]'"):
        plotting()


def figure_of(values, title="a"):
    figure, axis = plotting().subplots()
    axis.plot(range(len(values)), values)
    axis.set_title(title)
    log_axis(axis)
    return figure


@pytest.mark.parametrize("kind", ["svg", "png", "pdf"])
def test_equal_figures_are_equal_files_and_nothing_is_left_half_written(tmp_path, kind):
    one, two = (save(figure_of([1, 20, 300]), tmp_path / f"{name}.{kind}") for name in "ab")
    assert one.read_bytes() == two.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"a.{kind}", f"b.{kind}"]
    with pytest.raises(OSError, match="nowhere"):
        save(figure_of([1, 2]), tmp_path / "nowhere" / f"a.{kind}")


def test_paths_are_rounded_and_no_tick_is_a_formula(tmp_path):
    text = save(figure_of([1e-7 * 3**i for i in range(16)], "costs $1 or $2"), tmp_path / "a.svg").read_text()
    assert not any(re.search(r"\.\d\d|\n", path) for path in re.findall(r' d="([^"]*)"', text))
    assert "costs $1 or $2" in text
    assert "mathdefault" not in text


def test_intervals_stand_in_lines_from_the_top_and_none_leaves_one_empty():
    _, axis = plotting().subplots()
    draw_intervals(axis, [Interval(1, 0, 3), None, Interval(2, 1, 4)], COLORS[:3], ["a", "b", "c"])
    assert [(list(line.get_xdata()), line.get_ydata()[0]) for line in axis.lines] == [
        ([0, 3], 0), ([1], 0), ([1, 4], 2), ([2], 2),
    ]  # fmt: skip
    assert [text.get_text() for text in axis.get_yticklabels()] == ["a", "b", "c"]
    assert axis.get_ylim() == (2.5, -0.5)
