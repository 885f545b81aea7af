"""Folders with spaces, commas and quotes, and those whose names are no UTF-8: all that runs do with them."""

import json
import os
import re
import signal
import subprocess

import pytest

from agents import cli, evaluate
from agents.dqn import DQN
from benchmarks import curves
from benchmarks.report import __main__ as report

WORDS = [
    "--env=Catch", "--steps=130", "--update-start=40", "--batch-size=4", "--threads=1", "--compile=false",
    "--probe-interval=0", "--eval-episodes=1",
]  # fmt: skip
NAMES = {"spaces": b"my runs, all", "quotes": b'it\'s "$HOME"', "no UTF-8": b"r\xff\xe9 x"}


def pasted(command: str) -> list[str]:
    """The words of a command that was printed, as bash reads them."""
    done = subprocess.run(["bash", "-c", os.fsencode(f"printf '%s\\0' {command}")], capture_output=True, check=True)
    return [os.fsdecode(word) for word in done.stdout.split(b"\0")[:-1]]


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_run_in_an_odd_folder_is_stopped_pasted_finished_played_and_reported(name, tmp_path, monkeypatch, capsys):
    root, run = tmp_path / os.fsdecode(name), os.fsdecode(name)
    update = DQN.update

    def interrupted(agent, batch):
        if agent.updates == 40:
            os.kill(os.getpid(), signal.SIGINT)
        return update(agent, batch)

    monkeypatch.setattr(DQN, "update", interrupted)
    assert cli.main("dqn", [*WORDS, "--root", str(root), "--name", run]) == 130
    monkeypatch.setattr(DQN, "update", update)
    words = pasted(re.search("go on with: (.*)", capsys.readouterr().out)[1])
    assert words == ["python", "-m", "agents.dqn", "--resume", str(root / run)]
    assert cli.main("dqn", words[3:]) == 0
    result = json.loads((root / run / "result.json").read_text(encoding="utf-8"))
    assert (result["agent_steps"], result["settings"]["root"]) == (130, str(root))

    assert evaluate.main([str(root / run), "--episodes", "1"]) == 0
    assert report.main([str(root), "--title", run, "--out", str(root / "a report")]) == 0
    assert report.main([str(root / run), "--out", str(root / "a report")]) == 0
    assert (root / "a report" / "index.html").is_file()
    assert curves.main([str(root / run), "--out", str(root / "a, b.svg")]) == 0
    assert (root / "a, b.svg").is_file()
