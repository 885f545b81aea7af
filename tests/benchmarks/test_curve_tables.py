"""Learning curves from tables of others, with runs of ours, in benchmarks.curves."""

import csv
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import curves
from benchmarks.report.curve_tables import read_traces
from benchmarks.report.runs import read_runs, trace_of
from tests.benchmarks.test_curves import drawn, entries, make_run  # noqa: F401

pytest.importorskip("matplotlib")
HEADER = "agent,game,run,steps,score\n"


def table(folder: Path, lines: str, header: str = HEADER) -> Path:
    path = folder / "theirs.csv"
    path.write_text(header + lines)
    return path


def test_a_line_is_a_point_of_its_runs_curve_in_the_order_of_steps(tmp_path):
    path = table(tmp_path, "A,PongNoFrameskip-v4,1,200,3\nA,Pong,1,100,-1\nA,Pong,2,100,5\nB,Catch,1,7,0\n")
    found = {(run, trace.arm, trace.game): trace for run, trace in read_traces(path)}
    assert set(found) == {("1", "A", "Pong"), ("2", "A", "Pong"), ("1", "B", "Catch")}
    first = found["1", "A", "Pong"]
    assert (first.ended.tolist(), first.returns.tolist()) == ([100, 200], [-1, 3])
    assert first.length(wall=False) == 200
    assert first.times(wall=True).tolist() == [0, 0]


@given(st.permutations([(100, 1.5), (200, -2.0), (300, 0.0), (1000, 7.25)]))
def test_the_order_of_lines_is_no_matter(points):
    with tempfile.TemporaryDirectory() as name:
        path = table(Path(name), "".join(f"A,Pong,1,{steps},{score}\n" for steps, score in points))
        ((_, trace),) = read_traces(path)
    assert np.array_equal(trace.ended, [100, 200, 300, 1000])
    assert np.array_equal(trace.returns, [1.5, -2.0, 0.0, 7.25])


@pytest.mark.parametrize(
    ("game", "frames", "skip", "steps"),
    [("Pong", 400, "", 100), ("Pong", 400, "2", 200), ("MinAtar/Breakout", 400, "", 400)],
)
def test_frames_become_steps_by_the_frame_skip(tmp_path, game, frames, skip, steps):
    path = table(tmp_path, f"A,{game},1,{frames},{skip},3\n", "agent,game,run,frames,frame_skip,score\n")
    ((_, trace),) = read_traces(path)
    assert trace.ended.tolist() == [steps]


def test_they_are_drawn_by_arm_with_runs_of_ours(tmp_path, drawn, capsys):  # noqa: F811
    make_run(tmp_path / "ours", "a", score=1.0)
    lines = "".join(f"Theirs,Catch,{run},{step},{run * step}\n" for run in (1, 2) for step in (100, 200, 300))
    path = table(tmp_path, lines)
    assert curves.main([str(tmp_path / "ours"), str(path), "--out", str(tmp_path / "x.svg")]) == 0
    (figure,) = drawn
    (axis,) = figure.axes
    captions = entries(axis)
    assert any("Theirs" in text and "2 runs" in text for text in captions), captions
    middles = [line.get_ydata()[-1] for line in axis.lines if line.get_label().startswith("Theirs")]
    assert middles == [450]
    assert "Runs of tables: as their tables state them." in figure.get_supxlabel().replace("\n", " ")
    assert [run.name for run in read_runs([str(path)])] == ["theirs Theirs Catch 1", "theirs Theirs Catch 2"]


@pytest.mark.parametrize(
    ("header", "lines", "said"),
    [
        (HEADER, "A,Pnog,1,100,3\n", "game 'Pnog' is not known here"),
        (HEADER, "A,Pong,1,100,3\nA,Pong,1,100,4\n", "run 1 of A in Pong has two scores at one step"),
        (HEADER, "A,Pong,1,,3\n", "neither steps nor frames"),
        ("agent,game,run,score\n", "A,Pong,1,3\n", "neither column steps nor frames"),
        ("agent,game,run,steps,score,kind\n", "A,Pong,1,1,3,training\nA,Pong,1,2,3,evaluation\n", "training and eval"),
    ],
)
def test_a_table_that_cannot_be_drawn_is_one_line(tmp_path, capsys, header, lines, said):
    with pytest.raises(SystemExit) as stopped:
        curves.main([str(table(tmp_path, lines, header)), "--out", str(tmp_path / "x.svg")])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (tmp_path / "x.svg").exists()


def test_a_written_table_holds_the_running_means_and_measures_and_draws_again(tmp_path, drawn):  # noqa: F811
    run = make_run(tmp_path / "ours", "a", "Pong", probes=(100, 200))
    table, figure = tmp_path / "ours.csv", str(tmp_path / "x.svg")
    assert curves.main([str(tmp_path / "ours"), "--table", str(table), "--out", figure]) == 0
    ((name, trace),), whole = read_traces(table), trace_of(read_runs([str(run.path)])[0])
    assert (name, trace.game, len(trace.ended)) == ("0", "Pong", curves.POINTS)
    assert trace.ended.tolist() == [15 * point for point in range(1, curves.POINTS + 1)]
    for step, score in zip(trace.ended, trace.returns, strict=True):
        assert score == pytest.approx(whole.returns[whole.ended <= step][-1], rel=1e-5)
    with table.open(newline="") as file:
        rows = {int(row["steps"]): row for row in csv.DictReader(file)}
    assert rows[90]["erank"] == ""
    assert (rows[105]["erank"], rows[210]["erank"]) == ("101.0", "201.0")
    assert float(rows[105]["elr"]) == pytest.approx(1e-5)
    assert curves.main([str(table), "--out", figure]) == 0
