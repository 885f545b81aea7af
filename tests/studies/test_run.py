"""The run that every study shares, with the smallest study there can be."""

import json
import math
import signal
import sys
from dataclasses import replace

import pytest

from experiment.config import ConfigError
from experiment.interrupt import INTERRUPTED
from experiment.storage.run_dir import RunDir
from studies import cli
from studies.figures import load_finished
from studies.records import load
from studies.run import StudyRun
from tests.broken_compiler import broken_compiler
from tests.experiment.test_harness import Config, Learner, train


class Monitor:
    """Counts its rows, so that a resumed one that forgot would be seen."""

    def __init__(self, learner):
        self.learner, self.rows = learner, 0

    def row(self):
        self.rows += 1
        weight = float(self.learner.model.weight.detach())
        return {
            "update": self.learner.updates,
            "rows": self.rows,
            "weight": weight,
            "test_loss": self.learner.loss,
        }

    def state_dict(self):
        return {"rows": self.rows}

    def load_state_dict(self, state):
        self.rows = state["rows"]


class Toy(StudyRun):
    program = "studies.toy"
    events = {}  # noqa: RUF012 (replaced by tests, never changed)

    @staticmethod
    def default_name(config):
        return "toy"

    def make(self):
        self.learner = Learner(self.events)
        self.monitor = Monitor(self.learner)

    def headline(self):
        return "a toy"

    def live_metrics(self):
        return {"weight": f"{self.last['weight']:.2f}"}

    def outcome(self, rows):
        return {"rows": len(rows)}

    def sentence(self, found):
        return f"{found['rows']} rows"

    def draw(self):
        raise ConfigError("a toy has none")


class Phased(Toy):
    """Measures before and after update 5 too, and ends at 7."""

    def due(self, updates):
        return super().due(updates) or updates in (5, 6)

    def finished(self):
        return self.learner.updates >= 7


def test_rows_are_measured_at_intervals_and_at_the_end(tmp_path, capsys):
    code, rows, run = train(Config(root=str(tmp_path)), Toy)
    assert (code, [row["update"] for row in rows]) == (0, [0, 4, 8, 10])
    result = json.loads(run.directory.result.read_text())
    assert (result["rows"], result["study"], result["updates"], result["parameters"]) == (4, "toy", 10, 2)
    printed = capsys.readouterr()
    assert "4 rows" in printed.out
    assert printed.err == "no figure: a toy has none\n"


def test_a_study_says_when_it_measures_and_ends(tmp_path):
    code, rows, run = train(Config(root=str(tmp_path)), Phased)
    assert (code, [row["update"] for row in rows]) == (0, [0, 4, 5, 6, 7])
    assert json.loads(run.directory.result.read_text())["updates"] == 7


def test_a_run_that_is_interrupted_while_it_compiles_has_its_first_row_once(tmp_path, monkeypatch):
    _, whole, _ = train(Config(root=str(tmp_path), name="whole"), Toy)
    config = Config(root=str(tmp_path), name="parts", compile=True)
    monkeypatch.setattr(Learner, "prepare", lambda _: signal.raise_signal(signal.SIGINT))
    code, rows, run = train(config, Toy)
    assert (code, [row["update"] for row in rows]) == (INTERRUPTED, [0])
    monkeypatch.setattr(Learner, "prepare", lambda _: None)
    code, rows, _ = train(replace(config, name=None, resume=str(run.directory.path)), Toy)
    assert (code, rows) == (0, whole)


def test_a_compiler_that_fails_is_found_before_anything_is_written(tmp_path):
    with (
        broken_compiler(tmp_path, "exit 1"),
        pytest.raises(ConfigError, match=r"no C.. compiler works here"),
    ):
        Toy(Config(root=str(tmp_path), compile=True))
    assert not RunDir(tmp_path / "toy").path.exists()


def command_line(*words):
    return cli.settings(Config, words, prog="toy", description="")


def test_a_tracker_may_be_given_and_changed_at_any_time(tmp_path, monkeypatch):
    event_files = lambda: len(list((tmp_path / "toy").glob("events.*")))  # noqa: E731
    pytest.importorskip("tensorboard")
    with monkeypatch.context() as patch:
        patch.setattr(Toy, "events", {6: lambda _: signal.raise_signal(signal.SIGINT)})
        train(command_line("--root", str(tmp_path), "--track", "tensorboard"), Toy)
    assert event_files() == 1
    run = str(tmp_path / "toy")
    assert command_line("--resume", run).track == "tensorboard"
    assert command_line("--root", str(tmp_path), "--resume", "auto").track == "none"
    with pytest.raises(ConfigError, match=r"give no others \(except --track and --checkpoint-at\)"):
        command_line("--resume", run, "--track=none", "--seed=1")
    code, rows, _ = train(command_line("--resume", run, "--track", "none"), Toy)
    assert (code, [row["update"] for row in rows], event_files()) == (0, [0, 4, 8, 10], 1)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="--track wandb needs wandb"):
        Toy(Config(root=str(tmp_path), name="other", track="wandb"))
    assert not (tmp_path / "other").exists()


def test_a_result_that_was_never_written_is_none(tmp_path):
    for name in ("whole", "cut"):
        train(Config(root=str(tmp_path), name=name), Toy)
    (tmp_path / "cut" / "result.json").write_text("")
    assert [run.name for run in load_finished(Config, tmp_path)] == ["whole"]
    assert load(Config, RunDir(tmp_path / "cut")).result is None


def test_a_loss_that_is_not_finite_stops_the_run_at_its_row(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Toy, "events", {7: lambda learner: setattr(learner, "loss", math.inf)})
    assert train(Config(root=str(tmp_path), precision="bf16"), Toy)[0] == 1
    line = capsys.readouterr().err
    assert line.startswith("error: stopped at update 8: not finite: test_loss. What may help a new run: a lower --lr, ")
    assert "--precision fp32. " in line


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (lambda rows: [rows[0], rows[2]], "metrics.jsonl has 3 of 4 rows"),
        (lambda rows: [rows[0], b"{}}\n", rows[2]], "metrics.jsonl line 2: not valid JSON"),
    ],
)
def test_no_result_is_made_of_a_part_of_the_rows(tmp_path, capsys, monkeypatch, left, said):
    path = tmp_path / "toy" / "metrics.jsonl"

    def spoil_rows(_):
        path.write_bytes(b"".join(left(path.read_bytes().splitlines(keepends=True))))

    with monkeypatch.context() as patch:
        patch.setattr(Toy, "events", {9: spoil_rows})
        run = Toy(Config(root=str(tmp_path)))
        assert run.train() == 1
    run.directory.unlock()
    assert not run.directory.result.is_file()
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert said in line
    assert line.endswith("; no result without all rows: run it again\n")
    # nor by going on with it
    with pytest.warns(UserWarning, match="rows were lost"):
        again = Toy(Config(resume=str(run.directory.path)))
    assert (again.train(), run.directory.result.is_file()) == (1, False)


def test_a_figure_that_cannot_be_written_spoils_nothing(tmp_path, capsys, monkeypatch):
    def draw(_):
        raise OSError(28, "No space left on device", "figure.png")

    monkeypatch.setattr(Toy, "draw", draw)
    code, _, run = train(Config(root=str(tmp_path)), Toy)
    assert (code, run.directory.result.is_file()) == (0, True)
    assert capsys.readouterr().err == "no figure: [Errno 28] No space left on device: 'figure.png'\n"
