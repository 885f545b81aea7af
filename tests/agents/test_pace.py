"""The time left of a training run, against a clock that is simulated."""

from fractions import Fraction

import pytest

from agents.training.pace import SETTLED, Pace
from agents.training.update_scheduler import UpdateScheduler

PLAY, UPDATE, COMPILE = 0.002, 0.05, 53.0
"""Seconds of a step without updates, of an update, and of compiling."""


class Simulated:
    """A run whose steps take simulated time."""

    def __init__(self, utd=8, budget=20_000, start=1_600, ready=0, step=0, num_envs=1):
        self.update_scheduler = UpdateScheduler(Fraction(utd), start)
        self.budget, self.ready, self.num_envs = budget, ready, num_envs
        self.agent_step, self.now = step, 0.0
        self.updates = self.update_scheduler.total(step)
        self.compiled = False
        self.pace = Pace(self, clock=lambda: self.now)

    @property
    def steps_left(self):
        return self.budget - self.agent_step

    @property
    def updates_left(self):
        return self.update_scheduler.total(self.budget) - self.updates

    def step(self):
        self.agent_step += self.num_envs
        self.now += PLAY * self.num_envs
        due = self.update_scheduler.due(self.agent_step, self.updates) if self.agent_step >= self.ready else 0
        if due and not self.compiled:
            self.now += COMPILE
            self.compiled = True
        self.now += UPDATE * due
        self.updates += due
        self.pace.note()

    def true_left(self):
        compiling = 0.0 if self.compiled else COMPILE
        return PLAY * self.steps_left + UPDATE * self.updates_left + compiling

    def estimates(self):
        """(seconds since the first update's step ended, estimate, truth) after every step."""
        learned = None
        while self.steps_left:
            self.step()
            if learned is None and self.compiled:
                learned = self.now
            yield None if learned is None else self.now - learned, self.pace.seconds_left(), self.true_left()


@pytest.mark.parametrize("utd", ["8", "1", "1/4", "3/7", "1/500"])
def test_nothing_is_promised_before_updates_and_the_truth_after(utd):
    estimates = 0
    for learning, estimate, truth in Simulated(utd=utd).estimates():
        if learning is None or learning < SETTLED:
            assert estimate is None
        elif learning > (20.0 if utd == "1/500" else SETTLED):
            assert estimate == pytest.approx(truth, rel=0.1, abs=1.0)
            estimates += 1
    assert estimates > 100


def test_it_says_why_it_promises_nothing():
    run = Simulated()
    for _ in range(1_000):
        run.step()
    assert str(run.pace) == "time left unknown until updates begin, 500/s"
    assert run.pace.first_estimate() is None
    while run.updates < 120:
        run.step()
    assert run.pace.seconds_left() == pytest.approx(run.true_left(), rel=0.02)
    words = str(run.pace).split()[0]
    assert words.startswith("2:0")  # 147,080 updates of 50 ms, and a little play
    assert run.pace.first_estimate() == f"first estimate: {words} for the 147,080 updates that are left, at 19.9/s"


def test_a_run_that_ends_before_anything_can_be_foretold_has_no_time_left():
    run = Simulated(utd=1, budget=1_650)
    while run.steps_left:
        run.step()
    assert str(run.pace).startswith("0:00:00 left")
    assert run.pace.first_estimate() is None


def test_a_resumed_run_needs_no_steps_without_updates():
    """It has made 67,200 updates, and compiles again."""
    run, estimates = Simulated(step=10_000), 0
    assert run.updates == 67_200
    for learning, estimate, truth in run.estimates():
        if learning < SETTLED:
            assert estimate is None
        else:
            assert estimate == pytest.approx(truth, rel=0.02, abs=1.0)
            estimates += 1
    assert estimates > 100


def test_updates_that_waited_for_the_replay_are_no_rule():
    """Updates are earned from step 0 on, and made from 500 on: 4,000 in one step, which also compiles."""
    for learning, estimate, truth in Simulated(start=0, ready=500).estimates():
        if learning is not None and learning > SETTLED:
            assert estimate == pytest.approx(truth, rel=0.05, abs=1.0)


def test_a_machine_that_slows_down_is_noticed():
    run = Simulated(utd=1, budget=100_000)
    for _ in range(6_000):
        run.step()
    before = run.pace.seconds_left()
    per_step = before / run.steps_left
    for _ in range(2_000):
        run.now += 0.1
        run.step()
    assert run.pace.seconds_left() == pytest.approx((per_step + 0.1) * run.steps_left, rel=0.02)


def test_a_step_that_is_slower_than_its_updates_is_no_negative_time():
    """Play was slow before the updates, and the steps that make them are faster."""
    run = Simulated(utd="1/8", budget=100_000)
    while not run.compiled:
        run.now += 1.0
        run.step()
    for _ in range(4_000):
        run.step()
    assert run.pace.seconds_left() == pytest.approx(run.true_left(), rel=0.05)


def test_nothing_is_left_at_the_end_of_a_run_too_short_for_an_estimate():
    run = Simulated(budget=1_610)
    *before, (_, last, _) = run.estimates()
    assert all(estimate is None for _, estimate, _ in before)
    assert last == 0
    assert str(run.pace).startswith("0:00:00 left, ")
