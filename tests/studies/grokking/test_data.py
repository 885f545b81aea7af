"""The tasks: their tables, their splits."""

from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from experiment.config import ConfigError
from studies.grokking.data import make_task


def table(operation, modulus=7):
    task = make_task(operation, modulus, 0.5, 0)
    return {(x, y): z for (x, y), z in zip(task.pairs.tolist(), task.answers.tolist(), strict=True)}


@given(modulus=st.integers(2, 23), x=st.integers(0, 22), y=st.integers(0, 22))
def test_tables_are_arithmetic(modulus, x, y):
    x, y = x % modulus, y % modulus
    assert table("add", modulus)[x, y] == (x + y) % modulus
    assert table("sub", modulus)[x, y] == (x - y) % modulus
    assert table("mul", modulus)[x, y] == x * y % modulus


@pytest.mark.parametrize("modulus", [2, 3, 7, 13])
def test_division_undoes_multiplication_and_leaves_out_zero(modulus):
    quotients = table("div", modulus)
    assert len(quotients) == modulus * (modulus - 1)
    assert all(z * y % modulus == x for (x, y), z in quotients.items())


def test_s5_is_the_symmetric_group():
    product = table("s5")
    elements = list(permutations(range(5)))
    identity = elements.index((0, 1, 2, 3, 4))
    assert all(product[identity, i] == product[i, identity] == i for i in range(120))
    assert all(sorted(product[i, j] for j in range(120)) == list(range(120)) for i in range(120))
    draw = torch.randint(120, (500, 3), generator=torch.Generator().manual_seed(0)).tolist()
    assert all(product[product[a, b], c] == product[a, product[b, c]] for a, b, c in draw)
    assert any(product[a, b] != product[b, a] for a, b, _ in draw)
    a, b = (1, 0, 2, 3, 4), (0, 2, 1, 3, 4)
    assert elements[product[elements.index(a), elements.index(b)]] == (1, 2, 0, 3, 4)  # first b, then a


@given(fraction=st.floats(0.1, 0.9), seed=st.integers(0, 99))
def test_a_split_parts_all_ordered_pairs(fraction, seed):
    task = make_task("add", 11, fraction, seed)
    assert len(task.train) == round(fraction * 121)
    assert sorted(task.train.tolist() + task.test.tolist()) == list(range(121))
    again = make_task("add", 11, fraction, seed)
    assert torch.equal(task.train, again.train)


def test_the_default_task_has_the_papers_sizes_and_floor():
    task = make_task("add", 117, 0.2, 0)
    assert (len(task.train), len(task.test)) == (2738, 10951)
    assert task.symmetric_floor() == pytest.approx(0.2, abs=0.02)
    assert not torch.equal(task.train, make_task("add", 117, 0.2, 1).train)


def test_the_floor_counts_mirrored_training_pairs():
    task = make_task("add", 5, 0.4, 3)
    train = {tuple(task.pairs[i].tolist()) for i in task.train}
    mirrored = [tuple(reversed(task.pairs[i].tolist())) in train for i in task.test]
    assert task.symmetric_floor() == pytest.approx(sum(mirrored) / len(mirrored))
    assert make_task("sub", 5, 0.4, 3).symmetric_floor() == 0  # x - y is y - x for x = y alone


def test_an_empty_side_is_refused():
    with pytest.raises(ConfigError, match="none to train or none to test"):
        make_task("add", 3, 0.01, 0)
