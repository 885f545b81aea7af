import json

import pytest

from agents.config import DQNConfig
from benchmarks import curves
from experiment.run_dir import RunDir


def make_run(root, name, game, finished):
    run = RunDir.create(root, name, DQNConfig(env=game).resolved())
    rows = [{"agent_step": 10 * i, "episode_return": float(i)} for i in range(30)] + [{"agent_step": 300, "loss": 1.0}]
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if finished:
        run.write_result({"agent_steps": 300, "score": {"mean": 25.0, "episodes": 3}})
    return run


def test_the_running_mean_is_over_the_newest_games():
    assert curves.smooth([1, 2, 3, 10], window=2) == [1, 1.5, 2.5, 6.5]


def test_only_whole_games_are_read(tmp_path):
    run = make_run(tmp_path, "a", "Pong", False)
    with run.metrics.open("a") as file:
        file.write('{"agent_step": 310, "episode_re')  # the last row of a killed run
    steps, returns = curves.episodes(run)
    assert steps == list(range(0, 300, 10))
    assert returns == [float(i) for i in range(30)]


def test_the_same_runs_give_the_same_figure(tmp_path):
    runs = [make_run(tmp_path, "a", "Pong", True), make_run(tmp_path, "b", "Krull", False)]
    names = [str(run.path) for run in runs]
    for out in ("one.svg", "two.svg"):
        assert curves.main([*names, "--out", str(tmp_path / out)]) == 0
    one, two = (tmp_path / "one.svg").read_text(), (tmp_path / "two.svg").read_text()
    assert one == two
    assert "Krull" in one
    assert "score of 3 games: 25.0" in one


def test_what_the_probes_saw_stands_below_the_curves_of_each_game(tmp_path, monkeypatch):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    drawn = []
    monkeypatch.setattr(pyplot.Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    runs = [make_run(tmp_path, name, game, False) for name, game in (("a", "Pong"), ("b", "Krull"), ("c", "Krull"))]
    for place, run in enumerate(runs[1:]):  # Pong's has no measures: its panels stay empty
        with run.metrics.open("a") as file:
            for step in (100, 400):
                row = {"agent_step": step, "elr/one": 1e-4, "elr/two": 1e-6, "erank_roy/last": 5.0 + step + place}
                file.write(json.dumps(row) + "\n")
    curves.draw([RunDir.open(run.path) for run in runs], tmp_path / "out.svg", plasticity=True)
    axes = drawn[0].axes
    assert [axis.get_title("left") for axis in axes[::2]] == [
        "Pong",
        "ELR, geometric mean of layers",
        "Effective rank, last hidden layer",
    ]
    assert [len(axis.lines) for axis in axes[2::2]] == [1, 1]
    assert [list(line.get_ydata()) for line in axes[3].lines] == [[pytest.approx(1e-5)] * 2] * 2
    assert [list(line.get_ydata()) for line in axes[5].lines] == [[105.0, 405.0], [106.0, 406.0]]
    colors = [line.get_color() for line in axes[1].lines if "random" not in line.get_label()]
    assert [line.get_color() for line in axes[5].lines] == colors
    assert axes[1].get_xlim() == axes[5].get_xlim()
    pyplot.close("all")


@pytest.mark.parametrize("returns", [[-1.0, 1.0, -1.0], [3.0, 5.0, 4.0]])
def test_a_panel_shows_every_return_and_its_legend_hides_none(tmp_path, returns):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("Agg")
    run = make_run(tmp_path, "a", "Catch", False)
    run.metrics.write_text(
        "".join(json.dumps({"agent_step": i, "episode_return": r}) + "\n" for i, r in enumerate(returns))
    )
    figure, axis = pyplot.subplots(layout="constrained")
    curves.draw_game(axis, "Catch", [(run, None)])
    figure.draw_without_rendering()
    low, high = axis.get_ylim()
    assert low <= min(returns)
    assert high >= max(curves.smooth(returns))
    assert (low == 0) == (min(returns) >= 0)
    assert not axis.get_legend().get_window_extent().overlaps(axis.get_window_extent())
    pyplot.close(figure)


def test_what_is_no_run_is_one_line(tmp_path, capsys):
    for words in ([], [str(tmp_path / "nothing")]):
        with pytest.raises(SystemExit) as stop:
            curves.main(words)
        assert stop.value.code == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
