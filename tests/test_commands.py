"""Every command of the project explains itself, and refuses in one line what it does not know."""

import ast
import contextlib
import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("agents", "benchmarks", "studies")
COMMANDS = [
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for package in PACKAGES
    for file in sorted((ROOT / package).rglob("*.py"))
    if '__name__ == "__main__"' in file.read_text()
]


def test_the_commands_are_found():
    assert {"agents.dqn", "benchmarks.atari", "studies.warm_start.__main__", "studies.grokking.suite"} <= set(COMMANDS)


def exit_code(command: str, option: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """What `python -m command option` would end with."""
    monkeypatch.setattr(sys, "argv", [command, option])
    module = importlib.import_module(command)
    body = ast.parse(Path(module.__file__).read_text()).body
    [call] = [node for node in body if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)]
    with pytest.raises(SystemExit) as stopped:
        exec(compile(ast.Module(call.body, []), command, "exec"), vars(module))
    return stopped.value.code


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("option", "code"), [("--help", 0), ("--no-such-option", 2)])
def test_a_command_explains_itself(command, option, code, monkeypatch, capsys):
    assert exit_code(command, option, monkeypatch) == code
    printed = capsys.readouterr()
    if code == 0:
        assert f"usage: python -m {command.removesuffix('.__main__')}" in printed.out
    else:
        assert printed.out == ""
        assert printed.err.startswith("error: unknown option '--no-such-option'")
        assert printed.err.count("\n") == 1


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("lost", ["closed", "full"])
def test_a_command_needs_no_stream(command, lost, monkeypatch):
    with contextlib.ExitStack() as files:
        for name in ("stdin", "stdout", "stderr"):
            full = files.enter_context(open("/dev/full", "w" if name != "stdin" else "r")) if lost == "full" else None
            monkeypatch.setattr(sys, name, full)
        assert exit_code(command, "--help", monkeypatch) == 0
        assert exit_code(command, "--no-such-option", monkeypatch) == 2
        for stream in (sys.stdin, sys.stdout, sys.stderr):
            stream.close()  # flushes once more, as Python does when it ends
