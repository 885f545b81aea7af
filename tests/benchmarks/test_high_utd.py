"""The high-UTD study: its arms, the real command on Catch, and the tables that its report adds."""

import json
import shlex

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.config import DQNConfig
from benchmarks import high_utd
from benchmarks.high_utd import STOPS, StudySettings, contrasts, study
from benchmarks.report.contrasts import ALL, chosen_stop_table, contrast_table
from benchmarks.report.late_tables import late_tables
from benchmarks.report.learning_curves import Trace
from benchmarks.report.metric_series import MEASURES, WINDOW
from benchmarks.report.recorded import Recorded, _of_cells
from benchmarks.report.scores import Score, Scores
from benchmarks.report.stability import largest_fall, largest_rise
from benchmarks.sweep.command import parse
from benchmarks.sweep.runs import KIND
from envs.games import MINATAR
from experiment.sweeps.manifest import Manifest
from experiment.sweeps.status import SweepStatus
from experiment.values import ConfigError
from plasticity.registry import METHODS

RATES = ("--lr-floor", "1e-5", "--cycle-patience", "2")
TINY = "--steps 200 --update-start 80 --log-interval 20 --probe-interval 40 --eval-episodes 2 --compile false"


def parsed(
    experiment: str, *more: str, common: str = "--steps 20000 --log-interval 50"
) -> tuple[StudySettings, tuple[str, ...]]:
    words = ["--experiment", experiment, "--suite", "Catch", *more, "--", *shlex.split(common)]
    return parse(words, StudySettings)


def configs(experiment: str, *more: str, **options: str) -> dict[str, DQNConfig]:
    return {name: arm.config("Catch") for name, arm in study(*parsed(experiment, *more, **options)).arms.items()}


def test_schedules_are_five_with_nap_and_without():
    found = configs("schedules", common="--lr 2e-4 --lr-floor 3e-6")
    assert len(found) == 10
    for name, config in found.items():
        kind = name.removeprefix("nap-")
        assert config.nap == name.startswith("nap-")
        assert config.schedule == ("constant" if kind == "low" else kind)
        assert config.lr == (3e-6 if kind == "low" else 2e-4)
        assert (config.lr_floor, config.anneal) == (3e-6, "floor")


def test_stops_have_cycles_of_one_length_and_three_peaks():
    found = configs("stops", common="--lr 1e-3 --cycles 20 --cycle-fraction 0.4")
    assert len(found) == len(STOPS) * 3
    assert {2 / 50, 5 / 50, 10 / 50} < set(STOPS)  # 2, 5 and 10 cycles of the paper's 4M of 200M frames
    assert all(config.cycle_fraction / config.cycles == pytest.approx(0.02) for config in found.values())
    assert {(config.cycle_fraction, config.lr) for config in found.values()} == {
        (stop, lr) for stop in STOPS for lr in (2.5e-4, 1e-3, 4e-3)
    }
    assert all(config.nap and config.schedule == "early-cycle" for config in found.values())


def test_automatic_stops_differ_in_the_rule_alone_and_own_arms_and_options_come_on_top():
    found = configs("automatic", "--arm", "own:--nap --schedule cosine", common="--log-interval 10 --anneal linear")
    assert list(found) == ["stop0.1", "stop0.2", "stop0.4", *high_utd.RULES, "own"]
    assert [config.schedule for config in found.values()] == [*["early-cycle"] * 3, *high_utd.RULES, "cosine"]
    assert {(config.anneal, config.cycle_fraction / config.cycles) for config in found.values()} == {("linear", 0.02)}
    plain = configs("automatic", "--within", "layer-norm", common="--log-interval 10")
    assert {(config.nap, config.plasticity) for config in plain.values()} == {(False, ("layer-norm",))}


def test_networks_are_three_with_four_schedules_and_pairs_differ_in_one_of_the_two():
    found = configs("networks")
    grid = [
        (nap, norm, config.schedule) for config in found.values() for nap, norm in [(config.nap, config.plasticity)]
    ]
    assert len(set(grid)) == len(found) == 12
    assert list(found)[:5] == ["constant", "cyclic", "early-cycle", "one-cycle", "layer-norm-constant"]
    pairs = contrasts(list(found))
    assert len(pairs) == 3 * 6 + 4 * 3  # pairs of schedules in each network, of networks under each schedule
    assert {("early-cycle", "constant"), ("nap-cyclic", "layer-norm-cyclic")} <= set(pairs)
    assert ("nap-cyclic", "layer-norm-constant") not in pairs
    assert contrasts(["utd1", "utd2", "utd4"]) == [("utd2", "utd1"), ("utd4", "utd1")]


def test_calibration_has_plain_agents_and_seeds_of_its_own():
    found = configs("calibrate")
    assert [(name, config.utd, config.methods) for name, config in found.items()] == [
        (f"utd{utd}", utd, ()) for utd in (1, 2, 4, 8)
    ]
    assert {entry.seed for entry in study(*parsed("calibrate")).runs} == {100, 101, 102, 103, 104}
    assert {entry.seed for entry in study(*parsed("calibrate", "--first-seed", "7", "--seeds", "2")).runs} == {7, 8}
    assert {entry.seed for entry in study(*parsed("networks")).runs} == set(range(10))


def test_methods_are_those_of_method_scores():
    assert list(configs("methods")) == ["none", *METHODS]


def test_minatar_has_a_plan_and_options_after_the_dashes_decide():
    whole = study(*parse(["--suite", "minatar", "--experiment", "calibrate"], StudySettings))
    assert whole.games == MINATAR
    pair = study(*parse(["--suite", "minatar", "--experiment", "networks", "--", "--steps", "9000"], StudySettings))
    assert pair.games == high_utd.Plan.minatar
    config = pair.arms["nap-early-cycle"].config(pair.games[0])
    assert (config.budget, config.utd, config.network, config.lr, config.anneal) == (
        9000,
        4,
        "minatar",
        2.5e-4,
        "floor",
    )


def test_options_of_nap_are_shared_by_arms_with_and_without_it():
    found = configs("schedules", common="--nap-norm rms")
    assert {config.nap_norm for config in found.values()} == {"rms"}


@pytest.mark.parametrize(
    ("experiment", "common", "message"),
    [
        ("schedules", "--lr-floor 0", "--lr-floor is 0.0: it has to be above 0, at most --lr 0.0003"),
        ("automatic", "--steps 20000", "early-cycle-cusum needs 8 rows of metrics in each"),
        ("stops", "--cycles 3000 --steps 2000 --update-start 10", "fewer"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_is_written(experiment, common, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        study(*parsed(experiment, "--root", str(tmp_path / "root"), common=common))
    assert not (tmp_path / "root").exists()


@settings(max_examples=100, deadline=None)
@given(
    games=st.lists(st.tuples(st.integers(1, 20), st.integers(-50, 50)), min_size=1, max_size=45),
    steps=st.integers(0, 60),
)
def test_the_largest_fall_is_that_of_all_pairs_of_games_within_the_steps(games, steps):
    ended = np.cumsum([length for length, _ in games]).astype(float)
    returns = np.array([value for _, value in games], float)
    trace = Trace("arm", "Catch", ended, ended, ended, returns, {})
    whole = range(WINDOW - 1, len(games))
    falls = [returns[i] - returns[j] for j in whole for i in whole if i <= j and ended[j] - ended[i] <= steps]
    assert largest_fall(trace, steps) == max(falls, default=None)


@settings(max_examples=100, deadline=None)
@given(errors=st.lists(st.just(0.0) | st.floats(1e-3, 1e3), max_size=20))
def test_the_largest_rise_is_that_of_all_pairs_of_the_second_half(errors):
    steps = np.arange(len(errors), dtype=float) + 1
    end = np.array([max(len(errors), 1)], float)
    trace = Trace("arm", "Catch", end, end, end, end, {"td": (steps, np.array(errors))})
    late = [error for step, error in zip(steps, errors, strict=True) if step >= end / 2 and error > 0]
    rises = [after / before for i, before in enumerate(late) for after in late[i:]]
    assert largest_rise(trace) == max(rises, default=None)


def run_of(arm: str, game: str, seed: int, score: float, **measures: tuple[list[float], list[float]]) -> Recorded:
    line = np.array([0.0, 100.0])
    empty = (np.zeros(0), np.zeros(0))
    known = {each.name: empty for each in MEASURES} | {k: tuple(map(np.array, v)) for k, v in measures.items()}
    trace = Trace(arm, game, line, line, line, line, known)
    return Recorded(Score(arm, game, str(seed), score, "x", settings={}), trace, None, None)


def scores_of(table: dict[tuple[str, str], list[float]]) -> Scores:
    runs = [Score(arm, game, str(i), x, "x") for (arm, game), found in table.items() for i, x in enumerate(found)]
    return Scores(tuple(runs), ())


def test_late_measures_are_means_of_the_last_quarter_and_differences_go_by_seed():
    def dormant(value: float) -> dict[str, tuple[list[float], list[float]]]:
        return {"dormant": ([50.0, 75.0, 80.0, 100.0], [9.0, 9.0, value, value + 0.2])}

    runs = [
        run_of("utd1", "Catch", 100, 1.0, **dormant(0.1)), run_of("utd1", "Catch", 101, 2.0, **dormant(0.3)),
        run_of("utd8", "Catch", 101, 5.0, **dormant(0.5)), run_of("utd8", "Catch", 100, 2.0, **dormant(0.5)),
    ]  # fmt: skip
    means, gaps = late_tables(runs, ["utd1", "utd8"])
    found = {(row["arm"], row["measure"]): row["value"] for row in means.records}
    assert found["utd1", "dormant"] == pytest.approx(0.3)
    assert found["utd8", "score"] == 3.5
    paired = {row["measure"]: row for row in gaps.records}
    assert set(paired) == {"score", "dormant"}
    assert paired["dormant"]["value"] == pytest.approx(0.3)  # of 0.4 and 0.2
    assert paired["score"]["value"] == 2.0  # of 1 and 3
    assert paired["score"]["high"] - 2.0 == pytest.approx(12.706, abs=1e-3)


@pytest.mark.parametrize("end", [161.0, 322.0, 1000.0])
def test_the_last_quarter_is_five_points_whatever_the_length(end):
    """161 / 20 is rounded, so that the end of part 15 is above three quarters of 161."""
    cells = {"curve_return": ";".join(["1"] * 20), "curve_dormant": ";".join(map(str, range(20)))}
    cells |= {"curve_end": str(end), "curve_hours": "1"} | dict.fromkeys(("fall", "rise", "stopped"), "-")
    assert _of_cells(Score("a", "Catch", "0", 1.0, "x"), cells).late("dormant") == 17.0


def test_the_plain_agent_is_the_base_though_its_first_run_is_missing(tmp_path):
    table = tmp_path / "runs.csv"
    runs = [("redo", 0, 1.0), ("none", 1, 2.0), ("redo", 1, 3.0), ("none", 2, 2.0), ("redo", 2, 5.0)]
    curves = f"{';'.join(['1'] * 20)},100,1,-,-,-"
    lines = [f"{arm},Catch,{seed},{score},{{}},{curves}" for arm, seed, score in runs]
    table.write_text(
        "\n".join(["arm,task,seed,score,settings,curve_return,curve_end,curve_hours,fall,rise,stopped", *lines])
    )
    high_utd.report(str(table))
    head, row, *_ = (tmp_path / "runs-report" / "contrasts.csv").read_text().splitlines()
    found = dict(zip(head.split(","), row.split(","), strict=True))
    assert (found["arm"], found["other"], found["of"], float(found["value"])) == ("redo", "none", "Catch", 2.0)


def test_contrasts_weigh_games_by_the_first_arms_score():
    scores = scores_of({
        ("a", "Catch"): [1.0, 3.0], ("b", "Catch"): [2.0, 3.0],
        ("a", "Pong"): [10.0, 10.0], ("b", "Pong"): [5.0, 10.0],
    })  # fmt: skip
    table = contrast_table(scores, [("b", "a")])
    found = {row["of"]: row["value"] for row in table.records}
    assert found["Catch"] == 0.5
    assert found["Pong"] == -2.5
    assert found[ALL] == pytest.approx(((1 / 2 - 5 / 10) / 2 + 0) / 2)
    assert found["probability of improvement"] == pytest.approx(((0 + 1 + 0.5 + 1) / 4 + (0.5 + 0.5) / 4) / 2)


def test_the_stop_is_chosen_on_the_first_half_of_the_seeds_and_judged_on_the_other():
    scores = scores_of({
        ("stop0.1", "Catch"): [9.0, 9.0, 0.0, 2.0],  # best on seeds 0 and 1, worst on 2 and 3
        ("stop0.2", "Catch"): [1.0, 1.0, 8.0, 8.0],
        ("early-cycle-cusum", "Catch"): [0.0, 0.0, 5.0, 3.0],
        ("stop0.1", "Pong"): [1.0, 1.0, 1.0, 1.0],
        ("stop0.2", "Pong"): [2.0, 2.0, 4.0, 4.0],
        ("early-cycle-cusum", "Pong"): [9.0, 9.0, 4.0, 3.0],
    })  # fmt: skip
    table = chosen_stop_table(scores, ["stop0.1", "stop0.2"], ["early-cycle-cusum"])
    catch, pong, both = table.records
    assert (catch["chosen"], catch["chosen_score"], catch["rule_score"], catch["value"]) == ("stop0.1", 1.0, 4.0, 3.0)
    assert (pong["chosen"], pong["chosen_score"], pong["value"]) == ("stop0.2", 4.0, -0.5)
    assert both["value"] == pytest.approx(((5 / 9 + 0) / 2 + (1 / 9 - 1 / 2) / 2) / 2)
    assert catch["seeds"] == both["seeds"] == 2
    uneven = Scores(scores.runs[1:], ())
    assert [
        row["game"] for row in chosen_stop_table(uneven, ["stop0.1", "stop0.2"], ["early-cycle-cusum"]).records
    ] == ["Pong"]


def test_the_command_runs_an_experiment_and_reports_on_it(tmp_path, monkeypatch, capsys):
    """Two arms and two short runs, in the processes of the launcher; a schedule that stops by itself is one of them.

    The list of its runs gives the same tables and figures as its folder.
    """
    monkeypatch.setattr(high_utd, "BY_HAND", (1.0,))
    monkeypatch.setattr(high_utd, "RULES", ("early-cycle-plateau",))
    root = tmp_path / "root"
    where = ["--experiment", "automatic", "--suite", "Catch", "--seeds", "1", "--root", str(root)]
    assert high_utd.main([*where, "--", *shlex.split(TINY), *RATES]) == 0
    sweep = SweepStatus(KIND, root, Manifest.load(root).runs)
    sweep.look()
    assert len(sweep.named("done")) == 2
    metrics = root / "early-cycle-plateau-Catch-s0" / "metrics.jsonl"
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    stop = [row["stopped_at"] for row in rows if "stopped_at" in row][-1]
    assert 8 <= stop < 200
    rates = [row["lr"] for row in rows if row.get("lr") is not None and row["agent_step"] > stop]
    assert rates == pytest.approx([1e-5] * len(rates))
    assert high_utd.main(["--figure", str(root)]) == 0
    (line,) = (root / "report" / "stops.csv").read_text().splitlines()[1:]
    assert line.startswith(f"Catch,early-cycle-plateau,{float(stop)},")
    assert high_utd.main(["--status", str(root), "--record", str(tmp_path / "runs.csv")]) == 0
    assert high_utd.main(["--figure", str(tmp_path / "runs.csv")]) == 0
    names = ("stops.csv", "stability.csv", "late.csv", "contrasts.csv", "td-rise.csv", "figures/plasticity.svg")
    for name in names:
        assert (root / "report" / name).read_bytes() == (tmp_path / "runs-report" / name).read_bytes(), name
    assert high_utd.main([*where, "--have", str(tmp_path / "runs.csv"), "--", *shlex.split(TINY), *RATES]) == 0
    assert "nothing to do" in capsys.readouterr().out
    text = (root / "report" / "report.md").read_text()
    assert "## Largest fall of the return" in text
    assert "## Largest rise of the TD error" in text


def test_a_damaged_list_of_runs_and_a_folder_without_figure_end_in_one_line(tmp_path, capsys):
    table = tmp_path / "runs.csv"
    head = "arm,task,seed,score,settings,curve_return,curve_end,curve_hours,fall,rise,stopped"
    table.write_text(f"{head}\na,Catch,0,1.0,{{}},1;2;3,100,0,-,-,-\n")
    for words, said in (
        (["--figure", str(table)], "line 2: its curves cannot be read: '1;2;3' has 3 values, not 20"),
        (["--figure", str(tmp_path / "none")], "no runs"),
        (["--out", "x"], "--out is for --figure"),
        (["--experiment", "network"], "networks"),
        (
            ["--experiment", "networks", "--within", "plain", "--dry-run"],
            "--within has no effect with --experiment networks",
        ),
    ):
        with pytest.raises(SystemExit) as stopped:
            high_utd.main(words)
        error = capsys.readouterr().err
        assert stopped.value.code == 2
        assert said in error
    assert not (tmp_path / "runs-report").exists()
