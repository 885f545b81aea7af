"""The published single runs of DER: where a run stands among them, and the IQM of as many drawn at random."""

import numpy as np
import pytest
from scipy.stats import percentileofscore, trim_mean

from benchmarks.report.published import published_scores
from benchmarks.report.published_runs import drawn_iqm, published_runs, share_below
from benchmarks.report.scores import read_scores
from benchmarks.report.summary import normalized, summarize
from benchmarks.report.tables import all_tables
from envs.games import ATARI_100K

HEADER = "agent,game,run,score,agent_steps,protocol\n"


def table(tmp_path, lines: str):
    path = tmp_path / "scores.csv"
    path.write_text(HEADER + lines)
    scores = read_scores([str(path)])
    return {each.name: each for each in all_tables(scores, summarize(scores))}.get("published_runs")


def test_there_are_100_runs_of_each_game_and_their_means_are_the_published_ones():
    runs = published_runs()
    assert tuple(runs) == tuple(sorted(ATARI_100K))
    for game, scores in runs.items():
        assert scores.shape == (100,)
        assert scores.mean() == pytest.approx(published_scores()["DER"][game], rel=2e-3, abs=0.06)


@pytest.mark.parametrize("game", ["Breakout", "Freeway", "PrivateEye"])
def test_the_share_below_is_the_mean_percentile(game):
    scores = published_runs()[game]
    for score in [scores[0] - 1, *scores[::9], scores.mean(), scores[-1] + 1]:
        assert share_below(game, score) == pytest.approx(percentileofscore(scores, score, "mean") / 100)


def test_one_run_a_game_has_the_iqm_of_random_draws():
    found = drawn_iqm(dict.fromkeys(ATARI_100K, 1))
    generator = np.random.default_rng(5)
    drawn = [
        trim_mean([normalized(game, generator.choice(runs, 1))[0] for game, runs in published_runs().items()], 0.25)
        for _ in range(3000)
    ]
    assert found == pytest.approx([np.median(drawn), *np.quantile(drawn, [0.025, 0.975])], abs=0.008)
    two = drawn_iqm(dict.fromkeys(ATARI_100K, 2))
    assert two.high - two.low < 0.8 * (found.high - found.low)


def test_a_run_outside_the_central_98_percent_is_marked(tmp_path):
    best = published_runs()["Breakout"].max()
    lines = "".join(f"A,Breakout,{run},{score},100000,atari100k\n" for run, score in enumerate((8.0, best + 1)))
    found = table(tmp_path, lines)
    assert found.rows == [["Breakout", "9.2", f"8.0 (23), {best + 1:.1f} (100*)"]]
    assert [record["share_below"] for record in found.records] == [share_below("Breakout", 8.0), 1.0]
    assert "A has an IQM of" in found.note


@pytest.mark.parametrize(
    "line", ["A,Breakout,0,8,50000,atari100k\n", "A,Breakout,0,8,100000,machado\n", "A,Catch,0,1,100000,\n"]
)
def test_runs_of_other_rules_games_or_budgets_have_no_such_table(tmp_path, line):
    assert table(tmp_path, line) is None
