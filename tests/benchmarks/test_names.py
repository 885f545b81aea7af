"""Short names: what is left out, and that names stay distinct."""

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from benchmarks.report.names import LONG, short_names

WORDS = st.sampled_from(["dqn", "nap", "redo", "s0", "s1", "utd8", "lr=1e-3", "lr=1e-4", "", "20250101-120000", "a b"])
PARTED = st.lists(st.tuples(st.sampled_from("-+ "), WORDS), max_size=7).map(lambda pairs: "".join(map("".join, pairs)))
NAMES = st.lists(PARTED | st.text(max_size=60), max_size=8)


@given(names=NAMES, longest=st.integers(0, 40))
@example(names=["a-b", "b-a"], longest=0)  # without their common words both are empty
@example(names=["a", "a-a"], longest=0)
@example(names=["x-a-y", "x-y"], longest=0)
@example(names=["-a", "a"], longest=0)
def test_distinct_names_stay_distinct_and_none_gets_longer(names, longest):
    found = short_names(names, longest)
    assert len(found) == len(names)
    assert len(set(found)) == len(set(names))
    for name, short in zip(names, found, strict=True):
        assert len(short) <= len(name)
        assert short or not all(names)
        rest = iter(name)
        assert all(letter in rest for letter in short)  # nothing is added or moved


@given(names=NAMES)
def test_names_that_fit_are_left_alone(names):
    assert short_names(names, max(map(len, names), default=0)) == names


OWN = st.lists(st.text("abc", min_size=1), min_size=1, max_size=4).map("-".join)


@given(names=st.lists(OWN, min_size=2, unique=True), head=st.lists(st.text("xyz", min_size=1), min_size=LONG // 2))
def test_what_all_names_begin_or_end_with_is_left_out(names, head):
    first, last = ({name.split("-")[end] for name in names} for end in (0, -1))
    assume(len(first) > 1 and len(last) > 1)  # what they share by themselves may be left out in place of the head
    shared = "-".join(head)
    assert not set("xyz") & set("".join(short_names([f"{shared}-{name}" for name in names])))
    assert not set("xyz") & set("".join(short_names([f"{name}-{shared}" for name in names])))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["dqn-Breakout-utd8-s0-20250101-120000", "dqn-Breakout-utd8-nap-s0-20250101-120500"],
         ["dqn-Breakout-utd8-s0", "dqn-Breakout-utd8-nap-s0"]),
        (["dqn-Breakout-utd8-s0-20250101-120000", "dqn-Breakout-utd8-s0-20250101-120500"], ["120000", "120500"]),
        ([f"dqn-Breakout-utd8-redo_period_{p}_tau_0.1-nap-s{s}-20250101-12000{s}" for p in (1, 2) for s in (0, 1)],
         [f"redo_period_{p}_tau_0.1-nap-s{s}" for p in (1, 2) for s in (0, 1)]),
        (["dqn lr=1e-3 n_step=3 gamma=0.99 cycles=4", "dqn+nap lr=1e-4 n_step=3 gamma=0.99 cycles=4"],
         ["lr=1e-3", "nap lr=1e-4"]),
        (["examples.new_method:MyMethod", "redo"], ["examples.new_method:MyMethod", "redo"]),
        (["a" * 126 + "b", "a" * 126 + "c"], ["a" * 126 + "b", "a" * 126 + "c"]),
    ],
)  # fmt: skip
def test_names_are_shortened_by_what_differs(names, expected):
    assert short_names(names) == expected


def test_dashes_divide_the_names_of_runs_and_not_those_of_arms_nor_numbers():
    run = "rainbow-Breakout-utd8-l2-init_strength_1e-3-s0"
    assert short_names([run, run.replace("e-3", "e-4")]) == ["init_strength_1e-3", "init_strength_1e-4"]
    arm = "rainbow+redo:period=1000,tau=0.1+l2-init:strength=1e-3"
    assert short_names([arm, arm.replace("e-3", "e-4")]) == ["l2-init:strength=1e-3", "l2-init:strength=1e-4"]
    assert short_names([arm]) == [arm]
