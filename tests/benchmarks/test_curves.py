"""Figures of learning curves: which runs are one line, what is drawn of them, what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from agents.config import DQNConfig
from benchmarks import curves
from benchmarks.report.curve_figure import own_names
from benchmarks.report.learning_curves import Curve, game_curves, group, make_curves, measure_curves, read_trace
from benchmarks.report.metric_series import returns, smooth
from benchmarks.report.panels import WIDTH, draw_curves, label, make_panels
from benchmarks.report.runs import check_arms, read_runs
from experiment.config import ConfigError
from experiment.plot import plotting
from experiment.results import read_rows
from experiment.statistics import t_interval
from experiment.storage.run_dir import RunDir
from experiment.sweeps.manifest import Entry, Manifest

pytest.importorskip("matplotlib")


def make_run(root, name, game="Catch", score=None, steps=300, probes=(), level=1.0, **settings):
    """A run whose 30 games of training end every 10 steps with returns of `level` times their number."""
    config = DQNConfig(env=game, steps=steps, update_start=50, **settings).resolved()
    run = RunDir.create(root, name, config)
    rows = [{"agent_step": 10 * i, "episode_return": level * i} for i in range(30)]
    rows += [{"agent_step": step, "elr/one": 1e-4, "elr/two": 1e-6, "erank_roy/last": level + step} for step in probes]
    rows.append({"agent_step": 300, "seconds": 3.0})
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if score is not None:
        run.write_result({"agent_steps": steps, "score": {"mean": score, "episodes": 3}})
    return run


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved, in place of their files."""
    figures = []
    monkeypatch.setattr("experiment.plot.save", lambda figure, out: figures.append(figure) or out)
    return figures


def axes_of(figure):
    """The panels by title."""
    return {axis.get_title("left"): axis for axis in figure.axes}


def entries(axis):
    return [text.get_text() for text in axis.get_legend().get_texts()]


def test_the_running_mean_is_over_the_newest_games():
    assert smooth([1, 2, 3, 10], window=2) == [1, 1.5, 2.5, 6.5]


def test_only_whole_games_are_read(tmp_path):
    run = make_run(tmp_path, "a", "Pong")
    with run.metrics.open("a") as file:
        file.write('{"agent_step": 310, "episode_re')  # the last row of a killed run
    steps, scores = returns(read_rows(run))
    assert steps == list(range(0, 300, 10))
    assert scores == [float(i) for i in range(30)]


def test_the_same_runs_give_the_same_figure(tmp_path):
    runs = [make_run(tmp_path, "a", "Pong", score=25.0), make_run(tmp_path, "b", "Krull")]
    names = [str(run.path) for run in runs]
    for out in ("one.svg", "two.svg"):
        assert curves.main([*names, "--out", str(tmp_path / out)]) == 0
    one, two = (tmp_path / "one.svg").read_text(), (tmp_path / "two.svg").read_text()
    assert one == two
    assert "Krull" in one
    assert "score of 3 games: 25.0" in one


# --- which runs are one line


def test_seeds_of_an_arm_are_one_line_with_their_scores_in_one_entry(tmp_path, drawn):
    for seed in range(3):
        make_run(tmp_path, f"plain-s{seed}", score=-40.0 * seed, seed=seed, level=-seed - 1.0)
        make_run(tmp_path, f"nap-s{seed}", score=1.0 if seed else None, seed=seed, nap=True)
    curves.main([str(tmp_path)])
    (axis,) = drawn[0].axes
    bounds = t_interval([0.0, -40.0, -80.0])
    assert entries(axis) == [
        "dqn+nap, 3 runs, score of 2: 1.0 [1.0, 1.0]",
        f"dqn, 3 runs, score: -40.0 [{bounds.low:.1f}, {bounds.high:.1f}]",
    ]
    (line,) = [line for line in axis.lines if line.get_label().startswith("dqn, ")]
    assert line.get_ydata()[-1] == pytest.approx(-2 * np.mean(range(10, 30)))  # levels of -1, -2 and -3
    assert sum(line.get_linewidth() < 1 for line in axis.lines) == 6  # single runs
    assert axis.get_ylim()[0] > bounds.low  # a wide interval does not squeeze the curves


def test_many_seeds_have_the_interval_of_the_report(tmp_path, drawn):
    for seed in range(6):
        make_run(tmp_path, f"s{seed}", seed=seed, level=float(seed))
    curves.main([str(tmp_path)])
    (axis,) = drawn[0].axes
    assert len(axis.lines) == len(axis.collections) == 1
    runs = read_runs([str(tmp_path)])
    traces = [read_trace(run.arm, run.game, run.directory) for run in runs]
    expected = make_curves(traces).games["steps"]["Catch"]["dqn"]
    band = axis.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(expected.high[-1])


def test_each_run_is_a_line_under_its_own_short_name(tmp_path, drawn):
    head = "dqn-Catch-utd8-redo_period_1000_tau_0.1-" + "examples.new_method_MyMethod-" * 3
    for seed in range(2):
        make_run(tmp_path, f"{head}s{seed}-20261130-12000{seed}", score=1.0, seed=seed)
        make_run(tmp_path, f"{head}nap-s{seed}-20261130-12010{seed}", seed=seed, nap=True)
    curves.main([str(tmp_path), "--each"])
    (axis,) = drawn[0].axes
    shown = [f"s{seed}, score of 3 games: 1.0" for seed in (0, 1)]
    assert sorted(entries(axis)) == ["nap-s0", "nap-s1", *shown]
    assert [line.get_linewidth() for line in axis.lines if len(line.get_xdata()) > 1] == [1.3] * 4


def test_the_arms_of_a_sweep_are_those_of_its_manifest(tmp_path, drawn, capsys):
    names = {"x-s0": "x", "x-s1": "x", "y-s0": "y", "y-s1": "y"}
    listed = tuple(Entry(name, arm, "Catch", int(name[-1]), "hash", ("python",)) for name, arm in names.items())
    Manifest("Catch", listed).save(tmp_path)
    for name in ("x-s0", "x-s1", "y-s0"):  # the last has not begun
        make_run(tmp_path, name, seed=int(name[-1]))
    (tmp_path / "y-s0" / "metrics.jsonl").write_text("")
    assert curves.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == "no whole game played yet, left out: y-s0\ncurves.svg\n"
    assert entries(drawn[0].axes[0]) == ["x, 2 runs"]
    assert [run.arm for run in read_runs([str(tmp_path / "x-s1"), str(tmp_path)])] == ["x", "x", "y"]


def test_runs_of_two_budgets_or_rules_are_two_arms_and_a_row_more_or_less_is_none(tmp_path):
    make_run(tmp_path, "a", "Pong")
    make_run(tmp_path, "b", "Pong", steps=3_000)
    make_run(tmp_path, "c", "Pong", protocol="machado")
    make_run(tmp_path, "d", "Pong", seed=1, log_interval=7)
    names = {run.directory.path.name: run.arm for run in read_runs([str(tmp_path)])}
    assert names["a"] == names["d"] == "dqn rules=atari100k budget=300"
    assert (names["b"], names["c"]) == ("dqn rules=atari100k budget=3000", "dqn rules=machado budget=300")
    for interval in (10, 20):  # a schedule that listens at rows learns otherwise
        make_run(tmp_path / "loop", str(interval), schedule="cusum", cycles=2, log_interval=interval)
    assert len({run.arm for run in read_runs([str(tmp_path / "loop")])}) == 2


def test_what_is_no_sample_of_an_arm_is_refused_unless_drawn_by_itself(tmp_path, capsys, drawn):
    make_run(tmp_path / "one", "twin")
    make_run(tmp_path / "two", "twin")
    folders = [str(tmp_path / "one"), str(tmp_path / "two")]
    with pytest.raises(SystemExit):
        curves.main(folders)
    (said,) = capsys.readouterr().err.splitlines()
    assert "one arm, game and seed" in said
    assert "--each" in said
    assert curves.main([*folders, "--each"]) == 0
    assert entries(drawn[0].axes[0]) == ["one/twin", "two/twin"]
    assert own_names(read_runs([folders[0], str(tmp_path / "one" / "twin")])) == ["twin"]
    for place, lr in ((tmp_path / "one", 1e-3), (tmp_path / "two", 1e-4)):
        make_run(place, "other", seed=1, lr=lr)
        Manifest("x", (Entry("other", "arm", "Catch", 1, "hash", ("python",)),)).save(place)
    with pytest.raises(ConfigError, match=r"arm 'arm' mixes runs: .* lr .*--each"):
        check_arms(read_runs(folders))


# --- what is drawn


def test_what_the_probes_saw_stands_below_and_panels_without_it_are_left_out(tmp_path, drawn):
    make_run(tmp_path, "a", "Pong")
    for seed in range(2):
        make_run(tmp_path, f"b{seed}", "Krull", seed=seed, probes=(100, 300), level=float(seed))
    curves.main([str(tmp_path), "--plasticity"])
    panels = axes_of(drawn[0])
    assert list(panels) == ["Krull", "ELR, geometric mean of layers", "Effective rank, last hidden layer", "Pong"]
    ranks = panels["Effective rank, last hidden layer"]
    assert [list(line.get_xdata()) for line in ranks.lines] == [[100, 300]]
    assert list(ranks.lines[0].get_ydata()) == [100.5, 300.5]
    elr = panels["ELR, geometric mean of layers"]
    assert list(elr.lines[0].get_ydata()) == [pytest.approx(1e-5)] * 2
    assert ranks.lines[0].get_color() == panels["Krull"].lines[0].get_color()
    assert panels["Krull"].get_xlim() == ranks.get_xlim()
    assert {title: axis.get_xlabel() for title, axis in panels.items() if axis.get_xlabel()} == {
        "Effective rank, last hidden layer": "agent steps",
        "Pong": "agent steps",
    }


@pytest.mark.parametrize("level", [-1.0, 1.0])
def test_a_panel_shows_every_return_and_its_legend_hides_none(tmp_path, drawn, level):
    long = "".join(f"{i}x" for i in range(45))
    for i in range(9):
        make_run(tmp_path, f"{i}{long}", score=3.0, level=level)
    curves.main([str(tmp_path), "--each"])
    (axis,) = drawn[0].axes
    drawn[0].draw_without_rendering()
    low, high = axis.get_ylim()
    assert low <= min(0, level * np.mean(range(10, 30)))
    assert high >= max(3.0, level * np.mean(range(10, 30)))
    assert (low == 0) == (level > 0)
    box, below = axis.get_window_extent(), axis.get_legend().get_window_extent()
    assert not below.overlaps(box)
    assert not below.overlaps(axis.xaxis.label.get_window_extent())
    assert box.height > 2.5 * drawn[0].dpi  # long names take room of their own, not of the panel
    assert drawn[0].bbox.x1 >= below.x1
    assert below.y0 >= 0


def test_a_curve_of_one_point_is_a_marker_and_its_interval_a_bar():
    axis = plotting().figure().subplots()
    x, unknown = np.array([1.0, 2.0, 3.0]), np.nan
    low, middle, high = (np.array([unknown, value, unknown]) for value in (1.0, 2.0, 4.0))
    draw_curves(axis, {"a": Curve(x, middle, low, high, 9, np.empty((0, 3)))}, lambda arm: {"color": "red"})
    (line,) = axis.lines
    assert line.get_marker() == "o"
    ((bottom, top),) = axis.collections[0].get_segments()
    assert (list(bottom), list(top)) == ([2.0, 1.0], [2.0, 4.0])
    many = Curve(x, x, x - 1, x + 1, 2, np.stack([x, middle]))
    draw_curves(axis, {"b": many}, lambda arm: {"color": "blue"})
    assert [line.get_marker() for line in axis.lines[1:]] == ["None", "None", "o"]


def test_a_run_that_goes_on_has_no_value_after_its_last_row_and_one_that_has_ended_keeps_it(tmp_path):
    for name, score in (("ended", 1.0), ("going", None)):
        run = make_run(tmp_path, name, score=score, seed=len(name), probes=(100, 200))
        if score is None:
            rows = [row for row in read_rows(run) if row["agent_step"] <= 150]
            run.metrics.write_text(
                "".join(json.dumps(row) + "\n" for row in [*rows, {"agent_step": 150, "seconds": 1}])
            )
    traces = [read_trace(name, "Catch", RunDir(tmp_path / name)) for name in ("ended", "going")]
    both = group([trace.__class__(**vars(trace) | {"arm": "both"}) for trace in traces])
    curve = game_curves(both)["Catch"]["both"]
    assert np.isfinite(curve.middle).tolist() == (curve.x <= 150).tolist()
    assert np.isfinite(curve.lines[0]).all()
    rank = measure_curves(both, "erank")["both"]
    assert rank.x.tolist() == [100, 200]
    assert np.isfinite(rank.middle).tolist() == [True, False]


def test_probes_that_fell_on_unlike_steps_still_make_a_point(tmp_path):
    for name, step in (("a", 100), ("b", 103)):
        make_run(tmp_path, name, probes=(step,))
    traces = [read_trace("arm", "Catch", RunDir(tmp_path / name)) for name in ("a", "b")]
    curve = measure_curves(group(traces), "erank")["arm"]
    assert curve.x.tolist() == [103]
    assert curve.middle.tolist() == [pytest.approx(102.5)]
    assert not measure_curves(group(traces), "srank")


@pytest.mark.parametrize("values", [(1e-5, 3e-5), (12_345_678.25, 12_345_679.5), (0.0, 1.0)])
def test_ticks_of_panels_have_room_at_the_left_and_between(values):
    pyplot = plotting()
    figure, axes = make_panels(pyplot, 7, ["a"], columns=3)
    for axis in axes[:7]:
        axis.plot([0, 1], values)
        axis.ticklabel_format(useOffset=False, style="plain")
    figure.draw_without_rendering()
    boxes = {axis: axis.yaxis.get_tightbbox() for axis in axes[:7]}
    panels = [axis.get_window_extent() for axis in axes[:7]]
    assert all(box.x0 >= 0 for box in boxes.values())
    assert not any(box.overlaps(panel) for box in boxes.values() for panel in panels)


@pytest.mark.parametrize(
    "name", ["a" * 126, "_arm", "examples.new:Method+redo:period=100,tau=0.1 " * 3, "dqn  lr=1e-3"]
)
def test_a_label_has_lines_that_fit_and_every_letter(name):
    lines = label(name).splitlines()
    assert all(len(line) <= WIDTH for line in lines)
    assert "".join(lines).replace(" ", "") == name.replace(" ", "")
    assert not label(name).startswith("_")


def test_what_cannot_be_drawn_is_one_line(tmp_path, capsys):
    run = make_run(tmp_path, "a", score=1.0)
    (tmp_path / "empty").mkdir()
    idle = make_run(tmp_path / "idle", "b")
    idle.metrics.write_text('{"agent_step": 20, "seconds": 1.0}\n')
    broken = make_run(tmp_path / "broken", "c", score=1.0)
    broken.result.write_text('{"score": {"mean": "high"}}')
    file = tmp_path / "file"
    file.write_text("")
    for words, said in (
        ([], "name at least one run"),
        ([tmp_path / "nothing"], "no such directory"),
        ([tmp_path / "empty"], "no run in folder"),
        ([file], "is a file"),
        ([idle.path], "no run has played a whole game"),
        ([broken.path], "its mean score is 'high'"),
        ([run.path, "--out", "curves.xyz"], "its ending sets the format"),
        ([run.path, "--out", tmp_path / "none" / "a.svg"], "cannot write"),
    ):
        with pytest.raises(SystemExit) as stop:
            curves.main([str(word) for word in words])
        assert stop.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
    assert not Path("curves.xyz").exists()
