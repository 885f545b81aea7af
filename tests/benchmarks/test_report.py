"""The report from runs to page: what it reads, what it refuses, what it writes."""

import csv
import dataclasses
import json
import os
import statistics
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.config import DQNConfig
from benchmarks import high_utd
from benchmarks.report import __main__ as report
from benchmarks.report import writer
from benchmarks.report.agreement import check_arms, comparable
from benchmarks.report.facts import facts
from benchmarks.report.figures import MANY, draw_figures, game_curves
from benchmarks.report.learning_curves import Curve, make_curves, read_traces, resamples, sampled
from benchmarks.report.panels import LINES, arm_styles, make_panels
from benchmarks.report.published import NAMES, STEPS, published_scores
from benchmarks.report.scores import Missing, Score, Scores, read_scores
from benchmarks.report.summary import summarize
from benchmarks.report.tables import aggregates, all_tables, improvements
from envs.games import ATARI_100K, human_normalized, reference_scores
from envs.protocol import PROTOCOLS
from experiment.config import ConfigError, as_plain, dump_yaml
from experiment.plot import log_axis, plotting
from experiment.statistics import iqm
from experiment.sweeps.job import FAILED
from experiment.sweeps.manifest import Entry, Manifest

SCORES = Path(os.environ.get("REWARM_ATARI100K_RUNS", "shared/reference/atari100k_runs.csv"))
"""Scores of published runs, agent,game,run,score; outside the repository."""


def make_run(folder, name, game="Breakout", seed=0, score=10.0, steps=400, finished=True, **changes):
    """A run directory that looks like a short run's."""
    config = DQNConfig(env=game, seed=seed, steps=steps, update_start=50, cycles=2, **changes).resolved()
    run = folder / name
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(dump_yaml(config))
    rows = []
    for step in range(20, steps + 1, 20):
        rows.append({"agent_step": step - 1, "episode_return": score * step / steps})
        rows.append({"agent_step": step, "seconds": step / 10, "elr/a": 1e-4, "elr/b": 1e-2, "policy_churn": 0.5})
    rows[-1] |= {"dormant_sokar_0.025": 0.25, "erank_roy/a": 3.0, "erank_roy/b": 5.0, "srank_kumar_0.01/b": None}
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = {
        "agent": "dqn",
        "game": config.env,
        "score": {"mean": score, "episodes": 100},
        "protocol": dataclasses.asdict(config.rules),
        "settings": as_plain(config),
        "seed": seed,
        "agent_steps": steps,
        "environment": {"torch": "2.13.0", "gpu": None},
    }
    if finished:
        (run / "result.json").write_text(json.dumps(result))
    return run


def make_sweep(folder, lost=()):
    """Two arms, two seeds, AirRaid among the games."""
    entries = []
    for place, (arm, nap) in enumerate((("plain", False), ("nap <&>", True))):
        for game in ("Breakout", "AirRaid", "Pong"):
            for seed in range(2):
                name = f"{place}-{game}-s{seed}"
                entries.append(Entry(name, arm, game, seed, "hash", ("python",)))
                if name not in lost:
                    score = 1.0 if game == "AirRaid" else 2.0 + seed + place
                    make_run(folder, name, game, seed, score, nap=nap)
    Manifest("custom", tuple(entries)).save(folder)
    return folder


def write_csv(path, *rows, header="agent,game,run,score"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The report of a sweep that lacks a run, with a CSV file, twice."""
    root = tmp_path_factory.mktemp("report")
    folder = make_sweep(root / "sweep", lost=("1-Pong-s1",))
    table = write_csv(root / "others.csv", "SPR,breakout,a,12.5", "SPR,ALE/Pong-v5,a,-3", "SPR,Pong,b,1")
    for out in ("out", "again"):
        assert report.main([str(folder), table, "--out", str(root / out), "--title", "A <title>"]) == 0
    return root


def records(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# --- what it writes


def test_the_numbers_are_those_of_slow_references(written):
    rows = {(row["arm"], row["game"]): row for row in records(written / "out/games.csv")}
    cell = rows["plain", "Breakout"]
    half = 12.7062 * statistics.stdev([2, 3]) / 2**0.5
    assert [float(cell[key]) for key in ("value", "low", "high")] == pytest.approx([2.5, 2.5 - half, 2.5 + half], 1e-4)
    assert (cell["runs"], cell["missing"], float(cell["human (published)"])) == ("2", "0", 30.5)
    assert [rows["nap <&>", "Pong"][key] for key in ("runs", "missing", "low")] == ["1", "1", ""]
    found = {row["arm"]: row for row in records(written / "out/aggregates.csv") if row["aggregate"] == "IQM"}
    values = [human_normalized(game, score) for game in ("Breakout", "Pong") for score in (2.0, 3.0)]
    assert float(found["plain"]["value"]) == pytest.approx(statistics.fmean(sorted(values)[1:3]))
    assert (found["plain"]["games"], found["plain"]["runs"], found["nap <&>"]["runs"]) == ("2", "4", "3")


def test_the_report_says_what_it_stands_on(written):
    text = (written / "out/report.md").read_text()
    for part in (
        "14 runs of 3 arms in 3 games",
        "1 run missing",
        "atari100k (sticky actions 0",
        "Not stated by SPR",
        "no human reference score: AirRaid",
        "here there are: 400 agent steps (plain, nap &lt;&>); protocol not stated (SPR)",
        "Compare with care: budget not stated by SPR; protocol not stated by SPR.",
        "| nap &lt;&> | Pong | 1 | not begun |",
        "n=1 †1",
        "torch",
    ):
        assert part in text, part
    assert [row["seed"] for row in records(written / "out/missing.csv")] == ["1"]


class Page(HTMLParser):
    """Checks that elements are closed in order; collects names, links and text."""

    VOID = frozenset({"meta", "br", "path", "use", "rect", "line", "link", "img"})

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.ids, self.references = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "src"):
                self.references.append(value)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_else(written):
    text = (written / "out/index.html").read_text()
    page = Page()
    page.feed(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert all(target.startswith("#") and target[1:] in page.ids for target in page.references)
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    for outside in ("http", "@import", "src=", "<?xml", "xmlns"):
        assert outside not in text, outside
    assert page.tags.count("svg") == len(list((written / "out/figures").glob("*.svg"))) == 7
    assert "A &lt;title&gt;" in text
    assert "nap &lt;&amp;&gt;" in text
    assert "prefers-color-scheme: dark" in text


def test_the_same_runs_give_the_same_report_and_its_scores_are_read_back(written):
    files = [path.relative_to(written / "out") for path in (written / "out").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".html", ".md", ".csv", ".png", ".svg"}
    for file in files:
        assert (written / "out" / file).read_bytes() == (written / "again" / file).read_bytes(), file
    back = read_scores([str(written / "out/scores.csv")])
    tables = {table.name: table for table in all_tables(back, summarize(back))}
    for name in ("aggregates", "improvement", "own_games"):
        if name in tables:
            assert tables[name].csv() == (written / f"out/{name}.csv").read_text()


def test_an_older_report_is_replaced_and_nothing_else_is(tmp_path, capsys):
    table = write_csv(tmp_path / "a.csv", "A,AirRaid,0,1", "A,AirRaid,1,0.5")
    out = tmp_path / "out"
    assert report.main([table, "--out", str(out)]) == 0
    (out / "left.over").write_text("")
    assert report.main([table, "--out", str(out)]) == 0
    assert not (out / "left.over").exists()
    assert "AirRaid" in (out / "report.md").read_text()
    before = sorted(tmp_path.rglob("*"))
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis").write_text("")
    with pytest.raises(SystemExit):
        report.main([table, "--out", str(mine)])
    (mine / "thesis").rename(mine / "index.html")
    with pytest.raises(SystemExit):
        report.main([table, "--out", str(mine)])
    assert capsys.readouterr().err.count("is no report") == 2
    assert sorted(tmp_path.rglob("*")) == sorted([*before, mine, mine / "index.html"])


def test_an_older_report_outlives_a_failure_and_a_link_to_it_stays(tmp_path, monkeypatch):
    out, link = tmp_path / "out", tmp_path / "link"
    link.symlink_to(out)
    for score in (1, 0.5):
        assert report.main([write_csv(tmp_path / "a.csv", f"A,AirRaid,0,{score}"), "--out", str(link)]) == 0
        assert f"A,AirRaid,0,{score:.1f}" in (out / "scores.csv").read_text()
    before = sorted(tmp_path.rglob("*"))
    rename = os.rename
    moved = iter([True, False])
    monkeypatch.setattr(os, "rename", lambda *paths: rename(*paths) if next(moved, True) else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        writer.replace_report(writer.ReportConfig((str(tmp_path / "a.csv"),), str(out)))
    assert sorted(tmp_path.rglob("*")) == before
    assert link.is_symlink()


def test_names_are_shown_as_they_are(tmp_path):
    names = ["_a", "$x$", "$\\frac$", "<b>|", "a & b"]
    table = write_csv(tmp_path / "a.csv", *(f"{name},{game},0,1" for name in names for game in ("Pong", "Krull")))
    assert report.main([table, "--out", str(tmp_path / "out")]) == 0
    profiles = (tmp_path / "out/figures/profiles.svg").read_text()
    page, markdown = ((tmp_path / "out" / name).read_text() for name in ("index.html", "report.md"))
    for name in names:
        assert f">{'' if name != '_a' else ' '}{escape(name)}<" in profiles.replace("&#160;", " ")
        assert escape(name) in page
    assert "<b>" not in page
    assert "| &lt;b>\\| |" in markdown


# --- what it reads


def test_runs_without_a_manifest_are_named_after_what_tells_them_apart(tmp_path):
    for seed in range(2):
        make_run(tmp_path, f"a{seed}", seed=seed, threads=seed + 1)
        make_run(tmp_path, f"b{seed}", seed=seed, lr=1e-3)
        make_run(tmp_path, f"c{seed}", seed=seed, nap=True, plasticity=("redo",), finished=seed == 0)
    (tmp_path / "logs").mkdir()
    scores = read_scores([str(tmp_path), str(tmp_path / "a0")])
    assert scores.arms == ["dqn lr=0.0003", "dqn lr=0.001", "dqn+nap+redo"]
    assert len(scores.runs) == 5
    assert [(gone.arm, gone.run, gone.why) for gone in scores.missing] == [("dqn+nap+redo", "1", "not finished")]


def test_catch_recorded_under_ataris_rules_is_reported_next_to_catch_under_its_own(tmp_path):
    for seed in range(2):
        run = make_run(tmp_path, f"s{seed}", "Catch", seed)
        if seed:
            result = json.loads((run / "result.json").read_text())
            before = dataclasses.asdict(PROTOCOLS["atari100k"]) | {"evaluation_episodes": 100}
            changed = {"protocol": before, "settings": result["settings"] | {"protocol": "atari100k"}}
            (run / "result.json").write_text(json.dumps(result | changed))
    scores = read_scores([str(tmp_path)])
    assert len(scores.arms) == 1
    assert [(run.rules, run.skip) for run in scores.runs] == [("catch", 1)] * 2


def test_a_table_next_to_runs_is_not_read_and_that_is_said(tmp_path):
    make_run(tmp_path, "a")
    table = write_csv(tmp_path / "more.csv", "SPR,Pong,0,1")
    scores = read_scores([str(tmp_path)])
    assert (len(scores.runs), scores.notes) == (
        1,
        ("more.csv: not read, since its folder has runs; name it to add it.",),
    )
    scores = read_scores([str(tmp_path), table])
    assert len(scores.runs) == 2
    assert "not read" in str(facts(scores, summarize(scores), make_curves(())))


def keys(scores):
    runs = sorted((run.arm, run.game, run.run, run.score) for run in scores.runs)
    return runs, sorted((item.arm, item.game, item.run, item.why) for item in scores.missing)


def test_a_run_counts_once_in_the_arm_of_its_sweep_however_it_is_named(tmp_path):
    folder = make_sweep(tmp_path / "all" / "sweep", lost=("1-Pong-s1",))
    make_run(tmp_path / "all" / "sweep" / ".tmp-0", ".")
    make_run(tmp_path / "all", ".tmp-1")
    links = tmp_path / "links"
    links.mkdir()
    for name in ("0-Pong-s0", "1-Pong-s0"):
        (links / name).symlink_to(folder / name)
    once = keys(read_scores([str(folder)]))
    assert len(once[0]) == 11
    for paths in (
        [folder / "0-Pong-s0", folder], [folder, folder / "0-Pong-s0"], [links, folder], [tmp_path / "all", links],
        [*(path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."), folder],
    ):  # fmt: skip
        assert keys(read_scores(list(map(str, paths)))) == once
    assert keys(read_scores([str(links)]))[0] == [run for run in once[0] if run[1:3] == ("Pong", "0")]


def test_a_table_may_have_spaces_quotes_and_a_mark_of_its_encoding(tmp_path):
    text = '\ufeffagent, game ,run,score\r\n"A, b",  Pong, 0, "1.5"\r\nA\t b ,"ALE/Pong-v5",0,2\r\n\r\n'
    (tmp_path / "a.csv").write_bytes(text.encode())
    runs = read_scores([str(tmp_path / "a.csv")]).runs
    assert [(run.arm, run.game, run.run, run.score) for run in runs] == [
        ("A, b", "Pong", "0", 1.5),
        ("A b", "Pong", "0", 2),
    ]


LISTED = st.dictionaries(
    st.tuples(st.sampled_from(["A", "B"]), st.sampled_from(ATARI_100K[:4]), st.integers(0, 3)),
    st.integers(-999, 99_999).map(lambda number: number / 8),
    min_size=1,
)


@given(listed=LISTED)
@settings(max_examples=20, deadline=None)
def test_every_row_of_a_table_counts_once(tmp_path_factory, listed):
    rows = [f"{arm},{game},{run},{score}" for (arm, game, run), score in listed.items()]
    path = write_csv(tmp_path_factory.mktemp("csv") / "scores.csv", *rows, *rows[:2])
    scores = read_scores([path])
    assert {(run.arm, run.game, int(run.run)): run.score for run in scores.runs} == listed
    summary = summarize(scores)
    assert sum(cell.runs for cell in summary.cells.values()) == len(listed)
    sets = [{game for arm, game, _ in listed if arm == name} for name in sorted({arm for arm, _, _ in listed})]
    assert set(summary.common) == set.intersection(*sets)
    for found in summary.aggregates:
        mine = [human_normalized(game, s) for (arm, game, _), s in listed.items() if (arm, game) == (found.arm, game)]
        if not summary.common or len(sets) == 1:
            assert found.values["IQM"].value == pytest.approx(float(iqm({"": mine})))


def test_published_means_are_those_of_26_games():
    assert set(published_scores()) == set(NAMES)
    assert all(set(scores) == set(ATARI_100K) for scores in published_scores().values())
    rules = dataclasses.asdict(PROTOCOLS["atari100k"])
    scores = tuple(Score("A", game, "0", 1.0, "here", rules, STEPS) for game in ATARI_100K)
    medians = {name: round(middle, 3) for name, _, middle in summarize(Scores(scores, ())).published}
    published = {"DER": 0.189, "SPR": 0.396, "SR-SPR": 0.684, "BBF": 0.917}
    assert medians == {f"{name} (published)": middle for name, middle in published.items()}


@pytest.mark.parametrize(
    ("protocol", "steps", "why"),
    [
        ("atari100k", 100_000, ""),
        ("machado", 100_000, "protocol machado (dqn)"),
        ("atari100k", 99_999, "99,999 agent steps (dqn)"),
    ],
)
def test_published_scores_stand_next_to_runs_of_their_rules_and_budget_alone(protocol, steps, why, tmp_path):
    run = make_run(tmp_path, "run", "Pong", protocol=protocol)
    result = json.loads((run / "result.json").read_text()) | {"agent_steps": steps}
    (run / "result.json").write_text(json.dumps(result))
    scores = read_scores([str(run)])
    summary = summarize(scores)
    text = "".join(table.markdown() for table in all_tables(scores, summary))
    said = [line for line in facts(scores, summary, make_curves(())) if line.startswith("Published scores")]
    assert ("BBF" in text) == (not why)
    assert [line.endswith(f"since here there are: {why}.") for line in said] == ([True] if why else [])


def test_a_game_that_scores_otherwise_than_its_rules_say_is_named(tmp_path):
    for folder, game in (("a", "MinAtar/Seaquest"), ("b", "Seaquest")):
        make_run(tmp_path / folder, game.replace("/", "-"), game)
        scores = read_scores([str(tmp_path / folder)])
        said = " ".join(facts(scores, summarize(scores), make_curves(())))
        assert ("count of divers then falls below zero" in said) == (folder == "a")


def test_unequal_numbers_of_runs_are_said_and_none_is_missed_that_nobody_listed():
    runs = [Score("A", "Pong", str(run), 1.0, "here") for run in range(3)] + [Score("A", "Krull", "0", 1.0, "here")]
    summary = summarize(Scores(tuple(runs), ()))
    assert [cell.missing for cell in summary.cells.values()] == [0, 0]
    assert "every run weighs the same" in aggregates(summary).note
    assert "every run weighs" not in aggregates(summarize(Scores(tuple(runs[2:]), ()))).note


@pytest.mark.skipif(not SCORES.is_file(), reason="the scores of published runs are not at hand")
def test_published_runs_give_the_published_iqms():
    summary = summarize(read_scores([str(SCORES)]))
    found = {each.arm: round(each.values["IQM"].value, 3) for each in summary.aggregates}
    published = {"DER": 0.183, "SPR": 0.337, "SPR_jax+resets": 0.478, "BBF (RR2)": 0.940, "BBF (RR8)": 1.023}
    assert found | published == found


def test_games_without_references_are_compared_all_the_same(tmp_path):
    for place, nap in enumerate((False, True)):
        for seed in range(3):
            make_run(tmp_path, f"{place}-{seed}", "AirRaid", seed, seed / 10 + place, nap=nap)
    (found,) = summarize(read_scores([str(tmp_path)])).improvements
    assert (found.interval.value, found.games, found.runs) == (1.0, ("AirRaid",), (3, 3))


def test_an_arm_without_a_normalised_game_leaves_the_curves_of_the_others(tmp_path):
    for place, (game, nap) in enumerate((("Pong", False), ("Krull", False), ("Pong", True), ("Krull", True))):
        make_run(tmp_path, f"{place}", game, nap=nap)
    make_run(tmp_path, "other", "AirRaid", lr=1e-3)
    curves = make_curves(read_traces(read_scores([str(tmp_path)]).runs))
    assert curves.common == ("Krull", "Pong")
    assert len(curves.aggregates["steps"]) == 2


def test_a_run_that_was_given_up_is_missed_with_its_reason(tmp_path):
    make_run(tmp_path, "good", seed=0)
    entries = (Entry("good", "a", "Breakout", 0, "h", ("x",)), Entry("bad", "a", "Breakout", 1, "h", ("x",)))
    Manifest("x", entries).save(tmp_path)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "bad.log").write_text(f"{FAILED}the loss is NaN, 3 attempts\n")
    scores = read_scores([str(tmp_path)])
    assert [item.why for item in scores.missing] == ["failed: the loss is NaN, 3 attempts"]
    said = facts(scores, summarize(scores), make_curves(read_traces(scores.runs)))
    assert "1 run failed: the numbers of their arms come from the other runs." in said


@pytest.mark.parametrize(("seeds", "warned"), [(1, True), (2, True), (9, True), (10, False)])
def test_intervals_of_few_runs_are_said_to_be_too_narrow(seeds, warned, tmp_path):
    for seed in range(10):
        make_run(tmp_path, f"a{seed}", seed=seed)
        if seed < seeds:
            make_run(tmp_path, f"b{seed}", seed=seed, nap=True)
        if seed < 2:
            make_run(tmp_path, f"c{seed}", "AirRaid", seed=seed)  # is in no aggregate, and of one arm alone
    summary = summarize(read_scores([str(tmp_path)]))
    assert ("too narrow" in aggregates(summary).note) == warned
    assert ("too narrow" in improvements(summary).note) == warned


def test_arms_without_a_game_in_common_are_not_compared():
    scores = Scores((Score("A", "Pong", "0", 1.0, "a"), Score("B", "Krull", "0", 1.0, "b")), ())
    summary = summarize(scores)
    assert (summary.common, summary.improvements, summary.own) == ((), [], [])
    assert "no game in common" in all_tables(scores, summary)[0].note
    fewer = Scores((*scores.runs, Score("B", "Pong", "0", 2.0, "c")), (Missing("A", "Krull", "0", "not begun"),))
    summary = summarize(fewer)
    assert summary.common == ("Pong",)
    assert [each.arm for each in summary.own] == ["B"]
    assert summary.cells["A", "Krull"].missing == 1


# --- curves


def test_curves_are_the_means_of_running_means(tmp_path):
    for seed in range(3):
        make_run(tmp_path, f"r{seed}", seed=seed, score=float(seed + 1))
    curves = make_curves(read_traces(read_scores([str(tmp_path)]).runs))
    curve = curves.games["steps"]["Breakout"]["dqn"]
    assert curve.runs == 3
    place = 29  # half way
    step = curve.x[place]
    returns = [2.0 * ended / 400 for ended in range(20, 401, 20) if ended - 1 <= step]
    assert curve.middle[place] == pytest.approx(statistics.fmean(returns[-20:]))
    assert np.isnan(curve.middle[0])  # no game has ended
    random, human = reference_scores()["Breakout"]
    total = curves.aggregates["steps"]["dqn"]
    expected = iqm({"": [(each - random) / (human - random) for each in curve.lines[:, -1]]})
    assert total.middle[-1] == pytest.approx(float(expected))
    assert total.low[-1] <= total.middle[-1] <= total.high[-1]
    assert curves.aggregates["hours"]["dqn"].x[-1] == pytest.approx(40 / 3600)
    assert curves.measures["elr"]["dqn"].middle[-1] == pytest.approx(1e-3)
    assert curves.measures["erank"]["dqn"].middle[-1] == 5
    assert not curves.measures["srank"]


@given(kinds=st.lists(st.sampled_from(["", "nap-", "both"]), max_size=18))
def test_no_two_arms_look_alike_and_partners_share_a_colour(kinds):
    arms = [
        f"{first}{name}" for name, kind in enumerate(kinds) for first in (("nap-", "") if kind == "both" else (kind,))
    ]
    styles = arm_styles(arms)
    assert len(set(styles.values())) == len(arms) == len(styles)
    assert all(line < len(LINES) for _, line in styles.values())
    assert all(styles[arm][0] == styles[f"nap-{arm}"][0] for arm in arms if f"nap-{arm}" in arms)


@given(low=st.integers(-6, 0), decades=st.floats(0.5, 8))
@settings(deadline=None, max_examples=30)
def test_a_logarithmic_axis_has_a_few_ticks_however_wide(low, decades):
    axis = plotting().figure().subplots()
    axis.plot([0, 1], [10.0**low, 10.0 ** (low + decades)])
    log_axis(axis)
    bottom, top = axis.get_ylim()
    assert 1 <= sum(bottom <= tick <= top for tick in axis.get_yticks()) <= 9
    plotting().close("all")


def test_ticks_of_a_logarithmic_axis_are_plain_figures(tmp_path):
    make_run(tmp_path, "one")
    scores = read_scores([str(tmp_path / "one")])
    figures = draw_figures(summarize(scores), make_curves(read_traces(scores.runs)))
    (drawn,) = [figure.svg for figure in figures if figure.name == "plasticity"]
    assert ">0.001<" in drawn
    assert "mathdefault" not in drawn


def test_a_run_keeps_its_last_value_and_has_none_before_its_first_game():
    class Fake:
        returns, ends = np.array([1.0, 2.0]), True

        def times(self, wall):
            return np.array([10.0, 20.0])

    found = sampled(Fake(), np.array([5.0, 10.0, 15.0, 25.0]), False)
    np.testing.assert_array_equal(found, [np.nan, 1, 1, 2])


def test_the_figure_says_how_many_resamples_its_bands_stand_on(tmp_path, monkeypatch):
    assert [resamples(runs) for runs in (1, 500, 1000, 10**6)] == [2000, 2000, 1000, 200]
    for seed in range(4):
        make_run(tmp_path, f"r{seed}", seed=seed, nap=seed == 0)
    for draws, said in ((10**6, " 2,000 resamples"), (900, " 300 to 900 resamples")):
        monkeypatch.setattr("benchmarks.report.learning_curves.DRAWS", draws)
        scores = read_scores([str(tmp_path)])
        drawn = draw_figures(summarize(scores), make_curves(read_traces(scores.runs)))
        assert [said in figure.note for figure in drawn if figure.name == "curves"] == [True]


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_only_the_lowest_panel_of_a_column_has_tick_labels(count):
    pyplot = plotting()
    figure, axes = make_panels(pyplot, count, ["a"])
    pyplot.close(figure)
    labelled = [axis.xaxis.get_tick_params()["labelbottom"] for axis in axes[:count]]
    assert labelled == [place + min(count, 4) >= count for place in range(count)]


def test_a_study_reads_the_metrics_of_a_run_once(tmp_path, monkeypatch):
    for seed in range(2):
        make_run(tmp_path / "runs", f"r{seed}", seed=seed)
    read = []
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path.name) or path.open("rb").read())
    monkeypatch.setattr("benchmarks.report.figures.draw_figures", lambda *_: [])
    high_utd.report(str(tmp_path / "runs"))
    assert read.count("metrics.jsonl") == 2
    assert "Largest fall" in (tmp_path / "runs" / "report" / "report.md").read_text()


def test_a_ctrl_c_in_the_report_of_a_study_is_one_line(monkeypatch, capsys):
    def interrupt(folder, out):
        raise KeyboardInterrupt

    monkeypatch.setattr(high_utd, "report", interrupt)
    with pytest.raises(SystemExit) as stop:
        high_utd.main(["--figure", "x"])
    assert (stop.value.code, capsys.readouterr().err) == (130, "interrupted\n")


def test_a_figure_of_many_games_has_no_png():
    line = np.arange(3.0)
    arms = {"a": Curve(line, line, line, line, 1, np.empty((1, 3)))}
    games = dict.fromkeys(ATARI_100K[: MANY + 1], arms)
    few = dict(list(games.items())[:MANY])
    drawn = [
        game_curves(plotting(), "steps", each, lambda arm: {"color": "red", "label": arm}) for each in (few, games)
    ]
    assert [figure.vector for figure in drawn] == [False, True]


# --- bad input


def spoil(key, value):
    def change(folder):
        path = folder / "a" / "result.json"
        result = json.loads(path.read_text())
        path.write_text(json.dumps({name: v for name, v in result.items() if name != key} | value))

    return change


BAD = {
    "an empty folder": (lambda folder: (folder / "empty").mkdir(), "empty", "no run in folder"),
    "nothing": (lambda folder: None, "b", "no such file or folder"),
    "damaged": (lambda folder: (folder / "a/result.json").write_text("{"), "a", "not valid JSON"),
    "no game": (spoil("game", {}), "a", "no 'game'"),
    "no protocol": (spoil("", {"protocol": None}), "a", "no 'protocol'"),
    "no number": (spoil("", {"score": {"mean": None}}), "a", "not a number"),
    "unknown game of a run": (spoil("", {"game": "Pogn"}), "a", "unknown game 'Pogn'"),
    "no mapping": (spoil("", {"environment": "here"}), "a", "environment is 'here', not a mapping"),
    "no count": (spoil("", {"score": {"mean": 1.0, "episodes": "ten"}}), "a", "'ten' episodes, not a whole number"),
    "no evaluation": (spoil("", {"score": None}), "a", "a': 1 finished without an evaluation"),
    "binary metrics": (lambda folder: (folder / "a/metrics.jsonl").write_bytes(b"\xff\xfe}\n"), "a", "metrics.jsonl"),
    "metrics of another kind": (
        lambda folder: (folder / "a/metrics.jsonl").write_text('{"a":1}\n]{}\n'), "a", "metrics.jsonl line 2",
    ),
    "rows that are none by themselves": (
        lambda folder: (folder / "a/metrics.jsonl").write_text('{"a":{}\n"b":{}}\n'), "a", "metrics.jsonl line 1",
    ),
    "steps in words": (
        lambda folder: (folder / "a/metrics.jsonl").write_text(
            '{"agent_step": 1, "episode_return": 1.0}\n{"agent_step": 2, "seconds": "x", "td_error": "high"}\n'
        ), "a", "rows of metrics",
    ),
    "a list for a number": (
        lambda folder: (folder / "a/metrics.jsonl").write_text(
            '{"agent_step": 1, "episode_return": 1.0}\n{"agent_step": 2, "seconds": 1.0, "td_error": [1, 2]}\n'
        ), "a", "rows of metrics",
    ),
    "a mean that no float holds": (spoil("", {"score": {"mean": 10**400}}), "a", "not a number"),
    "rows without steps": (
        lambda folder: (folder / "a/metrics.jsonl").write_text('{"episode_return": 1.0}\n'), "a", "rows of metrics",
    ),
    "another budget": (lambda folder: make_run(folder, "b", seed=1, steps=440), ".", "440"),
    "another protocol": (lambda folder: make_run(folder, "b", seed=1, protocol="machado"), ".", "b 'machado'"),
    "other rules of another arm": (
        lambda folder: make_run(folder, "b", nap=True, protocol="machado"), ".", "under different rules",
    ),
    "two of a key": (lambda folder: make_run(folder, "b", score=11.0), ".", "disagree"),
    "a manifest of nothing": (lambda folder: (folder / "manifest.json").write_text("[]"), ".", "layout"),
    "another game than listed": (
        lambda folder: Manifest("x", (Entry("a", "A", "Pong", 0, "h", ("x",)),)).save(folder), ".", "with Pong",
    ),
}  # fmt: skip


def refused(words, capsys, root):
    """The one line that bad input gives; nothing is written."""
    before = sorted(root.rglob("*"))
    with pytest.raises(SystemExit) as stop:
        report.main([*words, "--out", str(root / "new" / "out")])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert sorted(root.rglob("*")) == before
    return error


@pytest.mark.parametrize("what", BAD)
def test_bad_runs_are_one_line(what, tmp_path, capsys):
    prepare, path, message = BAD[what]
    make_run(tmp_path, "a")
    prepare(tmp_path)
    assert message in refused([str(tmp_path / path)], capsys, tmp_path)


def test_a_setting_that_one_arm_is_not_compared_by_is_shown_only_where_it_differs(tmp_path):
    for name, schedule, interval in (("a", "cusum", 10), ("b", "constant", 10), ("c", "constant", 20)):
        make_run(tmp_path, name, schedule=schedule, log_interval=interval, lr_floor=1e-4)
    same, other = (
        {table.name: table for table in all_tables(scores, summarize(scores))}["settings"].rows
        for scores in (read_scores([str(tmp_path / "a"), str(tmp_path / name)]) for name in "bc")
    )
    assert [row[0] for row in same] == ["schedule"]
    assert [row[0] for row in other] == ["schedule", "log_interval"]


def test_settings_may_not_differ_under_one_name(tmp_path, capsys):
    names = [make_run(tmp_path, name, seed=seed, lr=lr).name for name, seed, lr in (("a", 0, 1e-4), ("b", 1, 1e-3))]
    entries = [Entry(name, "one", "Breakout", seed, "h", ("x",)) for seed, name in enumerate(names)]
    Manifest("x", tuple(entries)).save(tmp_path)
    error = refused([str(tmp_path)], capsys, tmp_path)
    assert "arm 'one' mixes runs" in error
    assert "a has lr 0.0001" in error
    assert "b 0.001" in error


CSVS = {
    "": "no column 'agent'",
    "agent,game,score\nA,Pong,1": "no column 'run'",
    "agent,game,run,score": "no scores",
    "agent,game,run,score\nA,Pong,0,1\nA,Pong,1,high": "line 3: score 'high' is not a number",
    "agent,game,run,score\nA,Pong,0,inf": "line 2: score 'inf'",
    "agent,game,run,score\nA,Pong,0": "line 2: it has no score",
    "agent,game,run,score\nA,Pong,0,1,000": "line 2: it has more fields than the first line has columns",
    "agent,game,run,score\nA,Brekout,0,1": "did you mean 'Breakout'?",
    "agent,game,run,score\nA,Pong,0,1\nA,pong,0,2": "disagree",
    "agent,game,run,score,agent_steps\nA,Pong,0,1,many": "line 2: steps 'many' is not a whole number",
    "agent,game,run,score,protocol\nA,Pong,0,1,machado\nA,Pong,1,1,": "does not state",
    "agent,game,run,score\nA,P\u00f6ng\xa0,0,1": "unknown game",
}


@pytest.mark.parametrize("text", CSVS)
def test_a_bad_table_is_one_line(text, tmp_path, capsys):
    path = tmp_path / "scores.csv"
    path.write_text(text, encoding="utf-8")
    assert CSVS[text] in refused([str(path)], capsys, tmp_path)


def test_no_runs_and_no_text_are_one_line(tmp_path, capsys):
    assert "name run directories" in refused([], capsys, tmp_path)
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00")
    assert "no CSV table" in refused([str(tmp_path / "x.csv")], capsys, tmp_path)


def test_each_agent_may_be_scored_with_the_exploration_it_was_published_with():
    rules = [{"name": "machado", "frame_skip": 4, "evaluation_epsilon": epsilon} for epsilon in (0.0, 0.001)]
    runs = [Score(arm, "Pong", "0", 1.0, arm, each) for arm, each in zip("ab", rules, strict=True)]
    check_arms(runs)
    with pytest.raises(ConfigError, match="frame_skip 4, and b 1"):
        check_arms([runs[0], dataclasses.replace(runs[1], protocol=rules[1] | {"frame_skip": 1})])


@pytest.mark.parametrize(
    ("schedule", "shared"),
    [("constant", False), ("early-cycle-plateau", False), ("cusum", True), ("my.module:Own", True)],
)
def test_the_distance_of_rows_tells_arms_apart_where_a_schedule_may_listen_to_rows(schedule, shared):
    settings = {"schedule": schedule, "log_interval": 10, "lr": 0.1, "probe_interval": 5}
    assert comparable(settings) == {"schedule": schedule, "lr": 0.1} | ({"log_interval": 10} if shared else {})
