"""What a report says of the games behind its scores."""

import csv
import dataclasses
import json

import pytest

from agents.config import DQNConfig
from benchmarks.report import __main__ as report
from benchmarks.report.played import Played, described, read_played, sentence, total
from experiment.config import ConfigError, as_plain, dump_yaml


def make_run(folder, seed, score, game="Breakout", **changes):
    """A finished run with this score in its result."""
    config = DQNConfig(env=game, seed=seed, steps=400, update_start=50, **changes).resolved()
    run = folder / f"{game}-{config.lr}-{seed}"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(dump_yaml(config))
    (run / "metrics.jsonl").write_text("")
    facts = {"agent": "dqn", "game": game, "seed": seed, "agent_steps": 400, "settings": as_plain(config)}
    result = facts | {"score": score, "protocol": dataclasses.asdict(config.rules)}
    (run / "result.json").write_text(json.dumps(result))
    return run


def played(games=100, cut=0, different=100, effective=100.0):
    counts = {"cut_games": cut, "different_games": different, "effective_games": effective}
    return {"mean": 1.0 + cut, "episodes": games} | counts


def test_the_report_says_what_was_cut_and_what_was_the_same(tmp_path):
    make_run(tmp_path / "runs", 0, played(cut=12, different=9, effective=4.25))
    make_run(tmp_path / "runs", 1, played(different=50, effective=40.0))
    make_run(tmp_path / "runs", 0, played(), lr=1e-4)
    make_run(tmp_path / "runs", 1, {"mean": 3.0, "episodes": 100}, lr=1e-4)  # of an older version
    make_run(tmp_path / "runs", 0, {"mean": 3.0, "episodes": 100}, "Pong")
    make_run(tmp_path / "runs", 0, played(), "Pong", lr=1e-4)
    assert report.main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    text, page = (tmp_path / "out" / "report.md").read_text(), (tmp_path / "out" / "index.html").read_text()
    fact = (
        "Evaluations: 400 games, 12 of 400 cut at the limit, 259 different within their runs, effective number 244.2; "
        "not recorded by 2 of 6 runs."
    )
    for shown in (text, page):
        assert fact in shown
        assert "200, 12 cut, 59 different (effective 44.2)" in shown
        assert "100 whole, 1 run not recorded" in shown
        assert "not recorded" in shown
    with (tmp_path / "out" / "evaluations.csv").open(newline="") as file:
        rows = {(row["game"], row["arm"]): row for row in csv.DictReader(file)}
    assert len(rows) == 3
    row = rows["Breakout", "dqn lr=0.0003"]
    assert {key: float(row[key]) for key in ("runs", "recorded", "games", "cut", "different", "effective")} == {
        "runs": 2, "recorded": 2, "games": 200, "cut": 12, "different": 59, "effective": 44.25,
    }  # fmt: skip


def test_results_of_an_older_version_are_read(tmp_path):
    make_run(tmp_path / "runs", 0, {"mean": 3.0, "episodes": 100})
    assert report.main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.md").read_text()
    assert "How many games of the evaluations were cut or repeated is not recorded." in text
    assert "## Evaluations" not in text
    assert "whole" not in text


def test_games_in_words():
    whole, some = Played(100, 0, 100, 100.0), Played(1_000, 0, 4, 2.0)
    assert described([whole]) == "100 whole"
    assert described([whole, some]) == "1,100 whole, 104 different (effective 102.0)"
    assert described([None]) == "not recorded"
    assert described([None, None, whole]) == "100 whole, 2 runs not recorded"
    assert described([]) == "–"
    assert total([]) is None
    assert sentence([whole]) == (
        "Evaluations: 100 games, none of them cut at the limit, "
        "100 different within their runs, effective number 100.0."
    )


@pytest.mark.parametrize(
    "spoiled",
    [
        {"cut_games": "12"},
        {"cut_games": 101},
        {"cut_games": -1},
        {"different_games": 2.5},
        {"different_games": None},
        {"effective_games": 101.0},
        {"effective_games": float("nan")},
        {"effective_games": True},
        {"different_games": 101},
    ],
)
def test_counts_that_cannot_be_are_one_line(spoiled):
    with pytest.raises(ConfigError, match=r"^here: its score (has|counts) .*$"):
        read_played(played() | spoiled, "here")
