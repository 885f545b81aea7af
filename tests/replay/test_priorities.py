import math

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from torch.utils._python_dispatch import TorchDispatchMode

from replay.priorities import Priorities, importance_weights

ERRORS = st.sampled_from([0.0, -2.0, 1e-30, 1e-7, 0.3, 1.0, -7.0, 1e7, 1e30, math.nan, math.inf])


def made(capacity: int, low: int = 0, high: int | None = None, seed: int = 0, **settings: float) -> Priorities:
    priorities = Priorities(capacity, torch.Generator().manual_seed(seed), **settings)
    priorities.set_legal(low, capacity if high is None else high)
    return priorities


class AgainstDict(RuleBasedStateMachine):
    """Several environments on a ring, n-steps that change, late updates: against a dict of every step ever legal."""

    @initialize(num_envs=st.integers(1, 3), rows=st.integers(3, 9))
    def build(self, num_envs, rows):
        self.num_envs, self.rows, self.head, self.n_step = num_envs, rows, 0, 1
        self.ring = (rows + 1) * num_envs
        self.priorities = made(self.ring, 0, 0, alpha=0.6, epsilon=1e-3)
        self.priority, self.highest, self.legal, self.drawn = {}, 1.0, range(0), []

    def move(self):
        low = max(0, self.head - self.rows + 2 if self.head > self.rows else 0) * self.num_envs
        high = (self.head - self.n_step + 1) * self.num_envs
        self.priorities.set_legal(low, high)
        self.legal = range(low, max(low, high))
        for step in self.legal:
            self.priority.setdefault(step, self.highest)

    @rule(rows=st.integers(1, 12))
    def add(self, rows):
        self.head += rows
        self.move()

    @rule(n_step=st.integers(1, 5))
    def change_n(self, n_step):
        self.n_step = n_step
        self.move()

    @rule(num_batches=st.integers(1, 3))
    def sample(self, num_batches):
        if not self.legal:
            with pytest.raises(ValueError, match="no step is a legal start"):
                self.priorities.sample(4)
            return
        steps, weights = self.priorities.sample(4, num_batches, beta=0.4)
        assert steps.shape == weights.shape == (num_batches, 4)
        for batch, of_batch in zip(steps.tolist(), weights.tolist(), strict=True):
            total = sum(self.priority[step] for step in self.legal)
            weight = [(len(self.legal) * self.priority[step] / total) ** -0.4 for step in batch]
            assert of_batch == pytest.approx([w / max(weight) for w in weight], rel=1e-5)
            assert set(batch) <= set(self.legal)
        self.drawn += steps.flatten().tolist()

    @rule(data=st.data())
    def update(self, data):
        """Steps drawn at any time before, some of them overwritten by now, some given twice."""
        steps = data.draw(st.lists(st.sampled_from(self.drawn), min_size=1, max_size=9)) if self.drawn else [0]
        errors = torch.tensor(data.draw(st.lists(ERRORS, min_size=len(steps), max_size=len(steps))))
        self.priorities.update(torch.tensor(steps), errors)
        for step, error in zip(steps, errors.tolist(), strict=True):
            priority = (abs(error) + 1e-3) ** 0.6
            if step in self.legal and math.isfinite(priority):
                self.priority[step] = priority
                self.highest = max(self.highest, priority)

    @rule()
    def resume(self):
        other = Priorities(self.ring, self.priorities.generator, alpha=0.6, epsilon=1e-3)
        other.load_state_dict(self.priorities.state_dict())
        self.priorities = other

    @invariant()
    def agrees(self):
        self.priorities.check()
        found = self.priorities.get(torch.tensor(self.legal, dtype=torch.int64)).tolist()
        assert found == pytest.approx([self.priority[step] for step in self.legal], rel=1e-6)


TestAgainstDict = AgainstDict.TestCase
TestAgainstDict.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)


@pytest.mark.parametrize("capacity", [50, 1_000_000])
def test_steps_are_drawn_in_proportion_to_their_priorities(capacity):
    """Chi-square over 100 groups of steps, more or less; each batch of 32 is stratified, so it varies a little less."""
    low, high = capacity // 2, capacity + capacity // 4
    priorities = made(capacity, low, high)
    share = 10 ** (torch.rand(high - low, generator=torch.Generator().manual_seed(3)) * 2 - 1)
    priorities.tree.set_range(low, capacity, share[: capacity - low])
    priorities.tree.set_range(0, high - capacity, share[capacity - low :])
    drawn = torch.cat([priorities.sample(32, 64)[0].flatten() for _ in range(10)])
    size = -(-len(share) // 100)
    expected = torch.stack([part.double().sum() for part in share.split(size)])
    expected *= len(drawn) / expected.sum()
    counts = torch.bincount((drawn - low) // size, minlength=len(expected))
    freedom = len(expected) - 1
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < freedom + 4 * math.sqrt(2 * freedom)


def test_each_minibatch_is_stratified_on_its_own():
    priorities = made(64)
    steps, weights = priorities.sample(64, 5)
    assert torch.equal(steps, torch.arange(64).expand(5, 64))
    assert torch.equal(weights, torch.ones(5, 64))


def test_weights_are_those_of_the_published_codes():
    priority = torch.rand(3, 32, generator=torch.Generator().manual_seed(0)) + 0.01
    for beta in (0.0, 0.4, 0.5, 1.0, torch.tensor(0.7)):
        schaul = (1000 * priority.double() / 77).pow(-float(beta))
        expected = (schaul / schaul.amax(-1, keepdim=True)).float()
        torch.testing.assert_close(importance_weights(priority, beta), expected)
    dopamine = 1 / (priority + 1e-10).sqrt()
    dopamine /= dopamine.amax(-1, keepdim=True)
    torch.testing.assert_close(importance_weights(priority, 0.5), dopamine)
    wild = importance_weights(torch.tensor([1e-30, 1.0, 1e30]), 0.5)
    torch.testing.assert_close(wild, torch.tensor([1.0, 1e-15, 1e-30]))


def test_a_block_written_at_once_is_its_minibatches_written_one_after_another():
    random = torch.Generator().manual_seed(0)
    steps = torch.randint(20, (8, 32), generator=random)
    errors = torch.randn(8, 32, generator=random)
    block, batches = made(20), made(20)
    block.update(steps, errors)
    for step, error in zip(steps, errors, strict=True):
        batches.update(step, error)
    assert torch.equal(block.get(torch.arange(20)), batches.get(torch.arange(20)))


def test_new_steps_get_the_highest_priority_ever_written_even_if_it_is_gone():
    priorities = made(10, 0, 4)
    assert priorities.get(torch.arange(10)).tolist() == [1.0] * 4 + [0.0] * 6
    priorities.update(torch.tensor([0]), torch.tensor([9.0]))
    priorities.update(torch.tensor([0]), torch.tensor([0.25]))
    priorities.set_legal(0, 5)
    assert priorities.get(torch.arange(5)).tolist() == pytest.approx([0.5, 1.0, 1.0, 1.0, 3.0])


def test_steps_that_were_illegal_for_a_while_get_their_own_priorities_back():
    """Across the end of the ring, and where the oldest of them are overwritten meanwhile."""
    priorities = made(10, 0, 8)
    priorities.set_legal(4, 12)
    priorities.update(torch.arange(4, 12), torch.arange(4, 12.0) ** 2)
    for low, high, expected in (
        (4, 6, [4, 5]),
        (4, 5, [4]),
        (8, 11, [8, 9, 10]),
        (8, 14, [8, 9, 10, 11, 11, 11]),
    ):
        priorities.set_legal(low, high)
        priorities.check()
        assert priorities.get(torch.arange(low, high)).tolist() == pytest.approx(expected)


def test_same_generator_same_draws():
    one, two, other = made(30, seed=1), made(30, seed=1), made(30, seed=2)
    for _ in range(3):
        drawn, weights = one.sample(16, 2)
        again, same = two.sample(16, 2)
        assert torch.equal(drawn, again)
        assert torch.equal(weights, same)
        assert not torch.equal(drawn, other.sample(16, 2)[0])
        for each in (one, two):
            each.update(drawn, weights * 3)


class Calls(TorchDispatchMode):
    """Records the name of every operation."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


def test_sampling_and_updating_read_nothing_back_and_have_fixed_shapes():
    priorities = made(1000)
    with Calls() as calls:
        steps, weights = priorities.sample(8, 2)
        priorities.update(steps, weights)
        priorities.set_legal(3, 1002)
    forbidden = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "_to_copy.device")
    assert not [name for name in calls.names if any(word in name for word in forbidden)]


def test_errors_say_what_would_be_right():
    for wrong, message in (
        ({"alpha": -1.0}, "alpha must be at least 0"),
        ({"epsilon": 0.0}, "epsilon must be positive"),
        ({"epsilon": 1e-30, "alpha": 2.0}, "would never be drawn again"),
    ):
        with pytest.raises(ValueError, match=message):
            made(5, **wrong)
    priorities = made(5, 2, 6)
    with pytest.raises(ValueError, match="low is 2 and cannot fall to 1"):
        priorities.set_legal(1, 6)
    with pytest.raises(ValueError, match="6 steps cannot be legal at once in a ring of 5"):
        priorities.set_legal(2, 8)
    with pytest.raises(ValueError, match="sum tree has capacity 5, this one 6"):
        made(6).load_state_dict(priorities.state_dict())


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda p: p._high.fill_(9), "host and device differ"),
        (lambda p: p.tree.set_range(3, 4, torch.tensor(0.0)), "a legal step is 0"),
        (lambda p: p.tree.set_range(0, 1, torch.tensor(1.0)), "not legal is not 0"),
        (lambda p: p._highest.fill_(0.5), "a step has a higher one"),
        (lambda p: p.tree._total.fill_(0.5), "sums"),
        (lambda p: p.__dict__.update(_kept=torch.zeros(1)), "kept priorities"),
    ],
)
def test_check_names_the_broken_invariant(break_it, message):
    priorities = made(10, 2, 8)
    priorities.check()
    break_it(priorities)
    with pytest.raises(AssertionError, match=message):
        priorities.check()
