"""Runs side by side against runs in turn: how updates are counted, a tiny measurement, and what is refused."""

import json

import pytest

from benchmarks import launcher


def test_updates_are_counted_from_the_first_row_that_has_some():
    rows = [
        {"agent_step": 100, "updates": 0, "seconds": 1.0},
        {"agent_step": 200, "updates": 100, "seconds": 21.0},
        {"agent_step": 300, "updates": 200},
        {"agent_step": 400, "updates": 300, "seconds": 25.0},
    ]
    assert launcher.rate("\n".join(map(json.dumps, rows))) == 50


def test_runs_side_by_side_add_up_and_runs_in_turn_share_the_time():
    assert launcher.combined([20, 60], side_by_side=True) == 80
    assert launcher.combined([20, 60], side_by_side=False) == pytest.approx(200 / (100 / 20 + 100 / 60))


def test_both_ways_are_run_and_compared(capsys):
    words = ["--game", "Catch", "--updates", "100", "--rounds", "1", "--cores", "1", "--no-compile"]
    assert launcher.main(words) == 0
    _, _, line, last = capsys.readouterr().out.strip().splitlines()
    together, in_turn, ratio = map(float, line.split()[2:])
    assert together > 0
    assert ratio == pytest.approx(together / in_turn, abs=0.02)
    assert last == f"median ratio {ratio:.2f}"


def test_the_ratio_is_of_one_thread_each_against_all_threads_in_turn(monkeypatch, capsys):
    rates = {(4, 1): 90.0, (1, 4): 60.0}
    monkeypatch.setattr(launcher, "measured", lambda settings, processes, threads: rates[processes, threads])
    assert launcher.main(["--cores", "4", "--rounds", "2"]) == 0
    assert capsys.readouterr().out.strip().splitlines()[-1] == "median ratio 1.50"


@pytest.mark.parametrize(
    "words", [["--updates", "3"], ["--precision", "fp8"], ["--preset", "smal", "--updates", "100"]]
)
def test_bad_input_is_one_line(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        launcher.main(words)
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
