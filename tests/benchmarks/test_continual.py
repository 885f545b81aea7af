"""The study of games in sequence: its arms, a short sweep by the real command, its report, and the list of its runs."""

import csv
import json
import math
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.config import DQNConfig
from agents.tasks import Tasks
from benchmarks import continual
from benchmarks.continual import AT_CHANGES, STUDY, ContinualSettings, study
from benchmarks.report import __main__ as report_command
from benchmarks.report.scores import Score
from benchmarks.report.visit_figures import arm_groups, curve_of
from benchmarks.report.visit_runs import SequenceRun, Study, read_study
from benchmarks.report.visit_tables import (
    alarms,
    areas,
    forgetting,
    found_at,
    paired,
    plasticity,
    ratios,
    updates_until,
)
from benchmarks.report.visits import POINTS, Visited, _curves, cells, visits_in
from benchmarks.sweep.command import parse
from benchmarks.sweep.runs import SEQUENCES, part_length
from benchmarks.sweep.suites import LONGEST, file_name
from envs.sequences import SEQUENCES as GAMES
from experiment.command_line import shell
from experiment.config import ConfigError
from experiment.storage.run_dir import RunDir
from experiment.sweeps import calibration
from plasticity.registry import make

SHORT = (
    "--update-start 40 --utd 1/2 --batch-size 8 --eval-episodes 2 --eval-all --compile false --log-interval 60 "
    "--epsilon-steps 100 --max-grad-norm 10"
)
GAME, OTHER = "MinAtar/Breakout", "MinAtar/Asterix"


def planned(*words: str, common: str = "") -> continual.SequenceSweep:
    return study(*parse([*words, "--", *shlex.split(common)], ContinualSettings))


def configs(*words: str, common: str = "") -> dict[str, DQNConfig]:
    ready = planned(*words, common=common)
    return {name: arm.config(ready.games[0]) for name, arm in ready.arms.items()}


# --- arms


def test_the_arms_are_those_of_the_issue_and_no_two_are_the_same():
    found = configs()
    assert list(found) == list(STUDY)
    assert len({SEQUENCES.config_hash(config) for config in found.values()}) == len(found) == 12
    assert {config.tasks for config in found.values()} == {Tasks(GAMES["minatar3"], 150_000, 2)}
    assert (found["plain"].plasticity, found["plain"].schedule) == ((), "constant")
    fresh = found["full-reset"]
    assert fresh.plasticity == ("reset:at=task,layers=all,target=draw",)
    kept = (fresh.task_replay, fresh.task_epsilon, fresh.task_optimizer, fresh.task_schedule)
    assert kept == ("clear", "restart", "fresh", "restart")
    aligned = found["nap-aligned"]
    assert (aligned.nap, aligned.schedule, aligned.cycles, aligned.task_schedule) == (True, "cyclic", 1, "restart")
    cusum = found["nap-cusum"]
    assert (cusum.schedule, cusum.cycles, cusum.log_interval) == ("cusum", 6, 1_000)  # 150 rows a visit


@pytest.mark.parametrize("visits", [1, 2, 3, 7])
@pytest.mark.parametrize("sequence", ["minatar3", "minatar5", "atari10"])
def test_no_cycle_of_the_unaligned_arm_ends_at_a_change(sequence, visits):
    found = configs("--sequence", sequence, "--visits", str(visits), "--only", "nap-cyclic,nap-aligned")
    changes = len(found["nap-cyclic"].tasks)
    assert changes == len(GAMES[sequence]) * visits
    assert math.gcd(found["nap-cyclic"].cycles, changes) == 1
    assert found["nap-aligned"].schedule_steps <= found["nap-aligned"].tasks.task_steps


def test_options_after_the_dashes_decide_over_those_of_the_study():
    found = configs("--only", "nap-cyclic", common="--visits 3 --task-steps 9000 --utd 4 --log-interval 70")
    assert found["nap-cyclic"].log_interval == 70
    assert found["nap-cyclic"].tasks == Tasks(GAMES["minatar3"], 9000, 3)
    assert (found["nap-cyclic"].cycles, found["nap-cyclic"].utd) == (10, 4)


def test_methods_become_arms_that_act_at_changes_where_they_can():
    assert all(make([f"{name}:at=task"]) for name in AT_CHANGES)
    found = configs("--only", "plain", "--methods", "dash,redo:tau=0.1,period=50,hare-tortoise", "--arm", "own:--nap")
    methods = {name: config.plasticity for name, config in found.items()}
    assert methods == {
        "plain": (), "dash": ("dash:at=task",), "redo": ("redo:tau=0.1,period=50",),
        "hare-tortoise": ("hare-tortoise",), "own": (),
    }  # fmt: skip


def test_folders_of_sequences_have_short_names():
    ready = planned("--seeds", "1", "--only", "plain")
    assert [entry.name for entry in ready.runs] == ["plain-minatar3-s0"]
    assert ready.runs[0].task == ",".join(GAMES["minatar3"])
    assert ready.root.name == "continual-minatar3"
    long = ",".join(reversed(GAMES["minatar5"]))
    assert len(file_name(long)) == LONGEST
    assert "," not in file_name(long)
    assert file_name(long) != file_name(",".join(GAMES["minatar5"][:-1]))
    assert file_name(f"{GAME},{OTHER}") == "MinAtar_Breakout_MinAtar_Asterix"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--sequence minatr3", "--sequence: unknown sequence 'minatr3'; did you mean 'minatar3'?"),
        ("--sequence MinAtar/Asterix,Pong", "--sequence: MinAtar/Asterix and Pong are of two families"),
        ("--sequence MinAtar/Asterix,", "--sequence: a sequence has two games or more"),
        ("--only plian", "--only: 'plian' is no arm of the study; did you mean 'plain'?"),
        ("--methods redo", "--methods: an arm of the study is named redo"),
        ("--methods cbq", "'cbq' is no known method"),
        ("--task-steps 100", "--task-steps 100: it has to be above --update-start 5000"),
        ("--visits 0", "--visits is 0: it has to be from 1"),
        ("--suite minatar", "unknown option '--suite'"),
        ("--out report", "--out is for --figure"),
        ("--figure nowhere", "'nowhere' is neither the folder of a study nor a list of its runs"),
        ("-- --sequence minatar5", "--sequence is set by the sweep, for every run"),
        ("-- --steps 900", "--steps: games in sequence have --task-steps and --visits: leave it out"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        continual.main(words.split())
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_calibration_of_a_sequence_times_its_first_visit():
    config = planned("--only", "full-reset").wanted(planned("--only", "full-reset").runs[0])
    options = SEQUENCES.short(config, 40)
    found = configs("--only", "full-reset", common=shell(*options))["full-reset"]
    part = part_length(config, 40)
    assert found.tasks == Tasks(config.games, 4 * part, 1)
    assert (found.update_start, found.log_interval, found.eval_episodes) == (2 * part, part, 0)
    rows = [
        {"agent_step": step, "task": config.games[(step - 1) // (4 * part)], "seconds": step * 1.0}
        for step in range(part, 12 * part + 1, part)
    ]
    timed = {row["agent_step"]: row["seconds"] for row in rows if SEQUENCES.is_timed(config, row)}
    assert list(timed) == [part, 2 * part, 3 * part, 4 * part]
    assert calibration.paces(timed) == (1.0, 1.0)


# --- a sweep, its report and its list


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> tuple[Path, list[str]]:
    """The folder of a finished sweep of two arms and seeds, two visits to each of two games; and its command line."""
    root = tmp_path_factory.mktemp("continual") / "root"
    words = ["--sequence", f"{GAME},{OTHER}", "--only", "plain,full-reset", "--seeds", "2", "--task-steps", "320"]
    words += ["--root", str(root), "--processes", "1", "--", *shlex.split(SHORT)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root.parent / "cache"))
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        assert continual.main(words) == 0
    return root, words


def results(root: Path, arm: str) -> list[dict]:
    name = file_name(f"{GAME},{OTHER}")
    return [json.loads((root / f"{arm}-{name}-s{seed}" / "result.json").read_text()) for seed in (0, 1)]


def table(folder: Path, name: str) -> dict[tuple[str, str], dict[str, str]]:
    """The rows of a table's CSV file by its first column and arm."""
    with (folder / f"{name}.csv").open(newline="") as file:
        return {(next(iter(row.values())), row["arm"]): row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def written(sweep) -> tuple[Path, Path, Path]:
    """The report on the sweep's folder, the list of its runs, and the report on that."""
    root, _ = sweep
    runs = root.parent / "runs.csv"
    assert continual.main(["--status", str(root), "--record", str(runs)]) == 0
    assert continual.main(["--figure", str(root)]) == 0
    assert continual.main(["--figure", str(runs), "--out", str(root.parent / "again")]) == 0
    return root / "report", runs, root.parent / "again"


def test_the_table_of_areas_is_that_of_the_results(sweep, written):
    found = table(written[0], "area")
    for arm in ("plain", "full-reset"):
        areas = [[visit["area"] for visit in result["visits"]] for result in results(sweep[0], arm)]
        for number, label in enumerate(("1. Breakout", "2. Asterix", "3. Breakout", "4. Asterix")):
            known = [run[number] for run in areas if run[number] is not None]
            assert bool(known) == ((label, arm) in found)
            if known:
                assert float(found[label, arm]["value"]) == pytest.approx(np.mean(known))
                assert int(found[label, arm]["seeds"]) == len(known)
    assert ("1. Breakout", "plain") in found


def test_differences_and_plasticity_are_paired_by_seed(sweep, written):
    one, fresh = (
        np.array([[math.nan if visit["area"] is None else visit["area"] for visit in run["visits"]] for run in runs])
        for runs in (results(sweep[0], "plain"), results(sweep[0], "full-reset"))
    )
    gaps = table(written[0], "paired")
    assert float(gaps["3. Breakout", "full-reset"]["value"]) == pytest.approx((fresh - one)[:, 2].mean())
    ratio = table(written[0], "plasticity")
    assert float(ratio["3. Breakout", "plain"]["value"]) == pytest.approx(one[:, 2].mean() / fresh[:, 2].mean())
    assert float(ratio["1. Breakout", "plain"]["value"]) == pytest.approx(1)


def test_scores_and_probes_are_those_at_the_end_of_each_visit(sweep, written):
    scores = table(written[0], "score")
    own = [run["visits"][2]["score"]["mean"] for run in results(sweep[0], "plain")]
    assert float(scores["3. Breakout", "plain"]["value"]) == pytest.approx(np.mean(own))
    lost = table(written[0], "forgetting")
    seen = [[visit["scores"][GAME] for visit in run["visits"]] for run in results(sweep[0], "plain")]
    gone = np.mean([max(run[:-1]) - run[-1] for run in seen])
    assert float(lost["Breakout", "plain"]["value"]) == pytest.approx(gone)
    name = file_name(f"{GAME},{OTHER}")
    ends = []
    for seed in (0, 1):
        lines = (sweep[0] / f"plain-{name}-s{seed}" / "metrics.jsonl").read_text().splitlines()
        (row,) = [row for row in map(json.loads, lines) if row["agent_step"] == 640 and "td_error_fresh" in row]
        ends.append((row["dormant_sokar_0.025"], row["erank_roy/torso.5"], row["td_error_fresh"]))
    for measure, values in zip(("dormant", "rank", "td_error"), zip(*ends, strict=True), strict=True):
        assert float(table(written[0], measure)["2. Asterix", "plain"]["value"]) == pytest.approx(np.mean(values))


def test_a_list_of_the_runs_gives_the_same_report(written):
    folder, runs, again = written
    names = {file.name for file in folder.iterdir()}
    assert names == {file.name for file in again.iterdir()}
    assert {"area.csv", "paired.csv", "plasticity.csv", "score.csv", "forgetting.csv", "index.html"} <= names
    for name in ("area", "last_tenth", "paired", "plasticity", "score", "forgetting", "dormant", "rank", "td_error"):
        one, two = table(folder, name), table(again, name)
        assert one.keys() == two.keys()
        for key, row in one.items():
            for column in ("value", "low", "high"):
                if row[column]:
                    assert float(two[key][column]) == pytest.approx(float(row[column]), rel=1e-4, abs=1e-4)
    whole, listed = (read_study(path, "plain", "full-reset") for path in (folder.parent, runs))
    for arm in ("plain", "full-reset"):
        one, two = curve_of(whole, arm), curve_of(listed, arm)
        np.testing.assert_allclose(one.middle, two.middle, rtol=1e-3, atol=1e-3)
    page = (again / "index.html").read_text()
    assert "visit_returns-" in page
    assert "A fresh agent in each visit (full-reset)" in page
    assert {file.name for file in (again / "figures").iterdir()} >= {"visit_returns.png", "visit_plasticity.svg"}


def test_the_parts_of_a_visits_curve_have_its_area_as_their_mean(sweep):
    (run, *_) = read_study(sweep[0], "plain", "full-reset").of("plain")
    for visit in run.visits:
        if np.isfinite(visit.curve).all():  # else the last game, which was cut, leaves out some steps
            assert visit.curve.mean() == pytest.approx(visit.area, abs=0.1 * abs(visit.area) + 0.05)


def test_what_a_list_has_is_not_run_again(sweep, written, tmp_path, capsys):
    _, words = sweep
    elsewhere = [str(tmp_path / "new") if word == str(sweep[0]) else word for word in words]
    assert continual.main(["--have", str(written[1]), *elsewhere]) == 0
    assert "nothing to do: 4 of 4 runs are in" in capsys.readouterr().out
    other = ["200" if word == "320" else word for word in elsewhere]
    with pytest.raises(SystemExit) as end:
        continual.main(["--have", str(written[1]), *other])
    assert end.value.code == 2
    assert "has other settings, --task-steps is 320 there and 200 here" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_the_report_on_scores_names_this_one(sweep, written, tmp_path, capsys):
    for path in (sweep[0], written[1]):
        with pytest.raises(SystemExit) as end:
            report_command.main([str(path), "--out", str(tmp_path / "report")])
        assert end.value.code == 2
        error = capsys.readouterr().err
        assert "python -m benchmarks.continual --figure" in error
        assert error.count("\n") == 1


def test_a_study_that_is_not_finished_says_what_is_missing(sweep, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "manifest.json").write_bytes((sweep[0] / "manifest.json").read_bytes())
    names = [run.name for run in sorted(sweep[0].iterdir()) if run.name.endswith(("-s0", "-s1"))]
    for name in names[1:]:
        (root / name).symlink_to(sweep[0] / name)
    found = read_study(root, "plain", "full-reset")
    assert len(found.runs) == 3
    assert [(item.arm, item.run, item.why) for item in found.missing] == [("full-reset", "0", "not begun")]
    (root / "manifest.json").unlink()
    for name in names[1:]:
        (root / name).unlink()
    with pytest.raises(ConfigError, match="no run of games in sequence"):
        read_study(root, "plain", "full-reset")


# --- numbers by hand


TASKS = Tasks((GAME, OTHER), 100, 2)
EMPTY = Visited(*[math.nan] * 8, scores={}, curve=np.full(POINTS, math.nan))


def run_of(arm: str, seed: int, areas: list[float], alarms: list[int] | None = None, **more: list) -> SequenceRun:
    config = DQNConfig(env=f"{GAME},{OTHER}", task_steps=100, visits=2, update_start=10)
    columns = {"area": areas} | more
    visits = [
        replace(EMPTY, **{name: values[number] for name, values in columns.items()}) for number in range(len(TASKS))
    ]
    score = Score(arm, config.env, str(seed), 0.0, "", settings={})
    return SequenceRun(score, config, tuple(visits), None if alarms is None else tuple(alarms))


def study_of(*runs: SequenceRun) -> Study:
    return Study(TASKS, runs, (), "plain", "full-reset")


def records(found) -> dict[tuple[str, str], dict]:
    return {(next(iter(row.values())), row["arm"]): row for row in found.records}


def test_all_visits_weigh_every_game_alike_and_seeds_are_paired():
    found = study_of(
        run_of("plain", 0, [1.0, 40.0, 2.0, 30.0]),
        run_of("plain", 1, [2.0, 50.0, 1.0, 20.0]),
        run_of("full-reset", 1, [2.0, 60.0, 4.0, 40.0]),
        run_of("full-reset", 0, [1.0, 40.0, 1.0, 60.0]),
        run_of("nap", 1, [3.0, 50.0, 3.0, 50.0]),
    )
    gaps = records(paired(found))
    assert gaps["1. Breakout", "nap"]["value"] == 1.0
    assert (gaps["2. Asterix", "full-reset"]["value"], gaps["2. Asterix", "full-reset"]["seeds"]) == (5.0, 2)
    # a fresh agent has 2 in Breakout on average, and 50 in Asterix
    assert gaps["all visits", "nap"]["value"] == pytest.approx(np.mean([1 / 2, 0, 2 / 2, 30 / 50]))
    ratio = records(plasticity(found, ratios(found)))
    assert ratio["2. Asterix", "plain"]["value"] == pytest.approx(90 / 100)
    assert ratio["2. Asterix", "nap"]["value"] == pytest.approx(50 / 60)
    later = np.mean([90 / 100, 3 / 5, 50 / 100])
    assert ratio["after the first change", "plain"]["value"] == pytest.approx(later)
    assert ("1. Breakout", "full-reset") not in ratio
    low, high = (ratio["3. Breakout", "plain"][bound] for bound in ("low", "high"))
    assert (low, high) == pytest.approx((1 / 4, 2 / 1))  # with both seeds the same one


def test_nap_is_compared_with_a_fresh_agent_that_has_it():
    runs = [run_of(arm, 0, areas) for arm, areas in {"full-reset": [4.0] * 4, "nap-reset": [5.0] * 4}.items()]
    runs += [run_of("plain", 0, [2.0] * 4), run_of("nap", 0, [1.0, 2.0, 3.0, 4.0])]
    normed = [replace(run, config=replace(run.config, nap="nap" in run.arm)) for run in runs]
    for fresh_nap, of_nap in (("nap-reset", 3 / 5), ("", 3 / 4)):
        found = replace(study_of(*normed), fresh_nap=fresh_nap)
        ratio = records(plasticity(found, ratios(found)))
        assert ratio["after the first change", "nap"]["value"] == pytest.approx(of_nap)
        assert ratio["after the first change", "plain"]["value"] == pytest.approx(2 / 4)
        assert (("1. Breakout", "nap-reset") in ratio) == (not fresh_nap)


def test_arms_with_norms_may_have_a_rate_of_their_own():
    rates = {name: config.lr for name, config in configs("--norm-lr", "1e-3").items()}
    own = {name for name, lr in rates.items() if lr == 1e-3}
    assert own == {name for name in STUDY if name.startswith("nap-")} | {"layer-norm"}
    assert {rates[name] for name in STUDY if name not in own} == {2.5e-4}
    with pytest.raises(ConfigError, match="--norm-lr has no effect with --only plain,redo: no arm there has norms"):
        configs("--norm-lr", "1e-3", "--only", "plain,redo")


def test_a_visit_without_a_whole_game_leaves_its_seed_out():
    found = study_of(
        run_of("plain", 0, [1.0, math.nan, 2.0, 3.0]),
        run_of("plain", 1, [2.0, 4.0, 1.0, 2.0]),
        run_of("full-reset", 0, [1.0, 5.0, 1.0, 6.0]),
        run_of("full-reset", 1, [2.0, 6.0, 4.0, 4.0]),
    )
    means = records(areas(found))
    assert (means["2. Asterix", "plain"]["value"], means["2. Asterix", "plain"]["seeds"]) == (4.0, 1)
    assert math.isnan(means["2. Asterix", "plain"]["low"])
    gaps, ratio = records(paired(found)), records(plasticity(found, ratios(found)))
    assert (gaps["2. Asterix", "full-reset"]["value"], gaps["2. Asterix", "full-reset"]["seeds"]) == (2.0, 1)
    assert gaps["all visits", "full-reset"]["seeds"] == 1
    assert ratio["2. Asterix", "plain"]["value"] == pytest.approx(4 / 6)
    assert " n=1" in str(areas(found).rows)


def test_without_a_fresh_agent_nothing_is_divided():
    found = study_of(run_of("plain", 0, [1.0] * 4), run_of("nap", 0, [2.0] * 4))
    assert "all visits" not in {row for row, _ in records(paired(found))}
    assert not plasticity(found, ratios(found)).rows


def test_alarms_are_of_the_change_before_them_or_false():
    run = run_of("nap-cusum", 0, [1.0] * 4, alarms=[30, 100, 130, 150, 320])
    assert found_at(run) == [(None, 2), (30, 1), (None, 0), (20, 0)]
    assert updates_until(run, 30) == 30
    cleared = replace(run, config=replace(run.config, task_replay="clear", utd=2))
    assert updates_until(cleared, 30) == 40
    found = records(alarms(study_of(run, run_of("nap-cusum", 1, [1.0] * 4, alarms=[]), run_of("plain", 0, [1.0] * 4))))
    assert len(found) == 1  # of one arm
    last = alarms(study_of(run, run_of("nap-cusum", 1, [1.0] * 4, alarms=[]))).records[-1]
    assert (last["visit"], last["changes"], last["found"]) == ("all visits", 6, 2)
    assert (last["agent_steps"], last["false_alarms_a_run"]) == (25, 1.5)


def test_forgetting_is_from_the_best_evaluation_before():
    seen = [{GAME: 1.0, OTHER: 9.0}, {GAME: 5.0, OTHER: 2.0}, {GAME: 3.0, OTHER: 4.0}, {GAME: 2.0, OTHER: 10.0}]
    found = records(forgetting(study_of(run_of("plain", 0, [1.0] * 4, scores=seen))))
    assert {game: row["value"] for (game, _), row in found.items()} == {"Breakout": 3.0, "Asterix": -1.0}
    own = [{TASKS[number].game: 1.0} for number in range(4)]
    assert not forgetting(study_of(run_of("plain", 0, [1.0] * 4, scores=own))).rows


@settings(max_examples=50, deadline=None)
@given(
    games=st.lists(st.tuples(st.integers(1, 30), st.integers(-5, 50)), max_size=30),
    num_envs=st.sampled_from([1, 2]),
)
def test_a_curve_is_the_mean_return_over_the_steps_of_each_part(games, num_envs):
    """Against a sum over single steps; games follow one another, and a change of game cuts the one that goes on."""
    rows, owner, step = [], {}, 0
    for length, value in games:
        begin = step
        step += length * num_envs
        if begin // 200 != (step - 1) // 200:
            step = (step - 1) // 200 * 200  # cut
            continue
        rows.append({"agent_step": step, "episode_return": value, "episode_steps": length})
        owner |= dict.fromkeys(range(begin, step), value)
    visits = [{"start": start, "steps": 200} for start in (0, 200)]
    for number, curve in enumerate(_curves(rows, visits, num_envs)):
        for part, value in enumerate(curve):
            steps = range(200 * number + 10 * part, 200 * number + 10 * part + 10)
            known = [owner[each] for each in steps if each in owner]
            assert value == pytest.approx(np.mean(known) if known else math.nan, nan_ok=True)


# --- the list of runs


def test_the_columns_of_a_list_are_read_back():
    curve = np.where(np.arange(POINTS) == 3, math.nan, np.arange(POINTS) / 8)
    both = [{GAME: 1.5, OTHER: 2.0}] * 4
    run = run_of("nap", 0, [1.25, math.nan, -3.0, 4.0], score=[1.5, 2.0, 1.5, 2.0], scores=both, curve=[curve] * 4)
    visits, found = visits_in(cells(run.visits, [3, 4]), TASKS, "here")
    assert found == [3, 4]
    for one, two in zip(visits, run.visits, strict=True):
        np.testing.assert_equal(vars(one), vars(two))
    assert visits_in(cells(run.visits, None), TASKS, "here")[1] is None
    assert visits_in(cells(run.visits, []), TASKS, "here")[1] == []


@pytest.mark.parametrize(
    ("column", "text", "message"),
    [
        ("visit_area", "1 2 3", "here: visit_area has 3 values, and the run 4 visits"),
        ("visit_area", "1 2 3 x", "here: its visits cannot be read: could not convert"),
        ("visit_curve", "1;2 1;2 1;2 1;2", "here: its visits cannot be read: '1;2' has 2 values, not 20"),
        ("alarms", "soon", "here: its visits cannot be read: invalid literal"),
    ],
)
def test_columns_that_cannot_be_read_are_one_line(column, text, message):
    good = cells(run_of("nap", 0, [1.0] * 4).visits, None)
    with pytest.raises(ConfigError, match=message):
        visits_in(good | {column: text}, TASKS, "here")


def test_a_damaged_result_is_one_line(sweep, tmp_path):
    name = f"plain-{file_name(f'{GAME},{OTHER}')}-s0"
    run = RunDir(tmp_path / name)
    run.path.mkdir()
    for file in ("config.yaml", "metrics.jsonl"):
        (run.path / file).write_bytes((sweep[0] / name / file).read_bytes())
    result = json.loads((sweep[0] / name / "result.json").read_text())
    del result["visits"][1]["area"]
    run.result.write_text(json.dumps(result))
    with pytest.raises(ConfigError, match="do not hold visits to games"):
        read_study(tmp_path, "plain", "full-reset")


def test_panels_have_few_arms_and_nap_apart():
    assert arm_groups(list(STUDY), "plain", "full-reset") == [
        ["fresh-optimizer", "layer-norm", "l2-init"],
        ["shrink-perturb", "redo"],
        ["nap-reset", "nap-constant", "nap-aligned"],
        ["nap-cyclic", "nap-cusum"],
    ]
    assert arm_groups(["plain", "full-reset"], "plain", "full-reset") == [[]]
