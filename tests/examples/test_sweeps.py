"""The examples as arms of a sweep, by their import paths, and in its report."""

import json

import pytest

from benchmarks import atari
from benchmarks.report import __main__ as report

COMMON = ["--steps=150", "--update-start=50", "--compile=false", "--batch-size=4", "--n-step=3", "--eval-episodes=2"]


@pytest.mark.parametrize(
    ("flag", "path"),
    [
        ("--plasticity", "examples.new_method:MyMethod:scale=0.01"),
        ("--agent", "examples.new_agent:AdvantageLearning:alpha=0.5"),
        ("--schedule", "examples.new_schedule:CoolDown:factor=0.7"),
    ],
)
def test_an_example_is_an_arm(flag, path, tmp_path):
    arms = ["--arm=plain:", f"--arm=own:{flag} {path}"]
    sweep = ["--suite=Catch", "--seeds=1", f"--root={tmp_path}", *arms]
    assert atari.main([*sweep, "--", *COMMON]) == 0
    settings = json.loads((tmp_path / "own-Catch-s0" / "result.json").read_text())["settings"]
    assert path in (settings["agent"], settings["schedule"], *settings["plasticity"])
    assert report.main([str(tmp_path), f"--out={tmp_path / 'report'}"]) == 0
    page = (tmp_path / "report" / "report.md").read_text()
    assert "own" in page
    assert "plain" in page
