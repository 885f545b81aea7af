"""`--compile` where the compiler fails: settled before anything is written, and recorded as it was."""

import json
import shutil

import pytest
import torch

from agents import cli
from agents import run as run_module
from tests.broken_compiler import broken_compiler

TINY = ["--env=Catch", "--steps=70", "--update-start=50", "--threads=1", "--batch-size=4", "--probe-interval=0"]
TINY += ["--eval-episodes=0"]


@pytest.fixture
def dqn(tmp_path, monkeypatch):
    """Runs the command under a compiler that fails."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "code"))

    def run(*words):
        with broken_compiler(tmp_path, "exit 1"):
            return cli.main("dqn", [*TINY, "--root", str(tmp_path / "run"), "--name=a", *words])

    return run


def test_auto_goes_on_uncompiled_and_says_so(dqn, tmp_path, capsys):
    assert dqn() == 0
    shown = capsys.readouterr()
    assert shown.err.splitlines()[0].startswith("the loss is not compiled, and updates are slower: no C++ compiler ")
    assert "the loss is compiled" not in shown.out
    assert "compile: 'false'" in (tmp_path / "run" / "a" / "config.yaml").read_text()
    assert json.loads((tmp_path / "run" / "a" / "result.json").read_text())["settings"]["compile"] == "false"


def test_true_ends_in_one_line_and_leaves_nothing(dqn, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        dqn("--compile=true")
    assert stopped.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: --compile true: no C++ compiler works here")
    assert shown.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_compiled_run_is_not_resumed_with_other_bits(dqn, tmp_path, capsys):
    assert dqn() == 0
    run = tmp_path / "run" / "a"
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("compile: 'false'", "compile: 'true'"))
    (run / "result.json").unlink()
    with broken_compiler(tmp_path, "exit 1"):
        assert cli.main("dqn", ["--resume", str(run)]) == 0  # it has learned all, and only its result was missing
        (run / "result.json").unlink()
        for checkpoint in (run / "checkpoints").iterdir():
            shutil.rmtree(checkpoint)
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main("dqn", ["--resume", str(run)])
    assert stopped.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"error: run {str(run)!r} was compiled, and here no C++ compiler works here")
    assert "its bits would differ" in shown
    assert shown.count("\n") == 1


def test_a_compiler_that_fails_during_the_run_ends_it_in_one_line(dqn, capsys, monkeypatch):
    monkeypatch.setattr(run_module, "settle_compile", lambda config, resumed: config)  # as if it had worked then
    torch._dynamo.reset()
    assert dqn("--compile=true") == 1
    shown = capsys.readouterr().err.splitlines()
    assert [line for line in shown if "error" in line] == shown[-1:]
    assert shown[-1].startswith("error: the loss cannot be compiled at agent step 5")
