"""What a report says of CSV files of scores: unequal budgets and rules, published scores, large files."""

import io
import random
import time

import pytest

from benchmarks.report import __main__ as report
from benchmarks.report import late_progress, summary
from benchmarks.report.scores import read_scores
from benchmarks.report.summary import summarize
from benchmarks.report.tables import all_tables
from envs.games import ATARI_57
from tests.benchmarks.test_csv_files import HEADER, ROWS, read, refusal, values, write


def report_of(folder, *paths):
    assert report.main([*paths, "--out", str(folder / "out")]) == 0
    return (folder / "out/index.html").read_text(), (folder / "out/report.md").read_text()


def test_every_comparison_of_unequal_or_unknown_budgets_says_so(tmp_path):
    header = (*HEADER, "frames", "protocol")
    paths = [
        write(tmp_path / "small.csv", [(*row, "400000", "atari100k") for row in ROWS[:2]], header),
        write(tmp_path / "large.csv", [(*row, "40e6", "atari100k") for row in ROWS[2:]], header),
        write(tmp_path / "silent.csv", [("C", *row[1:]) for row in ROWS[:2]]),
    ]
    caution = (
        "Compare with care: unequal budgets in agent steps (A 100,000; B 10,000,000); budget not stated by C; "
        "protocol not stated by C."
    )
    page, text = report_of(tmp_path, *paths)
    sections = dict(part.split("</h2>", 1) for part in page.split("<h2>")[1:])
    for title in ("Human-normalised score", "Probability of improvement", "Every game", "Performance profiles"):
        assert caution in sections[title], title
    assert page.count("<figcaption>") == sum(caution in part for part in page.split("<figcaption>")[1:]) == 3
    assert caution in page.split("<h2>")[0]
    assert text.count(caution) == 4
    assert "BBF (published)" not in text
    assert "here there are: 10,000,000 agent steps (B); protocol not stated (C); agent steps not stated (C)." in text
    assert "small.csv, large.csv: agent steps are its frames over a frame skip of 4 (that of protocol" in text


def test_a_figure_is_cautious_about_the_arms_that_it_compares_alone(tmp_path):
    rows = [("A", "Pong", "0", "1", "5000"), ("B", "Pong", "0", "2", "5000"), ("C", "Krull", "0", "3", "7000")]
    page, _ = report_of(
        tmp_path, write(tmp_path / "a.csv", [(*row, "p") for row in rows], (*HEADER, "steps", "protocol"))
    )
    sections = dict(part.split("</h2>", 1) for part in page.split("<h2>")[1:])
    assert "C 7,000" not in sections["Probability of improvement"]
    assert sections["Human-normalised score"].count("(A 5,000; B 5,000; C 7,000)") == 2


def test_equal_and_stated_budgets_get_no_caution_and_published_scores(tmp_path):
    rows = [(*row, "100000", "atari100k") for row in ROWS]
    _, text = report_of(tmp_path, write(tmp_path / "a.csv", rows, (*HEADER, "steps", "protocol")))
    assert "Compare with care" not in text
    assert "left out" not in text
    assert "BBF (published)" in text


def test_unequal_numbers_of_games_are_said(tmp_path):
    rows = [(*row, games) for row, games in zip(ROWS, ("100", "100", "10", "10"), strict=True)]
    scores = read(tmp_path / "a.csv", rows, (*HEADER, "games"))
    assert "unequal numbers of games per score (A 100; B 10)" in summarize(scores).caution(["A", "B"])
    assert summarize(scores).caution(["A"]) == ""


def test_scores_of_training_and_of_evaluations_are_told_apart(tmp_path):
    kinds = ("training", "Training", "evaluation", "evaluation")
    rows = [(*row, "100000", "atari100k", kind) for row, kind in zip(ROWS, kinds, strict=True)]
    header = (*HEADER, "steps", "protocol", "kind")
    _, text = report_of(tmp_path, write(tmp_path / "a.csv", rows, header))
    assert "Compare with care: unequal kinds of games (A training; B evaluation)." in text
    assert "here there are: scores of games in training (A)." in text
    assert "line 3 is of kind unknown" in refusal(tmp_path / "b.csv", [rows[0], (*rows[1][:-1], "")], header)
    scores = read(tmp_path / "c.csv", [(*rows[0][:-1], "atari")], header)
    assert scores.notes == ("c.csv: kind 'atari' is not read: it is neither training nor evaluation.",)


def test_a_line_that_stands_for_several_runs_is_said_to(tmp_path):
    scores = read(tmp_path / "a.csv", [(*ROWS[0], "0.5"), (*ROWS[1], "")], (*HEADER, "deviation"))
    assert scores.notes == ("a.csv: lines with a deviation are means over several runs; here each counts as one run.",)


def test_agents_with_the_names_of_published_ones_stay_apart(tmp_path):
    names = ("DER", "SPR", "random", "human", "DER (published)")
    rows = [(name, *row[1:], "100000", "atari100k") for name in names for row in ROWS[:2]]
    scores = read(tmp_path / "a.csv", rows, (*HEADER, "steps", "protocol"))
    found = summarize(scores)
    for table in all_tables(scores, found):
        assert len(set(table.header)) == len(table.header), table.header
        if table.name == "aggregates":
            assert [row[0] for row in table.rows] == [
                *names, "DER (published)*", "SPR (published)", "SR-SPR (published)", "BBF (published)",
            ]  # fmt: skip


def test_scores_are_read_back_with_all_that_was_stated(tmp_path):
    header = (*HEADER, "frames", "frame_skip", "games", "protocol", "kind")
    path = write(tmp_path / "a.csv", [(*row, "800", "8", "10", "mine", "evaluation") for row in ROWS], header)
    report_of(tmp_path, path)
    first, again = read_scores([path]), read_scores([str(tmp_path / "out/scores.csv")])
    assert values(first) == values(again)
    assert {run.steps for run in again.runs} == {100}


# --- large files


def test_many_runs_get_fewer_resamples_and_the_tables_say_how_many(tmp_path, monkeypatch):
    monkeypatch.setattr(summary, "DRAWS", 1200)
    scores = read(tmp_path / "a.csv", ROWS)
    tables = {table.name: table for table in all_tables(scores, summarize(scores))}
    assert summarize(scores).resamples == 300
    for name in ("aggregates", "improvement"):
        assert "95% intervals of 300 stratified bootstrap resamples" in tables[name].note


def test_long_work_shows_how_far_it_is_on_stderr_and_short_work_nothing(capsys):
    for after in (100.0, 0.0):
        with late_progress.LateProgress(10, "bytes of a.csv", after) as progress:
            progress.update(4)
        out, err = capsys.readouterr()
        assert out == ""
        assert ("40% 4/10 bytes of a.csv" in err) == ("100% 10/10" in err) == (after == 0)


@pytest.mark.slow
@pytest.mark.parametrize("arms", [4, 20])
def test_a_million_rows_take_less_than_a_minute(arms, tmp_path):
    drawn = random.Random(0)
    text = io.StringIO()
    text.write("agent,game,run,score,protocol,steps\n")
    for row in range(10**6):
        run, place = divmod(row, arms * len(ATARI_57))
        text.write(f"a{place % arms},{ATARI_57[place // arms]},{run},{drawn.gauss(500, 100):.2f},atari100k,100000\n")
    (tmp_path / "a.csv").write_text(text.getvalue())
    began = time.process_time()
    assert report.main([str(tmp_path / "a.csv"), "--out", str(tmp_path / "out")]) == 0
    assert time.process_time() - began < 60
    assert "1,000,000 runs" in (tmp_path / "out/report.md").read_text()
