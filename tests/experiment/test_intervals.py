from hypothesis import given
from hypothesis import strategies as st

from experiment.intervals import default_interval


@given(budget=st.integers(1, 10**9), parts=st.integers(1, 1_000), low=st.integers(1, 100), more=st.integers(0, 10**5))
def test_an_interval_is_plain_and_gives_about_so_many_parts(budget, parts, low, more):
    found = default_interval(budget, parts, low, low + more)
    assert low <= found <= low + more
    if low < found < low + more:
        assert str(found).strip("0") in ("1", "2", "5")
        assert parts <= budget / found < 3 * parts + 3


@given(budgets=st.tuples(st.integers(1, 10**9), st.integers(1, 10**9)), parts=st.integers(1, 1_000))
def test_a_longer_run_never_has_a_shorter_interval(budgets, parts):
    shorter, longer = (default_interval(budget, parts, 1, 10**9) for budget in sorted(budgets))
    assert shorter <= longer
