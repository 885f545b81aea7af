import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from experiment.determinism import rng_state, set_rng_state
from experiment.storage import checkpoint, files
from experiment.storage.checkpoint import (
    CheckpointError,
    checked_restore,
    load_for_resume,
    load_latest,
    save,
    save_or_warn,
)
from experiment.storage.run_dir import RunDir
from experiment.values import ConfigError


@dataclass
class Plain:
    seed: int = 0


def state(step: int) -> dict:
    tensors = {"w": torch.arange(50, dtype=torch.float32) + step, "half": torch.ones(3, dtype=torch.bfloat16)}
    rest = {"step": step, "lr": 0.1, "names": ["a", ("b", None)], "flag": True, 3: 2**130, "raw": [b"x", b""]}
    return {"network": tensors, "counters": rest}


def assert_is(loaded, step: int) -> None:
    assert loaded.step == step
    assert loaded.state["counters"] == state(step)["counters"]
    for name, tensor in state(step)["network"].items():
        assert torch.equal(loaded.state["network"][name], tensor)
        assert loaded.state["network"][name].dtype == tensor.dtype


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_round_trip_and_the_newest_two_are_kept(tmp_path):
    for step in (1, 20, 300):
        save(tmp_path, step, state(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000000020", "000000000300"]
    loaded = load_latest(tmp_path)
    assert_is(loaded, 300)
    assert loaded.path == tmp_path / "000000000300"


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
NESTED = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(NESTED)
@example({"actions": b"", "clones": [b""]})
def test_what_can_be_saved_can_be_loaded(value):
    with tempfile.TemporaryDirectory() as name:
        save(Path(name), 1, {"part": value})
        assert load_latest(Path(name)).state == {"part": value}


def test_saving_the_same_step_again_replaces_it(tmp_path):
    save(tmp_path, 5, {"a": 1})
    save(tmp_path, 5, {"a": 2})
    assert load_latest(tmp_path).state == {"a": 2}
    assert len(list(tmp_path.iterdir())) == 1


@given(data=st.data())
@settings(max_examples=120, deadline=None)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(data):
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        save(directory, 1, state(1))
        newest = save(directory, 2, state(2))
        victim = data.draw(st.sampled_from(sorted(newest.iterdir())))
        content = victim.read_bytes()
        position = data.draw(st.integers(0, len(content) - 1))
        damage = data.draw(st.sampled_from(["flip", "cut", "remove", "swap", "empty"]))
        if damage == "flip":
            bit = 1 << data.draw(st.integers(0, 7))
            victim.write_bytes(content[:position] + bytes([content[position] ^ bit]) + content[position + 1 :])
        elif damage == "cut":
            victim.write_bytes(content[:position])
        elif damage == "swap":
            shutil.copy(directory / "000000000001" / victim.name, victim)
        else:
            victim.unlink() if damage == "remove" else victim.write_bytes(b"")
        before = contents(directory)
        with pytest.warns(UserWarning, match=r"000000000002 is damaged \("):
            assert_is(load_latest(directory), 1)
        assert contents(directory) == before


def test_none_good_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="no checkpoint in"):
        load_latest(tmp_path / "missing")
    for step in (1, 2):
        (save(tmp_path, step, state(step)) / "network.pt").unlink()
    with (
        pytest.warns(UserWarning, match="damaged"),
        pytest.raises(ConfigError, match=r"every checkpoint in .* is damaged$"),
    ):
        load_latest(tmp_path)


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:-1] + b"?"], ids=["cut", "flip"])
def test_a_damaged_one_does_not_count_among_those_kept(damage, tmp_path):
    save(tmp_path, 1, state(1))
    file = save(tmp_path, 2, state(2)) / "network.pt"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.warns(UserWarning, match="damaged"):
        assert load_latest(tmp_path).step == 1
    save(tmp_path, 3, state(3))
    assert (tmp_path / "000000000001").exists()
    save(tmp_path, 4, state(4))
    assert not (tmp_path / "000000000001").exists()


def test_a_damaged_later_step_goes_when_the_run_saves_again(tmp_path):
    save(tmp_path, 10, state(10))
    (save(tmp_path, 20, state(20)) / "network.pt").unlink()
    save(tmp_path, 15, state(15))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_is(load_latest(tmp_path), 15)


def test_an_unfinished_run_is_taken_up_and_others_are_refused_in_one_line(tmp_path, capsys):
    run = RunDir.create(tmp_path, "a", Plain())
    assert load_for_resume(run) is None
    assert "begins again" in capsys.readouterr().out
    run.result.touch()  # an empty result is none
    for step in (1, 2):
        (save(run.checkpoints, step, state(step)) / "note").touch()
    assert_is(load_for_resume(run), 2)
    moved = run.checkpoints.rename(tmp_path / "another disk")
    run.checkpoints.symlink_to(moved)
    assert_is(load_for_resume(run), 2)
    assert save(run.checkpoints, 3, state(3)).is_dir()
    shutil.rmtree(moved)  # no longer mounted: the metrics must not begin again
    with pytest.raises(ConfigError, match=r"cannot go on: .*checkpoints is not there$"):
        load_for_resume(run)
    run.write_result({"score": 1})
    with pytest.raises(ConfigError, match="is finished: see"):
        load_for_resume(run)


def test_what_does_not_fit_is_one_line(tmp_path):
    save(tmp_path, 1, {"network": {"w": torch.zeros(2)}})
    saved = load_latest(tmp_path)
    for fault in (KeyError("b"), RuntimeError("sizes\ndiffer"), RuntimeError(), AttributeError("None"), TypeError("x")):
        with (
            pytest.raises(ConfigError, match=r"checkpoint .* does not fit this run: .*$") as caught,
            checked_restore(saved),
        ):
            raise fault
        assert "\n" not in str(caught.value)
    with pytest.raises(ZeroDivisionError), checked_restore(saved):
        raise ZeroDivisionError


def test_another_layout_is_refused(tmp_path):
    path = save(tmp_path, 1, state(1)) / "manifest.json"
    body = {key: value for key, value in json.loads(path.read_text()).items() if key != "sha256"} | {"layout": 99}
    path.write_text(json.dumps({"sha256": checkpoint._digest(body), **body}))
    with pytest.raises(ConfigError, match="has layout 99, this version reads layout 2"):
        load_latest(tmp_path)


@pytest.mark.parametrize("value", [np.float64(1), np.zeros(2), {1, 2}, Path("a"), {"deep": [random.Random()]}])
def test_what_could_not_be_loaded_back_is_refused_when_saving(tmp_path, value):
    with pytest.raises(TypeError, match="a checkpoint holds"):
        save(tmp_path, 1, {"part": value})
    assert list(tmp_path.iterdir()) == []


@given(room=st.integers(0, 3000))
@settings(max_examples=40, deadline=None)
def test_a_full_disk_leaves_what_was_there(room):
    """Every write beyond `room` bytes fails, wherever in the checkpoint that is."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        directory = Path(name)
        save(directory, 1, state(1))
        before, left = contents(directory), room
        real_open = open

        def limited_open(path, mode="r", **options):
            file = real_open(path, mode, **options)
            if mode[0] not in "wx":
                return file
            real_write = file.write

            def write(data):
                nonlocal left
                left -= len(bytes(data, "utf-8") if isinstance(data, str) else data)
                if left < 0:
                    raise OSError(28, "No space left on device")
                return real_write(data)

            class Limited:
                def __getattr__(self, attribute):
                    return write if attribute == "write" else getattr(file, attribute)

                def __enter__(self):
                    return self

                def __exit__(self, *_):
                    file.close()

            return Limited()

        for module in (checkpoint, files):
            patch.setattr(module, "open", limited_open, raising=False)
        if room < 2500:
            with pytest.raises(CheckpointError, match="No space left"):
                save(directory, 2, state(2))
            assert contents(directory) == before
            with pytest.warns(UserWarning, match="No space left on device; training goes on"):
                assert save_or_warn(directory, 2, state(2)) is False
        assert_is(load_latest(directory), 1)


def test_a_file_that_the_system_will_not_let_grow(tmp_path):
    """The real thing: RLIMIT_FSIZE makes the kernel refuse, as a full disk does."""
    save(tmp_path, 1, state(1))
    before = contents(tmp_path)
    child = os.fork()
    if child == 0:  # no exec: the limit must not touch the test process
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        warnings.simplefilter("ignore")
        os._exit(int(save_or_warn(tmp_path, 2, {"network": {"w": torch.zeros(1_000_000)}})))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert contents(tmp_path) == before


def test_a_kill_during_a_save_loses_nothing(tmp_path):
    script = (
        "import torch, itertools, sys; from pathlib import Path; from experiment.storage.checkpoint import save\n"
        "for step in itertools.count(1):\n"
        "    save(Path(sys.argv[1]), step, {'w': torch.full((200_000,), float(step)), 'step': step})\n"
        "    print(step, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    for _ in range(random.Random(0).randrange(5, 15)):
        process.stdout.readline()
    process.kill()
    caught = [int(line) for line in process.stdout.read().split()]
    process.wait()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_latest(tmp_path)
    assert loaded.step >= max(caught, default=1)
    assert loaded.state["step"] == loaded.step
    assert torch.equal(loaded.state["w"], torch.full((200_000,), float(loaded.step)))
    save(tmp_path, loaded.step + 1, {"w": torch.zeros(1), "step": 0})
    assert not list(tmp_path.glob(".tmp-*"))


def draws() -> list:
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(2).tolist()]


def test_generators_continue_where_they_were(tmp_path):
    draws()
    save(tmp_path, 1, {"rng": rng_state()})
    expected = [draws() for _ in range(3)]
    set_rng_state(load_latest(tmp_path).state["rng"])
    assert [draws() for _ in range(3)] == expected
