"""The run that every study shares, with the smallest study there can be."""

import fcntl
import json
import math
import signal
import sys
from dataclasses import dataclass, replace

import pytest
import torch
from torch._inductor.exc import InvalidCxxCompiler

from experiment.config import ConfigError
from experiment.interrupt import INTERRUPTED
from experiment.results import read_rows
from experiment.setting import setting
from experiment.storage.run_dir import RunDir
from studies import cli
from studies.figures import load_finished
from studies.records import load
from studies.run import StudyRun
from tests.broken_compiler import broken_compiler


@dataclass(frozen=True)
class Config:
    seed: int = 0
    threads: int = setting(1, role="machine")
    device: str = setting("cpu", role="machine")
    root: str = setting("run", role="identity")
    name: str | None = setting("toy", role="identity")
    resume: str | None = setting(None, role="identity")
    track: str = setting("none", role="observing", changeable=True)
    log_interval: int = setting(4, role="observing")
    checkpoint_interval: int = setting(0, role="observing")
    budget: int = 10
    figure: bool = setting(True, role="observing")
    compile: bool = setting(False, role="machine")
    precision: str = "fp32"

    def resolved(self):
        return self


class Learner:
    def __init__(self, events):
        self.model, self.updates, self.events = torch.nn.Linear(1, 1), 0, events
        self.loss = 0.0

    def prepare(self):
        raise AssertionError("nothing is compiled here")

    def update(self):
        self.updates += 1
        torch.nn.init.normal_(self.model.weight)  # the global generator is part of a checkpoint
        if self.updates in self.events:
            self.events[self.updates](self)

    def state_dict(self):
        return {"model": self.model.state_dict(), "updates": self.updates}

    def load_state_dict(self, state):
        self.model.load_state_dict(state["model"])
        self.updates = state["updates"]


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

    def build(self):
        self.learner = Learner(self.events)
        self.monitor = Monitor(self.learner)

    def headline(self):
        return "a toy"

    def figures(self):
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


def train(kind, config):
    run = kind(config)
    code = run.train()
    run.directory.unlock()
    rows = read_rows(run.directory)
    return code, [{key: row[key] for key in ("update", "rows", "weight")} for row in rows], run


def test_rows_are_measured_at_intervals_and_at_the_end(tmp_path, capsys):
    code, rows, run = train(Toy, Config(root=str(tmp_path)))
    assert (code, [row["update"] for row in rows]) == (0, [0, 4, 8, 10])
    result = json.loads(run.directory.result.read_text())
    assert (result["rows"], result["study"], result["updates"], result["parameters"]) == (4, "toy", 10, 2)
    printed = capsys.readouterr()
    assert "4 rows" in printed.out
    assert printed.err == "no figure: a toy has none\n"


def test_a_study_says_when_it_measures_and_ends(tmp_path):
    code, rows, run = train(Phased, Config(root=str(tmp_path)))
    assert (code, [row["update"] for row in rows]) == (0, [0, 4, 5, 6, 7])
    assert json.loads(run.directory.result.read_text())["updates"] == 7


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_goes_on_to_the_rows_of_one_in_one_go(tmp_path, capsys, monkeypatch, number):
    _, whole, _ = train(Toy, Config(root=str(tmp_path), name="whole"))
    config = Config(root=str(tmp_path), name="parts")
    with monkeypatch.context() as patch:
        patch.setattr(Toy, "events", {6: lambda _: signal.raise_signal(number)})
        code, rows, run = train(Toy, config)
    assert (code, [row["update"] for row in rows]) == (INTERRUPTED, [0, 4])
    command = f"stopped at update 6, all is saved; go on with: python -m studies.toy --resume {run.directory.path}"
    assert command in capsys.readouterr().out
    code, rows, run = train(Toy, replace(config, name=None, resume=str(run.directory.path)))
    assert (code, rows) == (0, whole)
    with pytest.raises(ConfigError, match="is finished"):
        Toy(replace(config, resume=str(run.directory.path)))


def test_a_run_that_is_interrupted_while_it_compiles_has_its_first_row_once(tmp_path, monkeypatch):
    _, whole, _ = train(Toy, Config(root=str(tmp_path), name="whole"))
    config = Config(root=str(tmp_path), name="parts", compile=True)
    monkeypatch.setattr(Learner, "prepare", lambda _: signal.raise_signal(signal.SIGINT))
    code, rows, run = train(Toy, config)
    assert (code, [row["update"] for row in rows]) == (INTERRUPTED, [0])
    monkeypatch.setattr(Learner, "prepare", lambda _: None)
    code, rows, _ = train(Toy, replace(config, name=None, resume=str(run.directory.path)))
    assert (code, rows) == (0, whole)


def test_a_compiler_that_fails_is_found_before_anything_is_written(tmp_path):
    with (
        broken_compiler(tmp_path, "exit 1"),
        pytest.raises(ConfigError, match=r"no C.. compiler works here"),
    ):
        Toy(Config(root=str(tmp_path), compile=True))
    assert not RunDir(tmp_path / "toy").path.exists()


def test_a_compiler_that_fails_later_ends_the_run_in_one_line(tmp_path, capsys, monkeypatch):
    def prepare(_):
        raise InvalidCxxCompiler

    monkeypatch.setattr(Learner, "prepare", prepare)
    assert Toy(Config(root=str(tmp_path), compile=True)).train() == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: the loss cannot be compiled: no C++ compiler works here")
    assert shown.count("\n") == 1


@pytest.mark.parametrize("device", ["cuda:99", "tpu3000", "meta:x"])
def test_a_device_that_is_not_there_is_refused_before_anything_is_written(tmp_path, device):
    with pytest.raises(ConfigError, match=f"--device {device} cannot be used: "):
        Toy(Config(root=str(tmp_path), device=device))
    assert not RunDir(tmp_path / "toy").path.exists()


def command_line(*words):
    return cli.settings(Config, words, prog="toy", description="")


def test_a_tracker_may_be_given_and_changed_at_any_time(tmp_path, monkeypatch):
    event_files = lambda: len(list((tmp_path / "toy").glob("events.*")))  # noqa: E731
    pytest.importorskip("tensorboard")
    with monkeypatch.context() as patch:
        patch.setattr(Toy, "events", {6: lambda _: signal.raise_signal(signal.SIGINT)})
        train(Toy, command_line("--root", str(tmp_path), "--track", "tensorboard"))
    assert event_files() == 1
    run = str(tmp_path / "toy")
    assert command_line("--resume", run).track == "tensorboard"
    assert command_line("--root", str(tmp_path), "--resume", "auto").track == "none"
    with pytest.raises(ConfigError, match=r"give no others \(but --track\)"):
        command_line("--resume", run, "--track=none", "--seed=1")
    code, rows, _ = train(Toy, command_line("--resume", run, "--track", "none"))
    assert (code, [row["update"] for row in rows], event_files()) == (0, [0, 4, 8, 10], 1)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="--track wandb needs wandb"):
        Toy(Config(root=str(tmp_path), name="other", track="wandb"))
    assert not (tmp_path / "other").exists()


def test_resume_auto_says_which_settings_the_run_keeps(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(Toy, "events", {6: lambda _: signal.raise_signal(signal.SIGINT)})
        assert train(Toy, command_line("--root", str(tmp_path)))[0] == INTERRUPTED
    auto = ("--root", str(tmp_path), "--resume", "auto")
    capsys.readouterr()
    config = command_line(*auto, "--log-interval", "2", "--threads", "3", "--track", "tensorboard")
    assert (config.log_interval, config.threads, config.track) == (4, 1, "tensorboard")
    kept = "--log-interval 4 (not 2), --threads 1 (not 3)"
    assert capsys.readouterr().out == f"run '{tmp_path / 'toy'}' keeps the settings that it began with: {kept}\n"
    command_line(*auto)
    assert capsys.readouterr().out == ""


def test_a_result_that_was_never_written_is_none(tmp_path):
    for name in ("whole", "cut"):
        train(Toy, Config(root=str(tmp_path), name=name))
    (tmp_path / "cut" / "result.json").write_text("")
    assert [run.name for run in load_finished(Config, tmp_path)] == ["whole"]
    assert load(Config, RunDir(tmp_path / "cut")).result is None


def test_settings_that_were_edited_since_the_checkpoint_are_refused(tmp_path):
    _, _, run = train(Toy, Config(root=str(tmp_path)))
    run.directory.result.unlink()
    rows = run.directory.metrics.read_bytes()
    with pytest.raises(ConfigError, match=r"config.yaml was changed since the checkpoint: seed 1, was 0$"):
        Toy(Config(resume=str(run.directory.path), seed=1))
    assert run.directory.metrics.read_bytes() == rows


def test_a_run_in_use_is_refused(tmp_path):
    _, _, run = train(Toy, Config(root=str(tmp_path)))
    run.directory.result.unlink()
    with open(run.directory.path / ".lock", "a+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="in use"):
            Toy(Config(resume=str(run.directory.path)))


def spoil(learner):
    torch.nn.init.constant_(learner.model.weight, math.nan)


def overflow(learner):
    learner.loss = math.inf


@pytest.mark.parametrize(
    ("events", "config", "said"),
    [
        ({6: spoil}, {"checkpoint_interval": 3}, "stopped at update 6: not finite: model.weight; the last good"),
        ({7: overflow}, {}, "stopped at update 8: not finite: test_loss; no checkpoint had been written"),
    ],
)
def test_a_run_that_diverges_stops_and_keeps_its_last_good_checkpoint(
    tmp_path, capsys, monkeypatch, events, config, said
):
    monkeypatch.setattr(Toy, "events", events)
    code, _, run = train(Toy, Config(root=str(tmp_path), **config))
    assert code == 1
    assert said in capsys.readouterr().err
    kept = [path.name for path in run.directory.checkpoints.iterdir()]
    assert kept == (["000000000003"] if config else [])
    assert not run.directory.result.is_file()


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


def exhaust(learner):
    raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory")


@pytest.mark.parametrize("interval", [0, 3])
def test_a_run_that_is_out_of_memory_says_so_in_one_line(tmp_path, capsys, monkeypatch, interval):
    monkeypatch.setattr(Toy, "events", {5: exhaust})
    code, _, run = train(Toy, Config(root=str(tmp_path), checkpoint_interval=interval))
    advice = f"--resume {run.directory.path}" if interval else "a smaller --batch-size helps"
    line = capsys.readouterr().err
    assert (code, line.count("\n")) == (1, 1)
    assert line.startswith("error: out of memory at update 5: ")
    assert line.endswith(f"{advice}\n")


def test_a_figure_that_cannot_be_written_spoils_nothing(tmp_path, capsys, monkeypatch):
    def draw(_):
        raise OSError(28, "No space left on device", "figure.png")

    monkeypatch.setattr(Toy, "draw", draw)
    code, _, run = train(Toy, Config(root=str(tmp_path)))
    assert (code, run.directory.result.is_file()) == (0, True)
    assert capsys.readouterr().err == "no figure: [Errno 28] No space left on device: 'figure.png'\n"
