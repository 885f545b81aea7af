"""The harness that agents and studies share, with the smallest run there can be."""

import json
import math
import signal
from dataclasses import dataclass, replace

import pytest
import torch
from torch._inductor.exc import InvalidCxxCompiler

from experiment.config import ConfigError
from experiment.determinism import rng_state, set_rng_state
from experiment.interrupt import INTERRUPTED
from experiment.results import RESULT, read_result, read_rows
from experiment.run import Run
from experiment.setting import setting
from experiment.storage import checkpoint
from experiment.storage.run_dir import RunDir


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
    keep_checkpoints: int = setting(2, role="observing")
    checkpoint_at: tuple[str, ...] = setting((), role="observing", changeable=True)
    fork: str | None = setting(None, role="identity")
    fork_step: int | None = None
    fork_hash: str | None = setting(None, role="identity")
    fork_changed: str | None = setting(None, role="identity")

    def resolved(self):
        return self


class Learner:
    """Draws a weight in each update; `events` are called after some of them, with the learner."""

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


class Toy(Run):
    unit, rows_end, command, remedies = "update", "length", "toy", "a lower --lr"
    events = {}  # noqa: RUF012 (replaced by tests, never changed)
    step = property(lambda self: self.learner.updates)

    @staticmethod
    def default_name(config):
        return "toy"

    def build(self, saved):
        self.learner = Learner(self.events)
        self.network = self.learner.model

    def advance(self, progress):
        self.learner.update()
        self.tracker.log({"update": self.step, "weight": float(self.network.weight.detach())})

    def state_dict(self):
        return {"learner": self.learner.state_dict(), "run": {"rng": rng_state()}}

    def adapted(self, source):
        return source.saved.state, {}

    def restore(self, saved):
        self.learner.load_state_dict(saved.state["learner"])
        set_rng_state(saved.state["run"]["rng"])
        return "in its place"

    def headline(self):
        return "a toy"

    def live_metrics(self):
        return {"weight": f"{float(self.network.weight.detach()):.2f}"}

    def conclude(self):
        print("it is over")
        return {"toys": 1, "seconds": {"training": 0.5}}


def train(config, kind=Toy):
    """Trains; the exit code, the rows without times, and the run, which this process keeps no longer."""
    run = kind(config)
    code = run.train()
    run.directory.unlock()
    rows = [{name: value for name, value in row.items() if "seconds" not in name} for row in read_rows(run.directory)]
    return code, rows, run


def test_a_run_leaves_its_rows_and_what_every_result_has(tmp_path, capsys):
    code, rows, run = train(Config(root=str(tmp_path), resume="auto", name=None, seed=3))
    assert (code, [row["update"] for row in rows]) == (0, list(range(1, 11)))
    result = read_result(run.directory, RESULT)
    assert (result["toys"], result["seed"], result["updates"], result["parameters"]) == (1, 3, 10, 2)
    assert result["settings"]["resume"] is None
    shown = capsys.readouterr()
    assert shown.out.splitlines()[:3] == [
        f"no unfinished run of these settings in {str(tmp_path)!r}: a new one begins",
        "a toy",
        f"run directory: {tmp_path / 'toy'}",
    ]
    assert shown.out.splitlines()[-2:] == ["it is over", f"result: {run.directory.result}"]
    assert shown.err == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_goes_on_to_the_rows_of_one_in_one_go(tmp_path, capsys, monkeypatch, number):
    _, whole, one = train(Config(root=str(tmp_path), name="whole"))
    config = Config(root=str(tmp_path), name="parts")
    with monkeypatch.context() as patch:
        patch.setattr(Toy, "events", {6: lambda _: signal.raise_signal(number)})
        code, rows, run = train(config)
    assert (code, len(rows)) == (INTERRUPTED, 6)
    command = f"stopped at update 6, all is saved; go on with: toy --resume {run.directory.path}"
    assert command in capsys.readouterr().out
    saved = checkpoint.load_latest(run.directory.checkpoints)
    del saved.state["run"]["made_by"]  # checkpoints of earlier versions may lack it
    checkpoint.save(run.directory.checkpoints, saved.step, saved.state)
    code, rows, run = train(replace(config, name=None, resume=str(run.directory.path)))
    assert (code, rows) == (0, whole)
    assert "resuming at update 6, in its place\n" in capsys.readouterr().out
    hashes = [read_result(each.directory)["parameter_hash"] for each in (one, run)]
    assert hashes[0] == hashes[1]
    with pytest.raises(ConfigError, match="is finished"):
        Toy(replace(config, resume=str(run.directory.path)))


@pytest.mark.parametrize("device", ["cuda:99", "tpu3000", "meta:x"])
def test_a_device_that_is_not_there_is_refused_before_anything_is_written(tmp_path, device):
    with pytest.raises(ConfigError, match=f"--device {device} cannot be used: "):
        Toy(Config(root=str(tmp_path), device=device))
    assert not RunDir(tmp_path / "toy").path.exists()


def spoil(learner):
    torch.nn.init.constant_(learner.model.bias, math.nan)


def failing(error):
    def fail(_):
        raise error

    return fail


MEMORY = RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory")


@pytest.mark.parametrize(
    ("event", "interval", "said"),
    [
        (
            spoil,
            3,
            "stopped at update 6: not finite: model.bias. What may help a new run: a lower --lr. The last good",
        ),
        (
            spoil,
            0,
            "not finite: model.bias. What may help a new run: a lower --lr. There is no checkpoint from before.",
        ),
        (failing(MemoryError()), 0, "out of memory at update 6: "),
        (failing(torch.OutOfMemoryError("CUDA")), 0, "out of memory at update 6: "),
        (failing(MEMORY), 0, "out of memory at update 6: a smaller --batch-size helps"),
        (failing(MEMORY), 3, "out of memory at update 6: go on, where there is more, with: toy --resume "),
        (failing(ChildProcessError("worker 3 is gone")), 3, "worker 3 is gone; go on from the last checkpoint: toy "),
        (failing(InvalidCxxCompiler()), 0, "the loss cannot be compiled at update 6: no C++ compiler works here"),
    ],
)
def test_a_fault_in_training_is_one_line_and_keeps_the_last_good_checkpoint(
    tmp_path, capsys, monkeypatch, event, interval, said
):
    monkeypatch.setattr(Toy, "events", {6: event})
    code, _, run = train(Config(root=str(tmp_path), checkpoint_interval=interval))
    line = capsys.readouterr().err
    assert (code, line.count("\n")) == (1, 1)
    assert line.startswith("error: ")
    assert said in line
    kept = [path.name for path in run.directory.checkpoints.iterdir()]
    assert kept == (["000000000003"] if interval else [])
    assert not run.directory.result.is_file()


def test_a_fault_of_the_code_is_not_hidden(tmp_path, monkeypatch):
    monkeypatch.setattr(Toy, "events", {6: failing(RuntimeError("a fault of ours"))})
    with pytest.raises(RuntimeError, match="a fault of ours"):
        Toy(Config(root=str(tmp_path))).train()


@pytest.mark.parametrize(
    ("text", "needed", "said"),
    [
        ('{"steady": 0.', {}, r"result.json: not valid JSON: Expecting ',' delimiter"),
        ("[]", {}, r"result.json is not the result of a toy: it is no mapping"),
        ('{"settings": {}}', {"game": str}, r"result.json is not the result of a toy: it has no 'game'"),
        ('{"settings": {}, "environment": "here"}', {}, r"result.json: its environment is 'here', not a mapping"),
        ('{"settings": {}, "seed": "one"}', {}, r"result.json: its seed is 'one', not a whole number"),
    ],
)
def test_a_result_that_cannot_be_read_is_one_line(tmp_path, text, needed, said):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(ConfigError, match=said) as error:
        read_result(RunDir(tmp_path), needed, "a toy")
    assert "\n" not in str(error.value)


def test_results_of_earlier_versions_are_read_as_those_of_this_one(tmp_path):
    run = RunDir(tmp_path)
    assert read_result(run) is None
    run.result.write_text(json.dumps({"agent": "dqn", "settings": {"seed": 4}, "training_seconds": 2.5}))
    result = read_result(run)
    assert (result["seed"], result["seconds"]) == (4, {"training": 2.5})
