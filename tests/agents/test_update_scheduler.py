from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.training.update_scheduler import UpdateScheduler


@pytest.mark.parametrize("utd", [Fraction("0.25"), Fraction(1), Fraction(3, 7), Fraction(8)])
@pytest.mark.parametrize("num_envs", [1, 2, 8])
def test_updates_are_the_floor_of_utd_times_steps_after_the_start(utd, num_envs):
    scheduler, updates = UpdateScheduler(utd, start=50), 0
    for agent_step in range(num_envs, 1000, num_envs):
        updates += scheduler.due(agent_step, updates)
        assert updates == (utd.numerator * max(agent_step - 50, 0)) // utd.denominator


@given(
    st.builds(Fraction, st.integers(1, 500), st.integers(1, 97)),
    st.integers(0, 100),
    st.lists(st.integers(1, 30), min_size=1, max_size=40),
    st.integers(0, 39),
)
def test_nothing_is_lost_or_owed_twice_when_updates_wait_or_a_run_resumes(utd, start, strides, paused_at):
    scheduler, agent_step, updates = UpdateScheduler(utd, start), 0, 0
    for i, stride in enumerate(strides):
        agent_step += stride
        due = scheduler.due(agent_step, updates)
        assert due >= 0
        if i != paused_at:
            updates += due
    updates += scheduler.due(agent_step, updates)
    assert updates == scheduler.total(agent_step) == int(utd * max(agent_step - start, 0))
