"""The run directory, tracking, progress, interrupts and determinism."""

import fcntl
import gc
import io
import json
import math
import os
import pty
import signal
import subprocess
import sys
import threading
import types
import warnings
from dataclasses import dataclass

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from experiment import determinism
from experiment.config import load_yaml
from experiment.interrupt import Interrupt
from experiment.progress import Progress, Rate
from experiment.storage.run_dir import RunDir
from experiment.storage.tracking import Tracker
from experiment.values import ConfigError


@dataclass
class Config:
    seed: int = 0
    """Seed."""


# --- run directory


def test_a_run_is_made_opened_and_found(tmp_path):
    run = RunDir.create(tmp_path / "run", "dqn", Config(7))
    assert load_yaml(Config, RunDir.open(run.path).config) == Config(7)
    assert run.checkpoints.is_dir()
    run.write_result({"score": math.nan, "steps": torch.tensor(3), "list": (1, 2)})
    assert json.loads(run.result.read_text()) == {"score": None, "steps": 3, "list": [1, 2]}


def test_taken_names(tmp_path):
    names = [RunDir.create(tmp_path, "dqn", Config()).path.name for _ in range(3)]
    assert names == ["dqn", "dqn-2", "dqn-3"]
    with pytest.raises(ConfigError, match=r"exists: continue it with --resume .*dqn, or choose another --name$"):
        RunDir.create(tmp_path, "dqn", Config(), explicit=True)
    for name in ("", "a/b", "..", ".hidden"):
        with pytest.raises(ConfigError, match="one directory name"):
            RunDir.create(tmp_path, name, Config())


def test_what_is_no_run(tmp_path):
    RunDir.create(tmp_path, "breakout", Config())
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"no such directory; did you mean 'breakout'\?"):
        RunDir.open(tmp_path / "breakuot")
    with pytest.raises(ConfigError, match=r"is not a run: it has no config.yaml$"):
        RunDir.open(tmp_path / "empty")


@pytest.mark.parametrize("place", ["mkdir", "fsync", "rename"])
def test_a_run_is_made_whole_or_not_at_all(place, tmp_path):
    """Killed amid it, or with a full disk."""
    real = getattr(os, place)

    def full(*_):
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, place, full)
        with pytest.raises(ConfigError, match=r"run .*dqn' cannot be made: No space left on device$"):
            RunDir.create(tmp_path, "dqn", Config(), explicit=True)
    assert list(tmp_path.iterdir()) == []
    if (child := os.fork()) == 0:
        setattr(os, place, lambda *given: (real(*given), os.kill(os.getpid(), signal.SIGKILL)))
        RunDir.create(tmp_path, "dqn", Config(), explicit=True)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    made = place == "rename"
    assert (tmp_path / "dqn" / "config.yaml").is_file() == (tmp_path / "dqn").exists() == made
    run = RunDir.open(tmp_path / "dqn") if made else RunDir.create(tmp_path, "dqn", Config(), explicit=True)
    run.lock()


def test_of_two_that_make_a_run_one_gets_the_name(tmp_path, monkeypatch):
    real = os.rename

    def slower(source, target):
        if target == tmp_path / "dqn" and not target.exists():
            RunDir.create(tmp_path, "other", Config())
            real(tmp_path / "other", target)
        real(source, target)

    monkeypatch.setattr(os, "rename", slower)
    assert RunDir.create(tmp_path, "dqn", Config()).path.name == "dqn-2"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dqn", "dqn-2"]


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(37, "No locks available")))
    with pytest.warns(UserWarning, match="no lock on .*, so a second process could use it: No locks available"):
        RunDir.create(tmp_path, "dqn", Config())


LOCK = """import sys; from experiment.storage.run_dir import RunDir
RunDir.open(sys.argv[1]).lock(); print('locked', flush=True)"""


def test_a_second_process_is_refused_until_the_first_one_dies(tmp_path):
    run = RunDir.create(tmp_path, "dqn", Config())
    words = [sys.executable, "-c", LOCK, str(run.path)]
    refused = subprocess.run(words, capture_output=True, text=True)
    assert f"is in use by process {os.getpid()}" in refused.stderr
    run.unlock()
    owner = subprocess.Popen([*words[:2], LOCK + "; sys.stdin.read()", words[3]], stdin=-1, stdout=-1, text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "locked\n"
    with pytest.raises(ConfigError, match=f"in use by process {owner.pid}"):
        run.lock()
    owner.kill()
    owner.communicate()
    run.lock()


# --- tracking

ROWS = st.lists(st.dictionaries(st.text(max_size=5), st.floats() | st.integers() | st.text(max_size=5), max_size=3))


@given(before=ROWS, lost=ROWS, after=ROWS, torn=st.binary(max_size=5))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_resumed_run_has_each_row_once(tmp_path, before, lost, after, torn):
    path = tmp_path / "metrics.jsonl"
    path.unlink(missing_ok=True)
    tracker = Tracker(path)
    for row in before:
        tracker.log(row)
    offset = tracker.offset()
    for row in lost:
        tracker.log(row)
    tracker.close()
    with open(path, "ab") as file:
        file.write(torn.replace(b"\n", b""))
    tracker = Tracker(path)
    tracker.cut_to(offset)
    for row in after:
        tracker.log(row)
    tracker.close()
    plain = [
        {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}
        for row in before + after
    ]
    assert [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] == plain


def test_a_row_is_there_when_log_returns(tmp_path):
    Tracker(tmp_path / "m.jsonl").log({"loss": torch.tensor(0.5)})
    assert json.loads((tmp_path / "m.jsonl").read_text()) == {"loss": 0.5}


class Full:
    """A file on a full disk, which takes a part of a row at most."""

    def __init__(self, file):
        self.file = file

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        self.file.write(data[:3])
        raise OSError(28, "No space left on device")


def test_rows_wait_while_the_disk_is_full(tmp_path):
    tracker, path = Tracker(tmp_path / "m.jsonl"), tmp_path / "m.jsonl"
    tracker.log({"a": 1})
    real = tracker._file
    tracker._file = Full(real)
    with pytest.warns(UserWarning, match="metrics wait until they can be written, training goes on: .*No space left"):
        tracker.log({"a": 2})
    tracker.log({"a": 3})  # warns no second time
    assert tracker.offset() == 27  # what a checkpoint counts on is all that was measured
    assert path.read_text().startswith('{"a": 1}\n')
    tracker._file = real
    tracker.log({"a": 4})
    rows = [{"a": i} for i in range(1, 5)]
    assert [json.loads(line) for line in path.read_text().splitlines()] == rows
    assert tracker.offset() == path.stat().st_size


def test_rows_that_wait_are_written_by_the_next_checkpoint(tmp_path):
    tracker = Tracker(tmp_path / "m.jsonl")
    real, tracker._file = tracker._file, Full(tracker._file)
    with pytest.warns(UserWarning, match="metrics wait"):
        tracker.log({"a": 1})
    tracker._file = real
    assert tracker.offset() == 9
    assert (tmp_path / "m.jsonl").read_text() == '{"a": 1}\n'


def test_rows_that_could_never_be_written_are_counted_at_the_end(tmp_path):
    tracker = Tracker(tmp_path / "m.jsonl")
    tracker._file = Full(tracker._file)
    with pytest.warns(UserWarning, match="metrics wait"):
        tracker.log({"a": 1})
    tracker.log({"a": 2})
    with pytest.warns(UserWarning, match="the end of the metrics could not be written and is lost: 2 rows"):
        tracker.close()
    tracker.close()


@pytest.mark.parametrize("left", ['{"a": 1}\n', '{"a": 1}\n{"a"', ""])
def test_rows_that_the_disk_lost_are_told_and_the_rest_is_whole(left, tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text(left)
    tracker = Tracker(path)
    with pytest.warns(UserWarning, match=f"ends {18 - 9 * left.count(chr(10))} bytes before the checkpoint"):
        tracker.cut_to(18)
    tracker.log({"a": 3})
    assert path.read_text() == '{"a": 1}\n' * left.count("\n") + '{"a": 3}\n'


@pytest.mark.parametrize("track", ["wandb", "tensorboard"])
def test_a_missing_tracker_is_told_at_the_start(tmp_path, monkeypatch, track):
    monkeypatch.setitem(sys.modules, track, None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(ConfigError, match=rf"pip install 'rewarm\[{track}\]'"):
        Tracker(tmp_path / "m.jsonl", track=track)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("broken", ["init", "log", "finish"])
def test_wandb_that_fails_stops_nothing(tmp_path, monkeypatch, broken):
    rows = []

    def fail(*_, **__):
        raise RuntimeError("offline")

    run = types.SimpleNamespace(log=rows.append, finish=lambda: None)
    wandb = types.SimpleNamespace(init=lambda **_: run)
    setattr(wandb if broken == "init" else run, broken, fail)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    gc.collect()  # what other tests left warns when it is collected
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tracker = Tracker(tmp_path / "m.jsonl", track="wandb")
        tracker.log({"a": 1})
        tracker.log({"a": 2})
        tracker.close()
    assert ["offline" in str(warning.message) for warning in caught] == [True]
    assert rows == ([{"a": 1}, {"a": 2}] if broken == "finish" else [])
    assert (tmp_path / "m.jsonl").read_text() == '{"a": 1}\n{"a": 2}\n'


def test_each_run_of_a_process_has_a_wandb_run_of_its_own(tmp_path, monkeypatch):
    begun: list[list[dict]] = []

    def init(reinit: str = "default", **_):
        if not begun or reinit == "create_new":  # by default wandb returns the run that is active
            begun.append([])
        return types.SimpleNamespace(log=begun[-1].append, finish=lambda: None)

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    trackers = [Tracker(tmp_path / f"{seed}.jsonl", track="wandb") for seed in range(2)]
    for seed, tracker in enumerate(trackers):
        tracker.log({"seed": seed})
        tracker.close()
    assert begun == [[{"seed": 0}], [{"seed": 1}]]


def shown(run, name):
    """What TensorBoard shows of a curve: (step, value)."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(run)).Reload()
    return [(event.step, event.value) for event in found.Scalars(name)]


@pytest.mark.parametrize("x", ["agent_step", "update"])
@pytest.mark.parametrize("kept", [0, 4])
def test_tensorboard_shows_each_row_once_after_a_resume(tmp_path, x, kept):
    pytest.importorskip("tensorboard")
    tracker, offsets = Tracker(tmp_path / "m.jsonl", track="tensorboard"), [0]
    for step in range(1, 7):
        tracker.log({x: 10 * step, "loss": float(step), "none": None, "text": "a", "elr/torso.0": torch.tensor(0.5)})
        offsets.append(tracker.offset())
    assert len(shown(tmp_path, "loss")) == 6  # on the disk with each checkpoint
    tracker.close()
    resumed = Tracker(tmp_path / "m.jsonl", track="tensorboard")
    resumed.cut_to(offsets[kept])
    for step in range(kept + 1, 9):
        resumed.log({x: 10 * step, "loss": -float(step)})
    resumed.close()
    assert shown(tmp_path, "loss") == [(10 * s, float(s if s <= kept else -s)) for s in range(1, 9)]
    assert shown(tmp_path, "elr/torso.0") == [(10 * s, 0.5) for s in range(1, kept + 1)]


def test_tensorboard_that_fails_stops_nothing(tmp_path, monkeypatch):
    writer = pytest.importorskip("torch.utils.tensorboard").SummaryWriter
    tracker = Tracker(tmp_path / "m.jsonl", track="tensorboard")
    monkeypatch.setattr(writer, "add_scalar", lambda *_: 1 / 0)
    with pytest.warns(UserWarning, match="tensorboard failed and is dropped, metrics.jsonl goes on"):
        tracker.log({"agent_step": 1})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracker.log({"agent_step": 2})
        tracker.close()
    assert (tmp_path / "m.jsonl").read_text() == '{"agent_step": 1}\n{"agent_step": 2}\n'


# --- progress


def test_the_rate_forgets_a_slow_start():
    rate, done = Rate(window=60), 0.0
    for second in range(200):
        done += 1.0 if second < 100 else 50.0
        rate.add(float(second), done)
    assert rate.value() == pytest.approx(50.0)


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 100)), min_size=1, max_size=400))
def test_the_rate_is_that_of_about_the_last_window(steps):
    rate, now, done, history = Rate(window=20), 0.0, 0, []
    for wait, more in steps:
        now, done = now + wait, done + more
        history.append((now, done))
        rate.add(now, done)
    exact = [(done - d) / (now - t) for t, d in history if 15 <= now - t <= 30]
    if exact and now > 30:
        assert min(exact) - 1e-6 <= rate.value() <= max(exact) + 1e-6


def plain_console() -> Console:
    return Console(file=io.StringIO(), force_terminal=False)


def test_without_a_terminal_one_line_early_and_then_one_an_interval():
    now, calls, console = 0.0, 0, plain_console()

    def metrics():
        nonlocal calls
        calls += 1
        return {"loss": "0.5"}

    progress = Progress(1000, "agent steps", console, interval=30, clock=lambda: now)
    for step in range(1000):
        progress.update(step, metrics)
        now += 0.1
    progress.close()
    lines = console.file.getvalue().splitlines()
    assert len(lines) == calls == 2 + 3 + 1
    assert lines[1] == "2% 20/1,000 agent steps, 0:00:02 elapsed, 0:01:38 left, 10.0/s, loss 0.5"


def test_a_resumed_run_does_not_count_what_was_done_before():
    now, console = 0.0, plain_console()
    progress = Progress(1000, "steps", console, start=900, clock=lambda: now)
    now = 10.0
    progress.update(950)
    assert "95% 950/1,000 steps, 0:00:10 elapsed, 0:00:10 left, 5.0/s" in console.file.getvalue()


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
@pytest.mark.parametrize("count", [0, 1, 9])
def test_the_live_view_fits_the_terminal(width, count):
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=24, _environ={"TERM": "xterm"})
    metrics = {f"figure {i}": f"{10**i:,}" for i in range(count)}
    with Progress(100_000, "agent steps", console) as progress:
        progress.update(42_000, metrics)
    text = Console(file=io.StringIO(), width=width)
    text.print(progress._live.get_renderable())
    lines = text.file.getvalue().splitlines()
    assert all(len(line.rstrip()) <= width for line in lines)
    if width >= 60:
        assert "42% 42,000/100,000 agent steps" in lines[0]
        assert all(label in "\n".join(lines) and value in "\n".join(lines) for label, value in metrics.items())


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_that_goes_away_is_silence(terminal):
    if terminal:
        reader, writer = pty.openpty()
    else:
        reader, writer = os.pipe()
    console = Console(file=os.fdopen(writer, "w"), force_terminal=terminal, _environ={"TERM": "xterm"})
    now = 0.0
    with Progress(10, "steps", console, clock=lambda: now) as progress:
        progress.update(1)
        os.close(reader)
        for done in range(2, 10):
            now += 100.0
            progress.update(done)
    console.file.close()


def test_a_closed_stream_is_silence():
    now, console = 0.0, plain_console()
    with Progress(10, "steps", console, clock=lambda: now) as progress:
        progress.update(1)
        console.file.close()
        now = 100.0
        progress.update(2)


# --- interrupts


def test_signals_are_requests_and_the_second_ctrl_c_insists():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    for number in (signal.SIGINT, signal.SIGTERM):
        with Interrupt() as interrupt:
            assert not interrupt.requested
            signal.raise_signal(signal.SIGHUP)
            assert not interrupt.requested
            signal.raise_signal(number)
            assert interrupt.requested
    with Interrupt():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_outside_the_main_thread_it_does_nothing():
    seen = []

    def work():
        with Interrupt() as interrupt:
            seen.append(interrupt.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


# --- determinism


@given(st.integers(0, 2**64), st.lists(st.text(max_size=8), unique=True, max_size=6))
def test_seeds_depend_on_the_seed_and_the_name_alone(seed, names):
    together = determinism.seeds(seed, *names)
    assert together == {name: determinism.seeds(seed, name)[name] for name in reversed(names)}
    assert len(set(together.values())) == len(names)
    assert all(0 <= value < 2**31 for value in together.values())
    assert not set(together.values()) & set(determinism.seeds(seed + 1, *names).values())


def test_configure_makes_runs_equal():
    threads = torch.get_num_threads()
    with pytest.raises(ValueError, match="at least 1"):
        determinism.configure(0, 1)
    with pytest.raises(ValueError, match="non-negative"):
        determinism.configure(1, -1)
    draws = []
    for seed in (1, 1, 2):
        determinism.configure(threads, seed)
        draws.append(determinism.parameter_hash(torch.nn.Linear(3, 3)))
    assert draws[0] == draws[1] != draws[2]


def test_configure_flushes_tiny_numbers_in_every_thread():
    script = (
        "import torch; from experiment.determinism import configure; configure(2, 0); "
        "print(torch.get_num_threads(), int((torch.full((2_000_000,), 1e-40) * 0.9).count_nonzero()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "0"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_the_hash_sees_every_bit(dtype):
    module = torch.nn.Module()
    module.register_buffer("b", torch.arange(6, dtype=dtype).reshape(2, 3))
    before = determinism.parameter_hash(module)
    assert determinism.parameter_hash(module) == before
    module.b = module.b.reshape(3, 2)
    assert determinism.parameter_hash(module) != before
    module.b = module.b.reshape(2, 3).clone()
    assert determinism.parameter_hash(module) == before
    module.b[1, 2] += 1
    assert determinism.parameter_hash(module) != before


def test_the_environment_is_recorded():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        described = determinism.environment()
    assert json.loads(json.dumps(described)) == described
    assert described["torch"] == torch.__version__
    assert described["cpu"]
