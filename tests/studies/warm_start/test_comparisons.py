"""Gaps, their references and contrasts, and the table, from made-up results."""

import csv
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studies.records import FinishedRun
from studies.warm_start.comparisons import (
    columns,
    contrasts,
    described,
    gaps,
    in_order,
    markdown,
    missing,
    planned,
    reference,
    runs_csv,
    shown,
)
from studies.warm_start.config import WarmStartConfig
from studies.warm_start.outcome import outcome, sentence


def arm(finals, *, first=0.4, alarms=None, name="arm", **settings):
    """Finished runs with these final accuracies, one for each seed."""
    pairs = finals.items() if isinstance(finals, dict) else enumerate(finals)
    config = replace(WarmStartConfig(), **settings).resolved()
    facts = {"data": "CIFAR-10", "alarms": alarms, "switches": [14_000], "seconds": {"training": 60.0}}
    return [
        FinishedRun(
            f"{name}-s{seed}",
            replace(config, seed=seed),
            [],
            facts | {"final_test_accuracy": final, "phase_accuracy": [first] * (config.phases - 1) + [final]},
        )
        for seed, final in pairs
    ]


def test_the_reference_is_the_nearest_arm_that_had_all_data():
    arms = {
        "plain-full": arm([0.7], fraction=1.0),
        "nap-full": arm([0.7], fraction=1.0, nap=True),
        "nap-full-constant": arm([0.7], fraction=1.0, nap=True, schedule="constant"),
        "wider": arm([0.7], fraction=1.0, width=64),
        "warm": arm([0.6], schedule="constant"),
        "nap": arm([0.6], nap=True),
        "nap-rare": arm([0.6], nap=True, nap_every=100, schedule="cusum"),
        "nap-constant": arm([0.6], nap=True, schedule="constant"),
        "redo": arm([0.6], plasticity=("redo",)),
        "wider-nap": arm([0.6], nap=True, width=64),
        "other-network": arm([0.6], network="resnet18"),
    }
    found = {name: reference(name, arms) for name in arms}
    assert found == {
        **dict.fromkeys(("plain-full", "nap-full", "nap-full-constant", "wider", "other-network")),
        **dict.fromkeys(("warm", "redo"), "plain-full"),
        **dict.fromkeys(("nap", "nap-rare"), "nap-full"),
        "nap-constant": "nap-full-constant",
        "wider-nap": "wider",
    }
    lr = {"lr": 1e-2, "schedule": "constant"}
    near = {"free": arm([0.7], fraction=1.0, **lr), "projected": arm([0.7], fraction=1.0, nap=True)}
    assert reference("own", near | {"own": arm([0.6], nap=True, **lr)}) == "projected", "projection before all else"
    del arms["plain-full"]
    assert reference("warm", arms) is None, "a free run has no projected reference"


@given(st.data())
@settings(max_examples=30)
def test_gaps_and_contrasts_are_paired_by_seed(data):
    accuracies = st.dictionaries(st.integers(0, 4), st.integers(0, 1000).map(lambda n: n / 1000), min_size=1)
    kinds = {"nap": {"nap": True}, "plain": {}, "bare": {"norm_over": "none"}}
    finals = {f"{kind}{share:g}": data.draw(accuracies) for kind in kinds for share in (0.1, 1.0)}
    arms = {
        f"{kind}{share:g}": arm(finals[f"{kind}{share:g}"], fraction=share, **settings)
        for kind, settings in kinds.items()
        for share in (0.1, 1.0)
    }
    expected = {
        kind: {
            s: 100 * (finals[f"{kind}1"][s] - finals[f"{kind}0.1"][s])
            for s in finals[f"{kind}0.1"].keys() & finals[f"{kind}1"].keys()
        }
        for kind in kinds
    }
    for kind, gap in expected.items():
        assert gaps(f"{kind}0.1", arms) == pytest.approx(gap)
        assert gaps(f"{kind}1", arms) == {}
    found = {(one, other): paired for one, other, paired in contrasts(arms)}
    shared = {kind: expected["nap"].keys() & expected[kind].keys() for kind in ("plain", "bare")}
    assert found.keys() == {(f"{kind}0.1", "nap0.1") for kind, both in shared.items() if both}
    for kind, both in shared.items():
        paired = found.get((f"{kind}0.1", "nap0.1"), [])
        assert sorted(paired) == pytest.approx(sorted(expected[kind][s] - expected["nap"][s] for s in both))


def test_a_schedule_is_contrasted_with_the_aligned_one_alone():
    arms = {
        "full": arm([0.75], nap=True, fraction=1.0),
        "aligned": arm([0.74], nap=True),
        "constant": arm([0.6], nap=True, schedule="constant"),
        "cusum": arm([0.73], nap=True, schedule="cusum", cycles=2),
        "cusum-low": arm([0.73], nap=True, schedule="cusum", lr=1e-3),
        "cusum-free": arm([0.73], schedule="cusum", lr=1e-4),
    }
    [(one, other, paired)] = contrasts(arms)
    assert (one, other) == ("cusum", "aligned")
    assert paired == pytest.approx([1])
    arms["cusum-full"] = arm([0.75], nap=True, fraction=1.0, schedule="cusum", cycles=2)
    assert contrasts(arms) == [], "the gap of cusum is to another run than that of aligned"


def test_gaps_to_unlike_references_are_not_contrasted():
    arms = {
        "nap-full": arm([0.75], nap=True, fraction=1.0),
        "nap": arm([0.74], nap=True),
        "plain-full": arm([0.7], fraction=1.0),
        "plain": arm([0.65]),
        "bare-full": arm([0.7], norm_over="none", fraction=1.0),
        "bare": arm([0.6], norm_over="none"),
        "nap-channels-full": arm([0.75], nap=True, norm_over="channels", fraction=1.0),
        "nap-channels": arm([0.74], nap=True, norm_over="channels"),
    }

    def pairs(*left_out, **changed):
        kept = {name: runs for name, runs in (arms | changed).items() if name not in left_out}
        return {(one, other) for one, other, _ in contrasts(kept)}

    # without norms there is no axis of theirs, so that it stands against either
    whole = {("plain", "nap"), ("bare", "nap"), ("bare", "nap-channels")}
    assert pairs() == whole
    assert pairs("nap-full") == whole - {("plain", "nap"), ("bare", "nap")}, "the gap of nap is one to plain-full"
    assert pairs("bare-full") == {("plain", "nap")}
    other_rate = {"plain-full": arm([0.7], fraction=1.0, lr=1e-3)}
    assert pairs(**other_rate) == whole - {("plain", "nap")}, "the gap of plain is one between rates too"


def test_missing_runs_are_named():
    arms = {"nap-from10": arm([0.7] * 3), "nap-from100": arm([0.7] * 5), "plain-from100": arm([0.7] * 4)}
    lost = "all of no-norms-from10, no-norms-from100, plain-from10; seeds 3, 4 of nap-from10; seed 4 of plain-from100"
    assert missing("headline", arms) == lost
    assert missing("mine", arms) == "seeds 3, 4 of nap-from10; seed 4 of plain-from100"
    assert missing("mine", {"one": arm([0.7])}) == ""
    every = {name: arm([0.7]) for name, seed in planned("cusum") if seed == 0}
    assert missing("cusum", every) == "seeds 1, 2, 3, 4 of each arm"
    assert missing("cusum", {"nap-cusum": arm([0.7] * 5)}) == "all of nap-from10, nap-from100"
    assert list(in_order("headline", {"z": [], **dict(reversed(arms.items()))})) == [*arms, "z"]


def test_every_run_has_its_line():
    arms = {"free": arm({3: 0.5}), "told": arm([0.7, 0.71], schedule="cusum", alarms=[300, 14_120])}
    lines = list(csv.DictReader(runs_csv(arms).splitlines()))
    assert [(line["arm"], line["seed"], line["final_test_accuracy"]) for line in lines] == [
        ("free", "3", "0.5"), ("told", "0", "0.7"), ("told", "1", "0.71"),
    ]  # fmt: skip
    assert lines[1]["alarms"] == "300 14120"
    assert lines[0]["phase_accuracy"] == "0.4 0.5"

    assert shown([], ".1f") == "-"
    assert shown([0.5], ".3f") == "0.500"
    assert shown([1, 2, 3, 4, 5], ".2f") == "3.00 [1.04, 4.96]"
    assert shown([-0.04, -0.04], ".1f") == "0.0 [0.0, 0.0]"


def test_a_comparison_says_which_norms_the_networks_have():
    kinds = {"plain": {}, "bare": {"norm_over": "none"}, "channels": {"norm_over": "channels"}}
    arms = {name: arm([0.7], **settings) for name, settings in kinds.items()}
    network = "CIFAR-10, lyle10: 2 × 14,000 updates of 250 images, cnn (width 32, hidden 256, strides 2 2 1)"
    assert described({"plain": arms["plain"]}) == network
    assert described({"bare": arms["bare"]}) == f"{network}, no norms"
    assert described(arms) == f"{network}, norms over space or no norms or norms over channels alone"


def test_the_table_says_what_its_numbers_stand_on():
    arms = {
        "full": arm([0.70, 0.72], fraction=1.0, protocol="increments"),
        "warm": arm([0.60, 0.65, 0.70], protocol="increments"),
        "cusum": arm([0.6], protocol="increments", schedule="cusum", alarms=[300, 14_120, 16_000]),
    }
    lines = markdown("mine", arms).splitlines()
    assert lines[0].startswith("CIFAR-10, increments: 10 × 2,800 updates of 250 images, cnn (width 32,")
    assert lines[0].endswith("missing: seed 2 of full; seeds 1, 2 of cusum")
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert table[0] == ["arm", "n", "after phase 1", "mean over phases", "final", "gap (points)", "seconds", "gap to"]
    warm = dict(zip(table[0], table[3], strict=True))
    assert warm["final"] == "0.650 [0.526, 0.774]"
    assert warm["mean over phases"] == "0.425 [0.413, 0.437]"
    assert warm["gap (points)"] == "8.5 [-10.6, 27.6] (n=2)"
    assert (warm["n"], warm["gap to"], warm["seconds"]) == ("3", "full", "60 [60, 60]")
    assert dict(zip(table[0], table[4], strict=True))["gap to"] == "full (schedule)"
    assert "one seed, so no interval: cusum" in "\n".join(lines)
    assert "seed 0: false one at 300, 120, 2,000" in lines[-1]


def test_forks_have_no_value_of_a_phase_that_ended_before_them():
    rows = [{"phase": 1, "update": update, "test_accuracy": 0.1 * update, "train_accuracy": 0.5} for update in (7, 8)]
    found = outcome(rows)
    assert (found["phase_accuracy"], found["switches"]) == ([None, 0.8], [])
    assert sentence(found, 0.1) == "test accuracy 0.800 at the end with all of them"
    arms = {"fork": arm([0.8], first=None), "whole": arm([0.7])}
    values = {column.title: (column.values("fork", arms), column.values("whole", arms)) for column in columns(arms)}
    assert values["after phase 1"] == ([], [0.4])
    assert values["final"] == ([0.8], [0.7])
    assert "- 0.8" in runs_csv(arms)
