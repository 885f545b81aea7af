"""Which images each phase has, and with which labels."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from studies.warm_start.config import FRACTIONS, WarmStartConfig
from studies.warm_start.protocols import make_protocol

PROTOCOLS = st.sampled_from(list(FRACTIONS))


def made(name, count=200, classes=10, seed=0, **settings):
    config = replace(WarmStartConfig(), protocol=name, schedule="constant", **settings).resolved()
    labels = torch.arange(count) % classes
    return make_protocol(config, labels, classes, seed), labels


@settings(deadline=None, max_examples=60)
@given(PROTOCOLS, st.integers(1, 500), st.integers(0, 2**31 - 1))
def test_phases_are_nested_and_end_with_everything(name, count, seed):
    protocol, _ = made(name, count, seed=seed)
    assert protocol.phases[-1].sort().values.tolist() == list(range(count))
    for earlier, later in zip(protocol.phases, protocol.phases[1:], strict=False):
        assert earlier.tolist() == later[: len(earlier)].tolist()
    assert all(len(phase) for phase in protocol.phases)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("lyle10", [5_000, 50_000]),
        ("ash50", [25_000, 50_000]),
        ("lee10noisy", [5_000, 50_000]),
        ("increments", list(range(5_000, 50_001, 5_000))),
    ],
)
def test_sizes(name, sizes):
    protocol, _ = made(name, 50_000)
    assert [len(phase) for phase in protocol.phases] == sizes
    assert protocol.enough == (0.99 if name == "ash50" else None)
    everything, _ = made(name, 50_000, fraction=1.0)
    assert [len(phase) for phase in everything.phases] == [50_000] * len(sizes)


@settings(deadline=None, max_examples=30)
@given(st.floats(0.001, 1), st.integers(1, 300))
def test_a_share_is_that_of_the_images(fraction, count):
    protocol, _ = made("lyle10", count, fraction=fraction)
    assert len(protocol.phases[0]) == max(1, round(fraction * count))


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 10), st.integers(20, 400), st.integers(0, 1000), st.sampled_from([0.1, 1.0]))
def test_half_of_a_tenth_is_wrong_and_nothing_else(classes, count, seed, fraction):
    protocol, labels = made("lee10noisy", count, classes, seed, fraction=fraction)
    wrong = (protocol.labels != labels).nonzero().flatten()
    first = made("lee10noisy", count, classes, seed)[0].phases[0]
    assert len(first) == max(round(count / 10), 1)
    assert len(wrong) == round(0.5 * len(first))
    assert set(wrong.tolist()) <= set(first.tolist())
    assert protocol.labels.min() >= 0
    assert protocol.labels.max() < classes


def test_wrong_labels_are_uniform_over_the_other_classes():
    protocol, labels = made("lee10noisy", 200_000, 5)
    wrong = protocol.labels != labels
    shift = (protocol.labels[wrong] - labels[wrong]) % 5
    assert shift.bincount(minlength=5)[1:].float() / len(shift) == pytest.approx([0.25] * 4, abs=0.02)


def test_what_has_everything_at_once_has_the_same_labels():
    assert torch.equal(made("lee10noisy")[0].labels, made("lee10noisy", fraction=1.0)[0].labels)


@pytest.mark.parametrize("name", FRACTIONS)
def test_the_seed_decides(name):
    one, again, other = (made(name, seed=seed)[0] for seed in (1, 1, 2))
    assert all(map(torch.equal, one.phases, again.phases))
    assert torch.equal(one.labels, again.labels)
    assert not torch.equal(one.phases[0], other.phases[0])
    if name != "lee10noisy":
        assert torch.equal(one.labels, made(name)[1])
