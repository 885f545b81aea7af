"""What a command line lists: methods with their options and papers, and the keys of metrics.jsonl."""

import json
import re
from pathlib import Path

import pytest

from agents import cli, metrics
from plasticity.listing import answer
from plasticity.registry import METHODS

DOCS = Path(__file__).parents[2] / "docs"


def lines(capsys, *words):
    assert cli.main("dqn", list(words)) == 0
    return capsys.readouterr().out


def test_every_method_has_its_options_and_its_paper(capsys):
    entries = re.split(r"\n(?=\S)", lines(capsys, "--list-methods").strip())
    assert [entry.partition("\n")[0] for entry in entries] == list(METHODS)
    for entry in entries:
        assert re.search(r"source: (arXiv \d{4}\.\d{4,5}|Nature)", entry), entry
    assert "options: period=1000, tau=0.1, samples=256, init=layer" in lines(capsys, "--list-methods")


@pytest.mark.parametrize("words", [["--plasticity", "redo:help"], ["--env", "Pong", "--plasticity=redo:help"]])
def test_help_of_a_method(capsys, words):
    said = lines(capsys, *words)
    assert "options: period=1000, tau=0.1" in said
    assert "arXiv 2302.12902" in said


def test_a_word_that_ends_alike_elsewhere_asks_for_nothing():
    assert answer(["--plasticity", "redo", "--root", "runs:help"]) is None


def test_help_of_a_users_method_and_of_an_unknown_one(capsys):
    assert "options: scale=0.001" in lines(capsys, "--plasticity", "examples.new_method:MyMethod:help")
    with pytest.raises(SystemExit) as stopped:
        cli.main("dqn", ["--plasticity", "rebo:help"])
    assert stopped.value.code == 2
    assert "did you mean 'redo'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "part", "said"),
    [
        ("--agent", "examples.new_agent:AdvantageLearning", "options: alpha=0.9\n"),
        ("--schedule", "examples.new_schedule:CoolDown", "options: factor=0.5, patience=5, signal=loss\n"),
        ("--network", "examples.new_network:Residual", "options: width=16, units=256\n\nBlocks of `width` channels"),
        ("--env", "examples.new_environment:Reach", "options: size=10\n\nA dot moves left or right"),
    ],
)
def test_help_of_a_users_part(capsys, option, part, said):
    assert f"{part}\n{said}" in lines(capsys, option, f"{part}:help")
    assert f"{part}\n{said}" in lines(capsys, f"{option}={part}:help", "--seed", "3")
    with pytest.raises(SystemExit) as stopped:
        cli.main("dqn", [option, f"{part}s:help"])
    assert stopped.value.code == 2
    assert f"error: {option}: " in (error := capsys.readouterr().err)
    assert f"did you mean {part.partition(':')[2]!r}?" in error


@pytest.mark.parametrize(
    "more",
    [
        ["--nap", "--plasticity=redo", "--schedule=early-cycle-plateau", "--cycles=2", "--on-nonfinite=skip"],
        ["--schedule=cusum", "--cycles=2", "--noisy", "--n-step=3", "--n-step-final=1", "--gamma-final=0.9"],
    ],
)
def test_every_key_of_a_run_is_explained(tmp_path, capsys, more):
    words = ["--env=Catch", "--steps=400", "--update-start=100", "--threads=1", "--compile=false", "--batch-size=8"]
    assert cli.main("dqn", [*words, "--eval-episodes=1", "--root", str(tmp_path), "--name=a", *more]) == 0
    rows = map(json.loads, (tmp_path / "a" / "metrics.jsonl").read_text().splitlines())
    keys = {key for row in rows for key in row}
    assert {"elr/torso.0.weight", "policy_churn", "td_error_fresh", "score_wraps"} <= keys
    assert [key for key in keys if metric_of(key) is None] == []


def metric_of(key):
    """What a key means; None for one that is not explained."""
    known = {metric.key: metric for metric in metrics.METRICS}
    first, slash, _ = key.partition("/")
    return (known.get(f"{first}/*") or known.get(first)) if slash else known.get(key)


def test_a_key_that_nobody_explained_is_not_known():
    assert metric_of("brightness") is None
    assert metric_of("elr") is None
    assert metric_of("elr/head.weight").unit == "per update"
    assert metric_of("dormant_sokar_0.025/torso.1") == metric_of("dormant_sokar_0.025")


def test_the_page_is_the_list(capsys):
    page = metrics.as_markdown()
    assert (DOCS / "metrics.md").read_text().partition("\n## ")[0] == page
    table = [line for line in page.splitlines() if line.startswith("|")]
    assert {len(re.split(r"(?<!\\)\|", line)) for line in table} == {6}  # four cells, also where one has a bar
    said = lines(capsys, "--list-metrics")
    assert all(metric.key in said for metric in metrics.METRICS)
