"""A disk that is full: a run whose agent could not be saved is no success, and goes on once there is room."""

import errno
import json
import os
import subprocess
import sys

import pytest

from agents import cli
from experiment.storage import checkpoint
from studies.grokking.__main__ import main as grokking

AGENT = [
    "--env=Catch", "--steps=60", "--update-start=40", "--batch-size=4", "--threads=1", "--compile=false",
    "--probe-interval=0", "--eval-episodes=1", "--name=a",
]  # fmt: skip
STUDY = ["--updates=6", "--log-interval=2", "--threads=1", "--no-figure", "--name=a"]
RUNS = [(lambda words: cli.main("dqn", words), AGENT), (grokking, STUDY)]


@pytest.mark.parametrize(("main", "words"), RUNS, ids=["agent", "study"])
@pytest.mark.parametrize("before", [False, True], ids=["from the start", "at the end"])
def test_a_run_that_could_not_save_at_its_end_fails_and_goes_on_with_room(
    main, words, before, tmp_path, monkeypatch, capsys
):
    save, end = checkpoint.save, 60 if words is AGENT else 6

    def full(directory, step, *more, **options):
        if step == end or not before:
            raise checkpoint.CheckpointError(errno.ENOSPC, "cannot save: No space left on device")
        return save(directory, step, *more, **options)

    monkeypatch.setattr(checkpoint, "save", full)
    words = [*words, f"--checkpoint-interval={end * 2 // 3}", f"--root={tmp_path}"]
    assert main(words) == 1
    unit, step = ("agent step", 40) if end == 60 else ("update", 4)
    kept = f"the last checkpoint is of {step}" if before else "there is no checkpoint from before"
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"error: no result: {unit} {end} could not be saved, and {kept}; make room, then ")
    assert last.endswith(f" --resume {tmp_path / 'a'}")
    assert not (tmp_path / "a" / "result.json").exists()

    monkeypatch.setattr(checkpoint, "save", save)
    assert main([f"--resume={tmp_path / 'a'}"]) == 0
    assert json.loads((tmp_path / "a" / "result.json").read_text())["parameter_hash"]
    assert checkpoint.load_latest(tmp_path / "a" / "checkpoints").step == end


@pytest.mark.parametrize(("program", "words"), [("agents.dqn", AGENT), ("studies.grokking", STUDY)])
def test_a_disk_without_room_for_one_checkpoint_is_found_before_training(program, words, tmp_path):
    limited = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
    limited += "sys.argv = sys.argv[1:]; runpy.run_module(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", limited, program, *words, f"--root={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"})
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: run '{tmp_path / 'a'}' cannot be made: File too large, and a checkpoint ")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
