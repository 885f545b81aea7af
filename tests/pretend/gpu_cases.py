"""The sections of `benchmarks.gpu` on the pretend device."""

from functools import partial

from tests.pretend.trainers import HERE

# ruff: isort: split
from benchmarks.speed import gpu_sections, learners
from benchmarks.speed.gpu_sections import CASES, Task
from benchmarks.speed.learners import update_block
from tests.pretend_device import waits

THERE = Task(HERE, lambda: 1e9)
learners.STEPS, learners.BATCH, learners.BLOCK = 100, 2, 2
del CASES["DQN, Nature network"]  # slow on a CPU, and no other code


def test_every_learner_is_correct():
    assert [finding.passed for finding in gpu_sections.correctness(THERE)] == [True] * len(CASES)


def test_replays_are_compared():
    def called(agent, block):
        update_block(agent, block)
        return partial(update_block, agent, block)

    with waits() as found:
        findings = list(gpu_sections.graph(THERE, called))
    assert [finding.passed for finding in findings] == [True] * len(gpu_sections.GRAPHED)
    assert "nonzero" not in found


def test_no_learner_waits():
    assert {finding.passed for finding in gpu_sections.waits(THERE)} == {True}
