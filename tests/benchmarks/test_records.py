"""Finished runs as a CSV file: a sweep writes it with --record, another takes them from there with --have."""

import csv
import json
from pathlib import Path

import pytest

from benchmarks import atari
from benchmarks.report.agreement import NOT_COMPARED
from benchmarks.report.scores import read_scores
from tests.benchmarks.test_atari import STEPS, _fake_agent, words  # noqa: F401

LONG = ["--", "--steps", "440", "--log-interval", "40", "--update-start", "200"]


@pytest.fixture
def recorded(tmp_path, capsys) -> Path:
    """The four runs of a sweep, recorded."""
    assert atari.main(words(tmp_path, *STEPS)) == 0
    path = tmp_path / "runs.csv"
    assert atari.main(["--status", str(tmp_path / "root"), "--record", str(path)]) == 0
    assert f"{path} has 4 runs" in capsys.readouterr().out
    return path


def refused(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        atari.main(argv)
    assert end.value.code == 2


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_record_holds_scores_and_the_settings_that_are_not_the_default(recorded):
    found = {(row["task"], row["seed"]): row for row in rows(recorded)}
    assert set(found) == {(game, seed) for game in ("Breakout", "AirRaid") for seed in "01"}
    row = found["AirRaid", "1"]
    assert (row["score"], row["steps"], row["updates"], row["games"]) == ("30.5", "400", "200", "10")
    assert '"update_start": 200' in row["settings"]
    assert not {"root", "name", "seed", "env", "device"} & json.loads(row["settings"]).keys()


def test_what_a_file_has_is_not_run_again(recorded, tmp_path, capsys):
    there = words(tmp_path / "new", "--have", str(recorded), *STEPS)
    assert atari.main(there) == 0
    assert "nothing to do: 4 of 4 runs are in" in capsys.readouterr().out
    assert not (tmp_path / "new").exists()
    assert atari.main(words(tmp_path / "new", "--have", str(recorded), *STEPS, seeds=3)) == 0
    assert {path.name for path in (tmp_path / "new" / "root").glob("*-s*")} == {
        "Agent-Breakout-s2",
        "Agent-AirRaid-s2",
    }


def test_a_record_grows_and_keeps_what_it_had(recorded, tmp_path):
    assert atari.main(words(tmp_path / "new", "--have", str(recorded), *STEPS, seeds=3)) == 0
    before = rows(recorded)
    assert atari.main(["--status", str(tmp_path / "new" / "root"), "--record", str(recorded)]) == 0
    assert rows(recorded)[:4] == before
    assert len(rows(recorded)) == 6


def test_other_settings_under_one_name_are_refused(recorded, tmp_path, capsys):
    refused(words(tmp_path / "new", "--have", str(recorded), *LONG))
    assert "has other settings, --steps is 400 there and 440 here: give the arm another name" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_another_score_of_a_recorded_run_is_refused(recorded, tmp_path, capsys):
    text = recorded.read_text().replace("30.5", "31.5")
    recorded.write_text(text)
    refused(["--status", str(tmp_path / "root"), "--record", str(recorded)])
    assert "scored 31.5 there, and 30.5 in" in capsys.readouterr().err
    assert recorded.read_text() == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("agent,game,run,score\nA,Pong,0,1\n", "has no column 'arm'"),
        ("arm,task,seed,settings\nA,Pong,0\n", "line 2: it has not as many fields"),
        ("arm,task,seed,settings\nA,Pong,0,fast\n", "line 2: its settings are no JSON mapping: 'fast'"),
        ("arm,task,seed,settings\nA,Pong,0,{}\nA,Pong,0,{}\n", "line 3: "),
        (None, "cannot read"),
    ],
)
def test_a_file_that_is_no_record_is_one_line(tmp_path, capsys, text, said):
    path = tmp_path / "runs.csv"
    if text is not None:
        path.write_text(text)
    refused(words(tmp_path, "--have", str(path), *STEPS))
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "root").exists()


def test_record_needs_a_sweep_to_read(tmp_path, capsys):
    refused(words(tmp_path, "--record", str(tmp_path / "runs.csv"), *STEPS))
    assert "--record is for --status" in capsys.readouterr().err


def test_a_report_takes_recorded_runs_for_the_runs_themselves(tmp_path):
    options = ["--compile", "false", "--steps", "60", "--update-start", "40", "--eval-episodes", "1"]
    sweep = ["--suite", "Catch", "--seeds", "1", "--root", str(tmp_path / "root"), "--processes", "1"]
    assert atari.main([*sweep, "--arm", "plain:--lr 1e-3", "--", *options]) == 0
    path = tmp_path / "runs.csv"
    assert atari.main(["--status", str(tmp_path / "root"), "--record", str(path)]) == 0
    (alone,), (both,) = (read_scores(paths).runs for paths in ([str(path)], [str(tmp_path / "root"), str(path)]))
    assert (alone.arm, alone.game, alone.run, alone.score) == (both.arm, both.game, both.run, both.score)
    assert alone.settings == {**both.settings, **{name: alone.settings[name] for name in NOT_COMPARED}}
    assert (alone.rules, alone.skip, alone.games) == (both.rules, both.skip, both.games)
