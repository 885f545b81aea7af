"""Figures and tables from made-up run directories."""

import csv
import json
from dataclasses import replace

import pytest

from experiment.config import ConfigError
from experiment.run_dir import RunDir
from studies import drawing
from studies.records import FinishedRun
from studies.warm_start import figures
from studies.warm_start.comparisons import markdown
from studies.warm_start.config import WarmStartConfig
from studies.warm_start.outcome import outcome

LAYERS = ("conv1", "conv2", "conv3", "hidden")
INTERVAL = 25


@pytest.fixture(autouse=True)
def _coarse(monkeypatch):
    """Few pixels, so that drawing is quick."""
    monkeypatch.setitem(drawing.STYLE, "savefig.dpi", 20)


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
    assert figures.draw_run(run, tmp_path / "a.png") == tmp_path / "a.png"
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_what_a_figure_marks():
    rows = [{"update": 10 * i, "phase": phase, "test_accuracy": 0.5, "train_accuracy": 0.5, "alarms": count}
            for i, (phase, count) in enumerate([(0, 0), (0, 1), (1, 1), (1, 3), (2, 3)])]  # fmt: skip
    assert figures.switches(loaded(rows)) == [10, 30]
    assert figures.alarms(loaded(rows)) == [10, 30, 30]
    assert figures.alarms(loaded(rows, {"alarms": [7, 22, 24]})) == [7, 22, 24]
    assert figures.alarms(loaded(rows, {"alarms": None})) == []


def test_layers_keep_the_order_of_the_network_and_leave_out_totals():
    rows = [
        {"erank_roy/b": 1, "dead_units": 0, "dead_units/b": 1},
        {"erank_roy/b": 1, "erank_roy/a": 3, "norm/b.weight": 1},
    ]
    assert figures.layers(rows, "erank_roy") == {"b": "erank_roy/b", "a": "erank_roy/a"}
    assert figures.layers(rows, "dead") == {"b": "dead_units/b"}
    assert list(figures.layers(rows, "norm")) == ["b"]
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
    assert figures.main([str(tmp_path / "headline"), "--out", str(tmp_path / "out")]) == 0
    printed, out = capsys.readouterr().out, tmp_path / "out"
    text = (out / "headline.md").read_text()
    assert text in printed
    assert "not finished, left out: plain-from10-s2" in printed
    assert text.startswith("CIFAR-10, lyle10: 2 × 100 updates of 250 images, cnn (width 32, hidden 256, strides 2 2 1)")
    lost = "all of no-norms-from10, no-norms-from100; nap-from10 seeds 3, 4; nap-from100 seeds 3, 4"
    assert f"missing: {lost}; plain-from10 seeds 2, 3, 4; plain" in text
    assert "| plain-from10 | 2 |" in text
    assert "Gap of plain-from10 less that of nap-from10, paired over 2 seeds: 5.0 [5.0, 5.0] points" in text
    assert len((out / "headline-runs.csv").read_text().splitlines()) == 1 + 11
    rows = {(row["arm"], row["metric"]): row for row in csv.DictReader((out / "headline.csv").open())}
    gap = rows["nap-from10", "gap (points)"]
    assert (gap["n"], float(gap["mean"])) == ("3", pytest.approx(0))
    assert float(gap["high"]) == pytest.approx(4.302653 / 3**0.5)
    assert (out / "headline.png").read_bytes().startswith(b"\x89PNG")


def test_a_table_of_one_run_and_none_of_no_finished_run(tmp_path, capsys):
    make_run(tmp_path / "some", "nap-s0", nap=True, protocol="increments", phase_updates=50)
    text = markdown("some", figures.load_arms(tmp_path / "some"))
    assert "one seed, so no interval: nap" in text
    assert "| mean over phases |" in text
    assert "No gap" in text
    make_run(tmp_path / "none", "nap-s0", stop=50)
    with pytest.raises(SystemExit):
        figures.main([str(tmp_path / "none"), "--out", str(tmp_path / "out")])
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
