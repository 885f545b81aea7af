"""The commands that README and the guides show exist, and so do the options that they are given."""

import re
import shlex

import pytest

from tests.test_commands import COMMANDS, ROOT, exit_code

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# a command of an earlier commit, which a page names as the source of its figures, need not exist any more
SHOWN = re.compile(r"python -m ((?:agents|benchmarks|studies)[\w.]*+)([^`\n|&]*+)(?!` of commit)")
AGENTS = {"agents.dqn", "agents.der", "agents.rainbow"}
OPTION = re.compile(r"--[a-z][\w-]*")


def shown() -> dict[str, set[str]]:
    """The options that all documents give to each command; under "agents" those that a sweep hands on to its runs."""
    found: dict[str, set[str]] = {"agents": set()}
    for page in PAGES:
        for module, text in SHOWN.findall(page.read_text().replace("\\\n", " ")):
            words = shlex.split(text, comments=True)
            end = words.index("--") if "--" in words else len(words)
            own = [word for word in words[:end] if word.startswith("--")]
            handed_on = [word for word in words[:end] if not word.startswith("--")] + words[end + 1 :]
            found.setdefault(module, set()).update(word.partition("=")[0] for word in own)
            found["agents"].update(OPTION.findall(" ".join(handed_on)))
    return found


@pytest.mark.parametrize("command", [*shown()])
def test_a_command_that_is_shown_exists_with_its_options(command, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")  # one column
    for module in AGENTS if command == "agents" else {command}:
        main = f"{module}.__main__"
        assert exit_code(main if main in COMMANDS else module, "--help-all", monkeypatch) == 0
    printed = capsys.readouterr().out
    lines = re.findall(r"^[│ ] (?:-h, )?(--.*)", printed, re.M) + re.findall(r"--list-\w+", printed)  # in its text
    known = {option for line in lines for option in OPTION.findall(line)} | {"--help-all"}
    assert shown()[command] - known == set()


def test_commands_are_found_in_blocks_and_in_text():
    found = shown()
    assert {"--nap", "--lr", "--agent", "--steps"} <= found["agents"]
    assert {"--suite", "--arm", "--launcher", "--ray-address"} <= found["benchmarks.atari"]
    assert {"agents.dqn", "agents.evaluate", "benchmarks.convert", "studies.warm_start"} <= found.keys()
