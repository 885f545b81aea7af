import math
import struct
from fractions import Fraction
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from torch.utils._python_dispatch import TorchDispatchMode

from replay.sum_tree import SumTree

WILD = st.sampled_from([0.0, 1e-45, 1e-30, 1e-7, 0.3, 1.0, 7.0, 1e7, 1e30])


def float32(value: float) -> float:
    return struct.unpack("f", struct.pack("f", value))[0]


def doubles(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def reference_find(priorities: list[float], mass: Fraction) -> int:
    upto = Fraction(0)
    for index, priority in enumerate(priorities):
        upto += Fraction(priority)
        if max(mass, Fraction(0)) < upto:
            return index
    return max(index for index, priority in enumerate(priorities) if priority)


class AgainstList(RuleBasedStateMachine):
    """The tree against a list of floats; whole numbers and halves are summed exactly by both."""

    values = WILD
    exact = False

    @initialize(capacity=st.integers(1, 40), branching=st.integers(2, 6))
    def build(self, capacity, branching):
        self.tree, self.list = SumTree(capacity, branching=branching), [0.0] * capacity

    @rule(data=st.data())
    def set(self, data):
        index = data.draw(st.lists(st.integers(0, len(self.list) - 1), min_size=1, max_size=12))
        priority = data.draw(st.lists(self.values, min_size=len(index), max_size=len(index)))
        keep = data.draw(st.none() | st.lists(st.booleans(), min_size=len(index), max_size=len(index)))
        self.tree.set(torch.tensor(index), torch.tensor(priority), None if keep is None else torch.tensor(keep))
        for i, p, k in zip(index, priority, keep or [True] * len(index), strict=True):
            self.list[i] = float32(p) if k else self.list[i]

    @rule(data=st.data())
    def set_range(self, data):
        first, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(self.list))] * 2)))
        priority = data.draw(self.values)
        self.tree.set_range(first, stop, torch.tensor(priority))
        self.list[first:stop] = [float32(priority)] * (stop - first)

    @rule()
    def saved_and_loaded(self):
        other = SumTree(self.tree.capacity, branching=self.tree.branching)
        other.load_state_dict(self.tree.state_dict())
        self.tree = other

    @rule(share=st.lists(st.floats(-0.1, 1.1), min_size=1, max_size=8))
    def find(self, share):
        total = sum(map(Fraction, self.list))
        masses = [s * float(total) for s in share]
        found = self.tree.find(doubles(masses)).tolist()
        if not total:
            assert found == [0] * len(found)
            return
        for mass, index in zip(masses, found, strict=True):
            assert self.list[index] > 0
            if self.exact:
                assert index == reference_find(self.list, Fraction(mass))
            below, error = sum(map(Fraction, self.list[:index])), total * Fraction(1e-14)
            mass = min(max(Fraction(mass), Fraction(0)), total)
            assert below - error <= mass <= below + Fraction(self.list[index]) + error

    @invariant()
    def agrees(self):
        self.tree.check()
        assert self.tree.get(torch.arange(len(self.list))).tolist() == self.list
        assert self.tree.total().item() == pytest.approx(float(sum(map(Fraction, self.list))), rel=1e-14, abs=0)


class AgainstListExactly(AgainstList):
    values = st.sampled_from([0.0, 0.5, 1.0, 2.0, 1024.0])
    exact = True


TestWild = AgainstList.TestCase
TestExact = AgainstListExactly.TestCase
TestWild.settings = TestExact.settings = settings(max_examples=30, stateful_step_count=12, deadline=None)


def parallel_cumsum(values: torch.Tensor, dim: int, dtype: torch.dtype) -> torch.Tensor:
    """As a device adds, in log2(n) steps (Hillis and Steele 1986): rounded otherwise than one by one."""
    sums = values.to(dtype, copy=True)
    for step in (1 << i for i in range((sums.shape[dim] - 1).bit_length())):
        sums = torch.cat([sums[:, :step], sums[:, step:] + sums[:, :-step]], 1)
    return sums


@given(
    st.lists(WILD, min_size=1, max_size=300).filter(any),
    st.sampled_from([2, 3, 128]),
)
@settings(max_examples=40, deadline=None)
def test_rounding_at_the_edges_finds_no_priority_of_zero(priorities, branching):
    tree = SumTree(len(priorities), branching=branching)
    tree.set_range(0, len(priorities), torch.tensor(priorities))
    total = tree.total()
    sums = torch.tensor(priorities, dtype=torch.float64).cumsum(0)
    edges = torch.cat([sums, total.view(1), total.view(1) * 2, doubles([0.0, -1.0, 5e-324, float("inf")])])
    up, down = (torch.nextafter(edges, doubles([to])) for to in (float("inf"), float("-inf")))
    assert (tree.get(tree.find(torch.cat([edges, up, down]))) > 0).all()


def test_a_device_that_adds_in_parallel_finds_no_priority_of_zero():
    random = torch.Generator().manual_seed(0)
    priority = 10 ** (torch.rand(1000, generator=random) * 20 - 10) * (torch.rand(1000, generator=random) < 0.3)
    tree = SumTree(1000, branching=1001)
    tree.set_range(0, 1000, priority)
    sums = parallel_cumsum(priority.view(1, -1), 1, torch.float64)[0]
    assert (sums.diff()[priority[1:] == 0] != 0).any()
    with patch.object(torch.Tensor, "cumsum", parallel_cumsum):
        found = tree.find(sums)
    assert (priority[found] > 0).all()


class Writes(TorchDispatchMode):
    """Records the indices of every scattered write."""

    def __init__(self) -> None:
        super().__init__()
        self.indices: list[list[int]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.name().startswith("aten::index_put_"):
            self.indices.append(args[1][0].tolist())
        return func(*args, **(kwargs or {}))


def test_no_priority_is_written_twice_in_one_scatter():
    """Which of two writes lasts is chance on a CUDA device, so it has to be settled before."""
    tree = SumTree(300)
    index = torch.tensor([5, 200, 5, 7, 200, 5])
    with Writes() as writes:
        tree.set(index, torch.arange(6.0), index != 7)
    assert sorted(writes.indices[0]) == [5, 200, *[300] * 4]
    assert tree.get(torch.tensor([5, 7, 200])).tolist() == [5.0, 0.0, 4.0]


def test_found_indices_have_the_shape_of_the_masses():
    tree = SumTree(3)
    tree.set(torch.tensor([[0, 1], [2, 2]]), torch.tensor([[1.0, 2.0], [9.0, 1.0]]))
    assert tree.find(doubles([0.5, 1.0, 2.9, 3.0, 3.9, 4.0]).view(2, 1, 3)).tolist() == [[[0, 1, 1]], [[2, 2, 2]]]


@pytest.mark.parametrize("capacity", [1, 127, 128, 129, 128 * 128 - 1, 128 * 128])
def test_capacities_around_full_levels(capacity):
    tree = SumTree(capacity)
    tree.set_range(0, capacity, torch.tensor(1.0))
    at = torch.arange(0, capacity, max(1, capacity // 100))
    assert torch.equal(tree.find(at.double() + 0.5), at)
    tree.set(torch.tensor([capacity - 1]), torch.tensor([3.0]))
    assert tree.find(doubles([capacity + 1.9])).item() == capacity - 1
    tree.check()
    with pytest.raises(ValueError, match=f"must lie in 0..{capacity}, the tree's capacity, got 0..{capacity + 1}"):
        tree.set_range(0, capacity + 1, torch.tensor(1.0))


def test_a_million_leaves_are_found_in_proportion():
    """Chi-square over 100 groups of leaves of priorities from 1e-3 to 1e3, after many writes."""
    capacity, draws = 1_000_000, 30_000
    random = torch.Generator().manual_seed(0)
    priority = 10 ** (torch.rand(capacity, generator=random) * 6 - 3)
    tree = SumTree(capacity)
    tree.set_range(0, capacity, priority)
    for _ in range(5):
        index = torch.randint(capacity, (3_000,), generator=random)
        tree.set(index, priority[index.flip(0)])
        priority[index] = priority[index.flip(0)]
    priority = tree.get(torch.arange(capacity)).double()
    assert tree.total().item() == pytest.approx(priority.sum().item(), rel=1e-13)
    mass = torch.rand(draws, dtype=torch.float64, generator=random) * tree.total()
    found = tree.find(mass)
    upto = priority.cumsum(0)
    assert ((found - torch.searchsorted(upto, mass, right=True)).abs() <= 1).all()
    expected = priority.view(100, -1).sum(1) / tree.total() * draws
    counts = torch.bincount(found // 10_000, minlength=100)
    assert ((counts - expected) ** 2 / expected).sum() < 99 + 4 * math.sqrt(2 * 99)


def test_a_tree_written_in_parts_has_the_bits_of_one_written_at_once():
    random = torch.Generator().manual_seed(1)
    priority = torch.rand(20_000, generator=random)
    parts, whole = SumTree(20_000), SumTree(20_000)
    whole.set_range(0, 20_000, priority)
    for index in torch.randperm(20_000, generator=random).split(700):
        parts.set(index, priority[index])
    for one, other in zip(parts.state_dict()["levels"], whole.state_dict()["levels"], strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("level", "at", "value", "message"),
    [
        (0, 3, float("nan"), "NaN or infinite"),
        (0, 3, -1.0, "negative"),
        (0, 10, 1.0, "beyond the capacity"),
        (0, 3, 7.0, "1 levels above"),
        (1, 3, 7.0, "without children|1 levels above"),
        (-1, 0, 7.0, "levels above"),
    ],
)
def test_check_names_the_broken_invariant(level, at, value, message):
    tree = SumTree(10, branching=3)
    tree.set_range(0, 10, torch.tensor(1.0))
    tree._flat[level][at] = value
    with pytest.raises(AssertionError, match=message):
        tree.check()


def test_errors_say_what_would_be_right():
    for arguments, message in (((0,), "capacity must be at least 1, got 0"), ((5, "cpu", 1), "branching must be")):
        with pytest.raises(ValueError, match=message):
            SumTree(*arguments)
    with pytest.raises(ValueError, match="the saved sum tree has capacity 5, this one 6"):
        SumTree(6).load_state_dict(SumTree(5).state_dict())
