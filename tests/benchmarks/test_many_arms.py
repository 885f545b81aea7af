"""Reports on many arms, and on runs that can be paired by their seeds."""

import csv
import io
from dataclasses import replace

import pytest

from benchmarks.report.scores import Missing
from benchmarks.report.summary import summarize
from benchmarks.report.table import MOST_COLUMNS, raw
from benchmarks.report.tables import ALL_GAMES, all_tables, improvements, paired
from envs.games import TALL_SCREENS, human_normalized
from experiment.statistics import t_interval
from tests.benchmarks.test_csv_files import HEADER, read

ARMS = [f"arm{number}" for number in range(MOST_COLUMNS + 2)]
SEEDS = ("0", "1", "2")


def score(arm, game, seed):
    return float(ARMS.index(arm) * (game == "Pong") + int(seed) * (1 + ARMS.index(arm)))


def tables(path, arms, games=("Krull", "Pong"), settings='{"lr": 1e-3}', left_out=()):
    rows = [
        (arm, game, seed, str(score(arm, game, seed)), settings) for arm in arms for game in games for seed in SEEDS
    ]
    rows = [row for row in rows if row[:3] not in left_out]
    scores = read(path / "a.csv", rows, (*HEADER, "settings"))
    return {table.name: table for table in all_tables(scores, summarize(scores))}


def test_few_arms_are_columns_and_many_are_rows(tmp_path):
    few, many = tables(tmp_path, ARMS[:2]), tables(tmp_path, ARMS)
    assert few["games"].header[-2:] == ARMS[:2]
    assert [row[0] for row in few["games"].rows] == ["Krull", "Pong"]
    assert many["games"].header == ["arm", "Krull", "Pong"]
    assert [row[0] for row in many["games"].rows][-len(ARMS) :] == ARMS
    assert many["games"].rows[-1][2].startswith("15.0 [")  # seeds 0, 1, 2 have 7, 15, 23
    assert many["games"].rows[-1][2].endswith(" n=3")
    wide = tables(tmp_path, ARMS, games=TALL_SCREENS)["games"]
    assert wide.header == ["game", *ARMS]  # more games than arms
    assert "human (published)" in " ".join(row[0] for row in many["games"].rows)
    assert "human (published)" not in " ".join(wide.header)  # no game has a reference


def test_of_many_arms_each_is_compared_with_the_first_alone(tmp_path):
    few, many = (tables(tmp_path, arms)["improvement"] for arms in (ARMS[:MOST_COLUMNS], ARMS))
    assert len(few.rows) == MOST_COLUMNS * (MOST_COLUMNS - 1) / 2
    assert [row[0] for row in many.rows] == [f"{arm} > arm0" for arm in ARMS[1:]]
    assert "is compared with the first alone" in many.note
    assert "is compared with the first alone" not in few.note
    common = {(record["arm"], record["other"]): record for record in few.records}
    for record in many.records:
        if record["arm"] in ARMS[:MOST_COLUMNS]:
            assert record["value"] == common[record["arm"], "arm0"]["value"]


def test_arms_without_runs_are_none_of_the_many(tmp_path):
    rows = [(arm, "Pong", seed, str(score(arm, "Pong", seed))) for arm in ARMS[:MOST_COLUMNS] for seed in SEEDS]
    scores = replace(read(tmp_path / "a.csv", rows), missing=(Missing("late", "Pong", "0", "not begun"),))
    assert len(scores.arms) > MOST_COLUMNS
    table = improvements(summarize(scores))
    assert len(table.rows) == MOST_COLUMNS * (MOST_COLUMNS - 1) / 2
    assert "is compared with the first alone" not in table.note


def test_paired_arms_of_unequal_budgets_are_compared_with_care(tmp_path):
    rows = [
        (arm, game, seed, str(score(arm, game, seed)), "{}", steps)
        for arm, steps in ((ARMS[0], "100000"), (ARMS[1], "50000"))
        for game in ("Krull", "Pong")
        for seed in SEEDS
    ]
    scores = read(tmp_path / "a.csv", rows, (*HEADER, "settings", "steps"))
    assert "unequal budgets" in paired(scores, summarize(scores)).note
    assert "unequal budgets" not in tables(tmp_path, ARMS[:2])["paired"].note


def test_nothing_is_less_than_zero_by_rounding():
    assert [raw(value) for value in (-0.001, 0.0, -0.01, 0.5)] == ["0.00", "0.00", "-0.01", "0.50"]


def test_differences_are_those_of_runs_with_the_same_seed(tmp_path):
    table = tables(tmp_path, ARMS[:3], left_out=[("arm1", "Pong", "1")])["paired"]
    assert table.title == "Difference from arm0, paired by seed"
    found = {(record["arm"], record["game"]): record for record in csv.DictReader(io.StringIO(table.csv()))}
    assert set(found) == {(arm, game) for arm in ARMS[1:3] for game in ("Krull", "Pong", ALL_GAMES)}
    for (arm, game), record in found.items():
        if game == ALL_GAMES:
            of_games = [found[arm, each] for each in ("Krull", "Pong")]
            spans = [human_normalized(each["game"], 1) - human_normalized(each["game"], 0) for each in of_games]
            values = [float(each["value"]) * span for each, span in zip(of_games, spans, strict=True)]
            expected = t_interval(values)
            assert int(record["runs"]) == 2
            assert [float(record[key]) for key in ("value", "low", "high")] == pytest.approx(list(expected))
            continue
        seeds = [seed for seed in SEEDS if (arm, game, seed) != ("arm1", "Pong", "1")]
        expected = t_interval([score(arm, game, seed) - score("arm0", game, seed) for seed in seeds])
        assert int(record["runs"]) == len(seeds)
        assert [float(record[key]) for key in ("value", "low", "high")] == pytest.approx(list(expected))


def test_runs_of_elsewhere_are_not_paired_by_their_numbers(tmp_path):
    assert "paired" not in tables(tmp_path, ARMS[:2], settings="")
    alone = [(arm, game, seed) for arm in ARMS[:2] for game in ("Krull", "Pong") for seed in SEEDS[1:]]
    assert [row[0] for row in tables(tmp_path, ARMS[:2], left_out=alone)["paired"].rows] == [ALL_GAMES]
    assert "paired" not in tables(tmp_path, ARMS[:2], games=["Pong"], left_out=alone)
