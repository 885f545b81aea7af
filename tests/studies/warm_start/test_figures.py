"""Figures and tables from made-up run directories."""

import csv
import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from experiment import plot
from experiment.config import ConfigError
from experiment.storage.run_dir import RunDir
from studies.figures import layers as layers_of
from studies.records import FinishedRun
from studies.warm_start import figures, run_figure
from studies.warm_start.comparisons import markdown
from studies.warm_start.config import WarmStartConfig
from studies.warm_start.figures import main as draw
from studies.warm_start.outcome import outcome

LAYERS = ("conv1", "conv2", "conv3", "hidden")
INTERVAL = 25


@pytest.fixture(autouse=True)
def _coarse(monkeypatch):
    """Few pixels, so that drawing is quick."""
    monkeypatch.setitem(plot.STYLE, "savefig.dpi", 20)


def measured(config, update, final, layers):
    """A row as a monitor makes it."""
    budget, phase_updates = config.budget, config.phase_updates
    phase = min((update - 1) // phase_updates, config.phases - 1) if update else 0
    into = (update - phase * phase_updates) / phase_updates
    row = {"update": update, "phase": phase, "lr": config.lr * (1.001 - into), "seconds": float(update)}
    row |= {
        "test_accuracy": 0.1 + (final - 0.1) * update / budget,
        "train_accuracy": min(1, into + 0.3) if update else None,
    }
    for i, layer in enumerate(layers, 1):
        row |= {f"norm/{layer}.weight": i + (0 if config.nap else 3 * update / budget)}
        row |= {f"elr/{layer}.weight": row["lr"] / row[f"norm/{layer}.weight"]}
        for metric in ("dormant_sokar_0.025", "dead_units", "erank_roy", "srank_kumar_0.01"):
            row[f"{metric}/relu{i}"] = (50.0 * i if "rank" in metric else 0.1 / i) * (1 - 0.3 * into)
        if update:
            row |= {f"{metric}_change/relu{i}": (1 - into) / i for metric in ("covariance", "pattern")}
    return row | {"global_norm": float(len(layers)), "dormant_sokar_0.025": 0.05, "dead_units": 0.02}


def make_run(folder, name, *, final=0.7, alarms=None, stop=None, layers=LAYERS, **settings):
    """A run directory, ended by `stop` updates without a result if that is given."""
    config = replace(WarmStartConfig(phase_updates=100), **settings).resolved()
    run = RunDir.create(folder, name, config)
    rows = [measured(config, update, final, layers) for update in range(0, (stop or config.budget) + 1, INTERVAL)]
    for row in rows if alarms is not None else []:
        row["alarms"] = sum(alarm <= row["update"] for alarm in alarms)
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if stop is None:
        facts = {"data": "CIFAR-10", "alarms": alarms, "seconds": {"training": 1000.0 + config.seed}}
        run.write_result(outcome(rows) | facts)
    return run


def drawn(monkeypatch, draw, *arguments):
    """The figure that is drawn, with its panels by title."""
    kept = []
    with monkeypatch.context() as patched:
        for module in (figures, run_figure):
            patched.setattr(module, "save", lambda figure, out: kept.append(figure))
        draw(*arguments)
    return kept[0], {axis.get_title(loc="left"): axis for axis in kept[0].axes}


def verticals(axis):
    """Where the lines across an axis are, and their styles."""
    lines = [line for line in axis.lines if list(line.get_xdata()) == [line.get_xdata()[0]] * 2]
    return [(line.get_xdata()[0], line.get_linestyle()) for line in lines if list(line.get_ydata()) == [0, 1]]


def test_every_panel_of_a_run_marks_the_switch_and_the_alarms(tmp_path, monkeypatch):
    run = make_run(tmp_path, "run", schedule="cusum", cycles=2, alarms=[110, 130])
    _, panels = drawn(monkeypatch, run_figure.draw_run, run, tmp_path / "a.png")
    assert {title.partition(",")[0] for title in panels} == {
        "Accuracy", "Learning rate (dashed)", "Norm of the weights", "Δ_C between rows", "Δ_A between rows",
        "Dormant units (Sokar", "Dead units", "Effective rank (Roy)", "srank (Kumar",
    }  # fmt: skip
    for axis in panels.values():
        assert verticals(axis) == [(100, ":"), (110, "-."), (130, "-.")]
    assert len(panels["Dead units"].lines) == len(LAYERS) + 3
    test = panels["Accuracy, test 0.700 in the last row"].lines[1]
    assert (test.get_xdata()[-1], test.get_ydata()[-1]) == (200, pytest.approx(0.7))


@pytest.mark.parametrize("count", [1, run_figure.FEW, run_figure.FEW + 1, 20])
def test_the_legend_has_the_colours_of_the_panels(tmp_path, monkeypatch, count):
    layers = [f"layer{i}" for i in range(count)] + ["head.fresh", "head.frozen"] * (count > run_figure.FEW)
    run = make_run(tmp_path, "run", layers=layers)
    figure, panels = drawn(monkeypatch, run_figure.draw_run, run, tmp_path / "a.png")
    norms = [line for line in panels["Norm of the weights, ‖W‖"].lines if line.get_linestyle() == "-"]
    colors = dict(zip(layers, (line.get_color() for line in norms), strict=True))
    named = {line.get_label(): line.get_color() for line in figure.legends[0].legend_handles[1:]}
    if count <= run_figure.FEW:
        assert named == {f"layer{i}, relu{i + 1}": colors[f"layer{i}"] for i in range(count)}
    else:
        places = {"first layer": 0, "middle": count // 2, "last": count - 1}
        assert named == {f"{place}, layer{i}": colors[f"layer{i}"] for place, i in places.items()}


def test_a_comparison_shows_gaps_with_intervals_and_the_switch(tmp_path, monkeypatch):
    finals = {("plain", 1.0): 0.7, ("nap", 0.1): 0.75, ("nap", 1.0): 0.75, ("plain", 0.1): 0.65}
    for (name, fraction), final in finals.items():
        for seed in range(3):
            kind = {"nap": name == "nap", "fraction": fraction, "seed": seed, "final": final - 0.01 * seed * fraction}
            make_run(tmp_path / "mine", f"{name}-from{100 * fraction:g}-s{seed}", **kind)
    _, panels = drawn(monkeypatch, figures.draw_folder, tmp_path / "mine", tmp_path / "mine.png")
    title = "Test accuracy: seeds thin, median bold; dotted: the data change"
    assert {title, *figures.MEASURED.values()} < set(panels)
    for name in (title, *figures.MEASURED.values()):
        assert verticals(panels[name]) == [(100, ":")]
    gap = panels["Gap to all data from the start, in points"]
    names = [label.get_text() for label in panels["Final test accuracy, mean, 95% interval"].get_yticklabels()]
    ends = {line.get_ydata()[0]: list(line.get_xdata()) for line in gap.lines if line.get_linestyle() == "-"
            and line.get_marker() == "None" and line.get_ydata()[0] == line.get_ydata()[1]}  # fmt: skip
    assert {names[place] for place in ends} == {"plain-from10", "nap-from10"}
    half = 4.302653 * 0.9 / 3**0.5  # deviation 0.9 points over 3 seeds
    assert ends[names.index("plain-from10")] == pytest.approx([5 - 0.9 - half, 5 - 0.9 + half], abs=1e-4)
    assert ends[names.index("nap-from10")] == pytest.approx([-0.9 - half, -0.9 + half], abs=1e-4)
    assert gap.get_xlabel() == "plain-from10 less nap-from10: 5.0 [5.0, 5.0]"
    dots = {line.get_ydata()[0]: line.get_xdata()[0] for line in gap.lines if line.get_marker() == "o"}
    assert dots[names.index("plain-from10")] == pytest.approx(4.1)


def test_two_runs_of_one_seed_are_not_two_seeds(tmp_path):
    for name in ("mine-s0", "mine-s1"):
        make_run(tmp_path, name, seed=0)
    with pytest.raises(ConfigError, match="have the same seed"):
        figures.load_arms(tmp_path)


@pytest.mark.parametrize("other", [{"data": "CIFAR-10 (a copy)"}, {"data_sha256": "1"}])
def test_runs_on_different_data_are_not_compared(tmp_path, other):
    for seed, facts in enumerate(({"data_sha256": "0"}, other)):
        run = make_run(tmp_path, f"plain-s{seed}", seed=seed)
        run.result.write_text(json.dumps(json.loads(run.result.read_text()) | facts))
    with pytest.raises(ConfigError, match="its runs learned from different data, CIFAR-10"):
        figures.load_arms(tmp_path)


def loaded(rows, result=None):
    return FinishedRun("run", WarmStartConfig().resolved(), rows, result)


@pytest.mark.parametrize(
    "options",
    [
        {
            "schedule": "cusum",
            "alarms": [110],
            "layers": [f"stages.{i}.conv" for i in range(20)],
            "network": "resnet18",
        },
        {"protocol": "increments", "schedule": "cusum", "alarms": [], "stop": 0},
    ],
)
def test_a_run_is_explained_in_one_figure_whatever_its_state(tmp_path, options):
    run = make_run(tmp_path, "run", **options)
    assert run_figure.draw_run(run, tmp_path / "a.png") == tmp_path / "a.png"
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_what_a_figure_marks():
    rows = [{"update": 10 * i, "phase": phase, "test_accuracy": 0.5, "train_accuracy": 0.5, "alarms": count}
            for i, (phase, count) in enumerate([(0, 0), (0, 1), (1, 1), (1, 3), (2, 3)])]  # fmt: skip
    assert run_figure.switches(loaded(rows)) == [10, 30]
    assert run_figure.alarms(loaded(rows)) == [10, 30, 30]
    assert run_figure.alarms(loaded(rows, {"alarms": [7, 22, 24]})) == [7, 22, 24]
    assert run_figure.alarms(loaded(rows, {"alarms": None})) == []


def test_layers_keep_the_order_of_the_network_and_leave_out_totals():
    rows = [
        {"erank_roy/b": 1, "dead_units": 0, "dead_units/b": 1},
        {"erank_roy/b": 1, "erank_roy/a": 3, "norm/b.weight": 1},
    ]
    assert layers_of(rows, "erank_roy") == {"b": "erank_roy/b", "a": "erank_roy/a"}
    assert layers_of(rows, "dead") == {"b": "dead_units/b"}
    assert list(layers_of(rows, "norm")) == ["b"]
    summary = figures.summarised(loaded([{"erank_roy/b": 1, "erank_roy/a": 3, "elr/a": 2, "elr/b": 4}])).rows[0]
    assert (summary["erank_roy"], summary["elr"], summary["dead_units"]) == (3, 3, None)


def test_a_suite_becomes_a_figure_and_tables_and_says_what_is_missing(tmp_path, capsys):
    finals = {("nap", 0.1): 0.74, ("nap", 1.0): 0.75, ("plain", 0.1): 0.65, ("plain", 1.0): 0.71}
    for (name, fraction), final in finals.items():
        for seed in range(3):
            stop = 150 if (name, fraction, seed) == ("plain", 0.1, 2) else None
            settings = {"nap": name == "nap", "fraction": fraction, "seed": seed, "stop": stop}
            run = f"{name}-from{100 * fraction:g}-s{seed}"
            make_run(tmp_path / "headline", run, final=final + 0.01 * seed * (fraction == 0.1), **settings)
    assert draw([str(tmp_path / "headline"), "--out", str(tmp_path / "out")]) == 0
    printed, out = capsys.readouterr().out, tmp_path / "out"
    text = (out / "headline.md").read_text()
    assert text in printed
    assert "not finished, left out: plain-from10-s2" in printed
    assert text.startswith("CIFAR-10, lyle10: 2 × 100 updates of 250 images, cnn (width 32, hidden 256, strides 2 2 1)")
    lost = "all of no-norms-from10, no-norms-from100; seeds 3, 4 of nap-from10, nap-from100, plain-from100"
    assert f"missing: {lost}; seeds 2, 3, 4 of plain-from10\n" in text
    assert "| plain-from10 | 2 |" in text
    assert "Gap of plain-from10 less that of nap-from10, paired over 2 seeds: 5.0 [5.0, 5.0] points" in text
    assert len((out / "headline-runs.csv").read_text().splitlines()) == 1 + 11
    rows = {(row["arm"], row["metric"]): row for row in csv.DictReader((out / "headline.csv").open())}
    gap = rows["nap-from10", "gap (points)"]
    assert (gap["n"], float(gap["mean"])) == ("3", pytest.approx(0))
    assert float(gap["high"]) == pytest.approx(4.302653 / 3**0.5)
    assert (out / "headline.png").read_bytes().startswith(b"\x89PNG")
    assert draw([str(tmp_path / "headline"), "--out", str(out), "--format", "svg"]) == 0
    drawn = (out / "headline.svg").read_text()
    assert "missing: seeds 3, 4 of nap-from10" in drawn
    assert "no-norms" not in drawn  # of which there is no run: the table says so


def test_a_table_of_one_run_and_none_of_no_finished_run(tmp_path, capsys):
    make_run(tmp_path / "some", "nap-s0", nap=True, protocol="increments", phase_updates=50)
    text = markdown("some", figures.load_arms(tmp_path / "some"))
    assert "one seed, so no interval: nap" in text
    assert "| mean over phases |" in text
    assert "No gap" in text
    make_run(tmp_path / "none", "nap-s0", stop=50)
    with pytest.raises(SystemExit):
        draw([str(tmp_path / "none"), "--out", str(tmp_path / "out")])
    assert "is finished yet" in capsys.readouterr().err


def test_cusum_is_compared_with_the_arms_of_the_folder_beside(tmp_path):
    make_run(tmp_path / "cusum", "nap-cusum-s0", final=0.73, nap=True, schedule="cusum", cycles=2, alarms=[120])
    for name, fraction, final in (("nap-from10", 0.1, 0.74), ("nap-from100", 1.0, 0.745)):
        make_run(tmp_path / "headline", f"{name}-s0", final=final, nap=True, fraction=fraction)
    make_run(tmp_path / "headline", "plain-from10-s0", final=0.6)
    arms = figures.load_arms(tmp_path / "cusum")
    assert list(arms) == ["nap-cusum", "nap-from10", "nap-from100"]
    text = markdown("cusum", arms)
    assert "Gap of nap-cusum less that of nap-from10, paired over 1 seed: 1.0 points" in text
    assert "Alarms of nap-cusum, in updates since the data changed: seed 0: 20" in text


def test_an_svg_is_rounded_and_the_same_each_time(tmp_path):
    make_run(tmp_path / "mine", "plain-s0")
    pictures = []
    for folder in ("a", "b"):
        assert draw([str(tmp_path / "mine"), "--format", "svg", "--out", str(tmp_path / folder)]) == 0
        pictures.append((tmp_path / folder / "mine.svg").read_text())
    assert pictures[0] == pictures[1]
    paths = re.findall(r' d="([^"]*)"', pictures[0])
    assert len(paths) > 20
    assert not any(re.search(r"\.\d\d|\n", path) for path in paths)
    texts = list(ElementTree.fromstring(pictures[0]).itertext())
    assert "Gap to all data from the start, in points" in texts
