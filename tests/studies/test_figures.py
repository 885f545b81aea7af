"""Names of figures, numbers in tables, arms, and files that cannot be read."""

from pathlib import Path
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

import agents.evaluate
import benchmarks.curves
import benchmarks.report.__main__
from experiment.config import ConfigError, dump_yaml
from experiment.plot import thousands
from experiment.results import read_rows
from experiment.storage.run_dir import RunDir
from studies.arms import Arm, over_seeds
from studies.figures import by_arm, figure_names
from studies.grokking.comparisons import median_and_range
from studies.grokking.config import GrokkingConfig
from studies.grokking.run_figure import _title
from studies.records import FinishedRun
from studies.warm_start.config import WarmStartConfig


@given(st.lists(st.integers(1, 99).map(lambda n: 100 * n), min_size=2, max_size=9))
def test_what_all_reached_has_its_median_and_range(values):
    words = median_and_range(values).replace(",", "")
    assert words == f"{median(values):.0f} ({min(values)}-{max(values)})"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([1200.0], "1,200"),
        ([None, None], "never"),
        ([3000, None, 1000], "3,000 (2 of 3)"),  # the median of 1000, 3000 and later than all
        ([None, 1000, None], "never (1 of 3)"),
        ([None, 1000], "1,000 (1 of 2)"),
    ],
)
def test_what_was_not_reached_counts_as_the_largest(values, words):
    assert median_and_range(values) == words


def test_axes_are_in_thousands():
    assert [thousands(value) for value in (0, 500, 1000, 12500, -2000)] == ["0", "500", "1k", "12.5k", "-2k"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), st.sampled_from(["r", "s"])), max_size=9))
def test_no_figure_overwrites_another(parts):
    paths = [Path("/", *part) for part in parts]
    names = figure_names(paths)
    assert set(names) == set(paths)
    assert len(set(names.values())) == len(names)
    if len(names) == 1:
        assert list(names.values()) == [paths[0].name]


def test_figures_of_one_name_are_told_apart_by_their_folders():
    paths = [Path("/runs/a/delay0-s0"), Path("/runs/b/delay0-s0"), Path("/runs/b/delay0-s1")]
    assert list(figure_names(paths).values()) == ["a-delay0-s0", "b-delay0-s0", "delay0-s1"]


def test_arms_are_grouped_over_their_seeds():
    runs = [FinishedRun(arm.name, None, [], None) for arm in (*over_seeds("a"), *over_seeds("b-s1", (0, 12)))]
    groups = {name: len(members) for name, members in by_arm(runs).items()}
    assert groups == {"a": 3, "b-s1": 2}


def test_switches_have_no_value():
    arm = Arm("x", {"coupled_decay": True, "project_head": False, "lr": 1e-3})
    assert arm.options() == ["--coupled-decay", "--no-project-head", "--lr", "0.001"]


def test_a_damaged_file_is_named(tmp_path):
    run = RunDir(tmp_path)
    run.metrics.write_text('{"update": 0}\n{"update": }\n')
    with pytest.raises(ConfigError, match=r"metrics\.jsonl line 2: not valid JSON"):
        read_rows(run)
    run.metrics.write_text('{"update": 0}\n{"upda')  # a line that is being written
    assert read_rows(run) == [{"update": 0}]


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("command", [agents.evaluate, benchmarks.curves, benchmarks.report.__main__])
@pytest.mark.parametrize(
    ("config", "study"), [(GrokkingConfig(), "studies.grokking"), (WarmStartConfig(), "studies.warm_start")]
)
def test_a_run_of_a_study_is_none_of_an_agent(command, config, study, ended, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(dump_yaml(config))
    if ended:
        (tmp_path / "result.json").write_text('{"study": "it"}')
    with pytest.raises(SystemExit) as stopped:
        command.main([str(tmp_path), *(() if command is agents.evaluate else ("--out", str(tmp_path / "new.svg")))])
    assert stopped.value.code == 2
    said = f"is a run of a study, not of an agent; its figures: python -m {study}.figures {tmp_path}\n"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ("a.b:Own:x=1", "transformer, Own"),
        ("rewarm", "re-warmed after"),
        ("constant", "transformer, warm from the start"),
    ],
)
def test_the_title_names_an_own_schedule(schedule, words):
    run = FinishedRun("a", GrokkingConfig(schedule=schedule), [], None)
    assert words in _title(run)
