"""CSV files of scores as others write them: what is understood, and what is refused."""

import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.report.columns import NAMES, SEPARATORS
from benchmarks.report.csv_files import run_id
from benchmarks.report.scores import read_scores
from benchmarks.report.summary import summarize
from experiment.config import ConfigError

HEADER = ("agent", "game", "run", "score")
ROWS = [("A", "Pong", "0", "1"), ("A", "Krull", "0", "2000"), ("B", "Pong", "0", "3"), ("B", "Krull", "0", "2500")]
TERMS = ("steps", "frames", "frame_skip", "protocol")


def write(path, rows, header=HEADER, separator=","):
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=separator).writerows([header, *rows])
    return str(path)


def read(path, rows, header=HEADER, separator=","):
    return read_scores([write(path, rows, header, separator)])


def values(scores):
    return [
        (run.arm, run.game, run.run, run.score, run.steps, run.skip, run.rules, run.games, run.kind)
        for run in scores.runs
    ]


def refusal(path, rows, header=HEADER, separator=","):
    with pytest.raises(ConfigError) as error:
        read(path, rows, header, separator)
    return str(error.value)


# --- numbers


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("1", "01", "1.0", "1.", "+1", "0001.00"), "1"),
        (("0", "-0", "0.0", "00", ".0"), "0"),
        (("-3", "-3.0"), "-3"),
        (("1.5", "1.50", "01.5"), "1.5"),
        (("12345678901234567890123", "12345678901234567890123.0"), "12345678901234567890123"),
        (("10", "010"), "10"),
    ],
)
def test_run_ids_of_one_number_are_one_run(words, name):
    assert {run_id(word) for word in words} == {name}


@pytest.mark.parametrize("word", ["a1", "1a", "1e5", "nan", "inf", "1_0", "v1.0", "0x1", "１", "9" * 41, "1,0"])
def test_other_run_ids_are_names(word):
    assert run_id(word) == word


def test_a_run_that_is_written_in_three_ways_counts_once(tmp_path):
    rows = [("A", "Pong", run, "5") for run in ("1", "1.0", "01")]
    scores = read(tmp_path / "a.csv", rows)
    assert [run.run for run in scores.runs] == ["1"]
    assert scores.notes == ("Runs: 2 given more than once, with the same score; each counts once.",)
    assert "disagree" in refusal(tmp_path / "a.csv", [*rows[:2], ("A", "Pong", "01", "6")])


CELLS = st.dictionaries(
    st.tuples(st.sampled_from("AB"), st.sampled_from(("Pong", "Krull", "Hero")), st.integers(0, 3)),
    st.integers(-99, 9999).map(lambda number: number / 4),
    min_size=1,
)
IDS = ("{}", "0{}", "{}.0", "{}.00")
NUMBERS = ("{:g}", "{:.2f}", "{:.5f}", "{:.9e}", "{:+.2f}")


@given(cells=CELLS, data=st.data())
@settings(max_examples=40, deadline=None)
def test_order_separator_names_and_writing_of_numbers_change_nothing(tmp_path_factory, cells, data):
    folder = tmp_path_factory.mktemp("csv")
    rows = [
        {"agent": agent, "game": game, "run": str(run), "score": str(score), "steps": "100000", "games": "10"}
        for (agent, game, run), score in cells.items()
    ]
    header = tuple(rows[0])
    plain = read(folder / "plain.csv", [[row[name] for name in header] for row in rows], header)
    order = data.draw(st.permutations(header))
    others = [
        row
        | {"run": data.draw(st.sampled_from(IDS)).format(row["run"])}
        | {"score": data.draw(st.sampled_from(NUMBERS)).format(float(row["score"]))}
        | {"steps": data.draw(st.sampled_from(("100000", "100000.0", "1e5", "1E+05", "0100000")))}
        for row in data.draw(st.permutations(rows))
    ]
    names = [data.draw(st.sampled_from(NAMES[name])) for name in order]
    separator = data.draw(st.sampled_from(list(SEPARATORS)))
    other = read(folder / "other.csv", [[row[name] for name in order] for row in others], names, separator)
    assert sorted(values(plain)) == sorted(values(other))
    one, two = summarize(plain), summarize(other)
    assert {each.arm: each for each in one.aggregates} == {each.arm: each for each in two.aggregates}
    assert str(one.cells.items()) == str({key: two.cells[key] for key in one.cells}.items())  # nan is as nan
    for here, there in zip(one.improvements, two.improvements, strict=True):
        same = (here.arm, here.other) == (there.arm, there.other)
        found = there.interval if same else [1 - there.interval[place] for place in (0, 2, 1)]
        np.testing.assert_allclose(found, here.interval, atol=0 if same else 1e-9)


@pytest.mark.parametrize(
    ("score", "said"),
    [("1,5", "write a point before decimals"), ("1.234,5", "write a point"), ("1,234", "nothing between thousands")],
)
def test_decimal_commas_are_refused_since_they_could_be_thousands(score, said, tmp_path):
    for separator in SEPARATORS:
        message = refusal(tmp_path / "a.csv", [("A", "Pong", "0", score)], separator=separator)
        assert f"line 2: score {score!r} is not a number" in message
        assert said in message


@pytest.mark.parametrize("score", ["1_000", "\u0663", "1e400", "NaN", "0x10", "1,5"])
def test_scores_are_ascii_decimals(score, tmp_path):
    assert "is not a number" in refusal(tmp_path / "a.csv", [("A", "Pong", "1", score)])


@pytest.mark.parametrize("place", [0, 1, 2])
def test_control_characters_in_names_are_refused(place, tmp_path):
    row = ["A", "Pong", "x", "1"]
    row[place] += "\x1b[31m"
    assert f"line 2: {HEADER[place]} " in refusal(tmp_path / "a.csv", [row])


def test_run_ids_of_thousands_of_digits_are_names(tmp_path):
    rows = [("A", "Pong", run, "1") for run in ("9" * 5000, "10", "9", "b")]
    assert [run.run for run in read(tmp_path / "a.csv", rows).runs] == ["9", "10", "9" * 5000, "b"]


def test_a_field_that_is_too_long_is_said(tmp_path):
    assert "field larger than field limit" in refusal(tmp_path / "a.csv", [("A" * 200_000, "Pong", "1", "1")])


def test_of_hundreds_of_columns_that_are_not_read_some_are_named(tmp_path):
    scores = read(tmp_path / "a.csv", [("A", "Pong", "1", "1")], (*HEADER, *(f"c{i}" for i in range(300))))
    assert scores.notes[0].endswith("c18, c19, and 280 more.")


# --- columns


@pytest.mark.parametrize("role", NAMES)
def test_every_name_of_a_column_is_taken_and_said(role, tmp_path):
    cells = dict(zip(HEADER, ROWS[0], strict=True)) | {"steps": "8", "frames": "32", "frame_skip": "4"}
    cells |= {"protocol": "mine", "games": "7", "kind": "training", "deviation": ""}
    plain = values(read(tmp_path / "a.csv", [cells.values()], list(cells)))
    assert plain == [("A", "Pong", "0", 1.0, 8, 4, "mine", 7, "training")]
    for name in NAMES[role]:
        for written in (name, name.upper(), f" {name.replace('_', ' ').title()} "):
            scores = read(tmp_path / "a.csv", [cells.values()], [written if each == role else each for each in cells])
            assert values(scores) == plain
            taken = f"a.csv: columns taken: {written.strip()} for {role}."
            assert scores.notes == (() if name in (role, "agent_steps") else (taken,))


def test_no_name_means_two_columns():
    names = [name for known in NAMES.values() for name in known]
    assert len(names) == len(set(names))
    assert all(known[0] == role for role, known in NAMES.items())


@pytest.mark.parametrize("separator", SEPARATORS)
def test_what_is_not_read_is_said(separator, tmp_path):
    header = ("", *HEADER, "wall_time", "protocl")
    scores = read(tmp_path / "a.csv", [("7", *ROWS[0], "3", "x")], header, separator)
    assert scores.notes == ("a.csv: columns not read: wall_time, protocl (is 'protocl' meant to be 'protocol'?).",)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (
            "agent,game,sed,score",
            "no column 'run' (or seed, run_id, seed_id ...): its header is 'agent,game,sed,score'",
        ),
        ("agent,game,sed,score", "is 'sed' meant to be 'seed'?"),
        ("agent;game;run;scoer", "is 'scoer' meant to be 'score'?"),
        (
            "agent game run score",
            "no column 'agent' (or arm, algo, algorithm ...): its header is 'agent game run score'",
        ),
        ("agent|game|run|score", "'agent|game|run|score'"),
        ("agent,game,run,normalized", "no column 'score'"),
        ("agent,game,run,score,score", "columns 'score' and 'score' can both be the score"),
        ("agent,game,run,score,Score", "columns 'score' and 'Score' can both be the score"),
        ("agent,game,run,score,return", "columns 'score' and 'return' can both be the score"),
        ("agent,game,seed,score,run", "columns 'seed' and 'run' can both be the run"),
        ("agent,game,run,score,step,global_step", "columns 'step' and 'global_step' can both be the steps"),
        ("agent;game;run;score;x,agent,game,run,score", "split by commas and by semicolons"),
        ("A,Pong,0,1.5", "its header is 'A,Pong,0,1.5'"),
        ("agent,game,score," + "x" * 500, "xxx ...'"),
    ],
)
def test_a_header_that_is_not_clear_is_refused_and_shown(header, said, tmp_path):
    (tmp_path / "a.csv").write_text(f"{header}\nA,Pong,0,1,1,1\n")
    with pytest.raises(ConfigError) as error:
        read_scores([str(tmp_path / "a.csv")])
    assert said in str(error.value)
    assert len(str(error.value)) < 400


def test_blank_lines_and_empty_fields_at_an_end_mean_nothing(tmp_path):
    (tmp_path / "a.csv").write_text("\nagent;game;run;score\n\n;;;\nA;Pong;0;1;;\n")
    assert values(read_scores([str(tmp_path / "a.csv")])) == [("A", "Pong", "0", 1.0, None, None, "", None, None)]


# --- budgets


@pytest.mark.parametrize(
    ("terms", "steps", "skip", "note"),
    [
        (("", "400000", "", ""), 100_000, None, "frame skip of 4 (assumed: the file states none)"),
        (("", "400000", "4", ""), 100_000, 4, "frame skip of 4 (stated)"),
        (("", "400000", "16.0", ""), 25_000, 16, "frame skip of 16 (stated)"),
        (("", "4e5", "", "atari100k"), 100_000, 4, "frame skip of 4 (that of protocol atari100k)"),
        (("", "400000", "", "minatar"), 400_000, 1, "frame skip of 1 (that of protocol minatar)"),
        (("", "400001", "", ""), 100_000, None, "assumed"),
        (("100000", "400000", "", ""), 100_000, 4, "a frame skip of 4 follows from its steps and frames"),
        (("1500", "5798", "", ""), 1_500, 4, "a frame skip of 4 follows"),
        (("100000.0", "", "", "Atari-100K"), 100_000, 4, ""),
        (("100000", "400000", "4", "atari100k"), 100_000, 4, ""),
        (("0", "0", "", ""), 0, None, ""),
        (("", "", "4", ""), None, 4, ""),
        (("", "", "", ""), None, None, ""),
    ],
)
def test_frames_are_turned_into_agent_steps_and_it_is_said_how(terms, steps, skip, note, tmp_path):
    scores = read(tmp_path / "a.csv", [(*ROWS[0], *terms)], HEADER + TERMS)
    assert [(run.steps, run.skip) for run in scores.runs] == [(steps, skip)]
    assert len(scores.notes) == bool(note)
    assert note in "".join(scores.notes)


def test_a_step_of_minatar_is_a_frame(tmp_path):
    rows = [("A", game, "0", "1", "4000") for game in ("MinAtar/Breakout-v1", "Freeway-MinAtar", "Catch")]
    assert [run.steps for run in read(tmp_path / "a.csv", rows, (*HEADER, "frames")).runs] == [4000] * 3


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        (("100000", "40000000", "4", ""), "steps 100,000 and frames 40,000,000 contradict frame_skip 4"),
        (("100000", "400000", "", "minatar"), "contradict frame_skip 1"),
        (("100000", "50000", "", ""), "contradict every frame_skip"),
        (("100000", "250000", "", ""), "contradict every frame_skip"),
        (("0", "400", "", ""), "contradict every frame_skip"),
        (("100000", "", "1", "atari100k"), "frame_skip 1 contradicts protocol 'atari100k', which has 4"),
        (("", "400000", "0", ""), "frame_skip 0 is not possible"),
        (("", "400000", "2.5", ""), "frame_skip '2.5' is not a whole number"),
        (("1.5", "", "", ""), "steps '1.5' is not a whole number"),
        (("-4", "", "", ""), "steps '-4' is not a whole number"),
        (("100,000", "", "", ""), "steps '100,000' is not a whole number; write digits alone, as 100000"),
        (("1e99", "", "", ""), "steps '1e99'"),
        (("nan", "", "", ""), "steps 'nan'"),
    ],
)
def test_budgets_that_cannot_be_are_refused(terms, said, tmp_path):
    message = refusal(tmp_path / "a.csv", [(*ROWS[0], *terms)], HEADER + TERMS)
    assert "a.csv line 2: " in message
    assert said in message


def test_a_table_of_learning_curves_is_refused_as_such(tmp_path):
    rows = [("A", "Pong", "0", str(step), str(step)) for step in (1000, 2000)]
    message = refusal(tmp_path / "a.csv", rows, (*HEADER, "global_step"))
    assert "at 1,000 and 2,000 agent steps" in message
    assert "a report compares final scores" in message


def test_frame_skips_are_rules(tmp_path):
    one = write(tmp_path / "a.csv", [(*ROWS[0], "4")], (*HEADER, "frame_skip"))
    two = write(tmp_path / "b.csv", [(*ROWS[2], "machado")], (*HEADER, "protocol"))
    three = write(tmp_path / "c.csv", [("C", *ROWS[2][1:], "16")], (*HEADER, "frame_skip"))
    assert len(read_scores([one, two]).runs) == 2
    with pytest.raises(ConfigError, match=r"'A' and 'C' were scored under different rules: .* frame_skip 4, and .* 16"):
        read_scores([one, two, three])
    assert "frame_skip" in refusal(tmp_path / "d.csv", [(*ROWS[0], "4"), (*ROWS[1], "8")], (*HEADER, "frame_skip"))


# --- folders


def test_a_folder_of_tables_is_read_whole(tmp_path):
    tables = tmp_path / "tables"
    tables.mkdir()
    write(tables / "a.csv", ROWS[:2])
    write(tables / "b.TSV", ROWS[2:], ("algo", *HEADER[1:]), "\t")
    write(tables / "c.csv", [("C", *row[1:]) for row in ROWS[:2]], ("algo", *HEADER[1:]))
    (tables / "notes.txt").write_text("x")
    (tables / ".hidden.csv").write_text("x")
    (tables / "inside.csv").mkdir()
    scores = read_scores([str(tables)])
    assert scores.arms == ["A", "B", "C"]
    assert scores.notes == ("b.TSV, c.csv: columns taken: algo for agent.",)
    (tables / "broken.csv").write_text("x\n")
    with pytest.raises(ConfigError, match=r"broken\.csv: it has no column"):
        read_scores([str(tables)])
