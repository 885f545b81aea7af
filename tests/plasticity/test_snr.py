"""SNR against its authors' algorithm, unit by unit, in examples as they count."""

import numpy as np
import pytest
import torch

from plasticity.loops import Loop, cnn, mlp
from plasticity.snr import SNR, _Record

BATCH = 4


class Unit:
    """One unit as the authors' code keeps it: ages, threshold and histogram in examples."""

    def __init__(self, longest):
        self.longest = longest * BATCH
        self.age, self.threshold = 0, self.longest // 2
        self.histogram = [0] * (self.longest + 1)

    def observe(self, fires):
        if fires:
            self.histogram[min(self.age, self.longest)] += 1
            self.age = 0
        else:
            self.age += BATCH

    def test(self):
        if self.age < self.threshold:
            return False
        self.histogram[min(self.age, self.longest)] += 1
        self.age = 0
        return True

    def revise(self, percentile, growth):
        total, below, found = sum(self.histogram[1:]), 0, 1
        for age in range(1, self.longest + 1):
            below += self.histogram[age]
            if total and np.float32(below) / np.float32(total) >= percentile:
                found = age
                break
        new = found if found < self.threshold else int(growth * self.threshold)
        self.threshold = max(BATCH, min(new, self.longest))
        self.histogram = [0] * (self.longest + 1)


@pytest.mark.parametrize("period", [1, 3])
@pytest.mark.parametrize(("percentile", "growth"), [(0.5, 2.0), (0.99, 2.0), (0.9, 3.0), (0.0, 1.0)])
def test_ages_limits_and_tests_are_the_authors(percentile, growth, period):
    rng, units, longest = np.random.default_rng(1), 12, 20
    record, literal = _Record(units, longest, torch.device("cpu")), [Unit(longest) for _ in range(units)]
    rates = np.linspace(0, 1, units)
    recycled = 0
    for update in range(1, 300):
        fires = rng.random(units) < (rates if update < 150 else rates[::-1])  # some fall silent half-way
        h = torch.zeros(BATCH, units)
        h[update % BATCH] = torch.from_numpy(fires.astype(np.float32))
        record.observe(h, 0.0)
        for unit, fired in zip(literal, fires, strict=True):
            unit.observe(fired)
        if update % period == 0:
            due = [unit.test() for unit in literal]
            assert record.retire().tolist() == due
            recycled += sum(due)
        if update % 16 == 0:
            record.revise(percentile, growth)
            for unit in literal:
                unit.revise(np.float32(percentile), growth)
        assert (record.age * BATCH).tolist() == [unit.age for unit in literal]
        assert (record.limit * BATCH).tolist() == [unit.threshold for unit in literal]
    assert recycled > 10


@pytest.mark.parametrize("shape", [(3, 2), (3, 2, 4, 4)])
def test_a_unit_fires_above_the_level_at_any_input_and_position(shape):
    h = torch.zeros(shape)
    h[1, 1].fill_(0.0)
    h[(2, 1) + (3,) * (len(shape) - 2)] = 0.5
    for level, ages in ((0.0, [1, 0]), (0.5, [1, 1])):
        record = _Record(2, 10, torch.device("cpu"))
        record.observe(h, level)
        assert record.age.tolist() == ages


@pytest.mark.parametrize("build", [mlp, cnn])
def test_silent_units_alone_are_recycled_at_their_limit(build):
    loop = Loop(build, method := SNR(longest=6))
    layer = method.layers[0]
    with torch.no_grad():
        layer.bias.parameter[2] = -1e4
    for _ in range(2):
        loop.step()
    before, row = layer.weight.values.detach().clone(), layer.weight.values[2].detach().clone()
    assert not layer.columns[0].values[2].eq(0).all()
    loop.learn()
    kept = layer.weight.values.detach().clone()
    loop.after()  # the third silent update
    now = layer.weight.values.detach()
    others = [unit for unit in range(layer.units) if unit != 2]
    assert torch.equal(now[others], kept[others])
    assert not torch.equal(now[2], row)
    assert now[2].abs().max() <= 1 / layer.fan_in**0.5
    assert layer.bias.parameter[2] == 0
    assert all(slot.values[2].eq(0).all() for slot in layer.columns)
    state = loop.optimizer.state[layer.incoming.weight]
    assert state["exp_avg"][2].eq(0).all()
    assert state["exp_avg"][others].ne(0).any()
    assert before.shape == now.shape


def test_a_unit_that_never_fires_has_the_limit_1_after_the_first_change_of_limits():
    loop = Loop(mlp, method := SNR(revise=4))
    dead, limits, ages = 2, [], []
    with torch.no_grad():
        loop.network[0].bias[dead] = -1e4
    for _ in range(5):
        loop.step()
        limits.append(int(method.records[0].limit[dead]))
        ages.append(int(method.records[0].age[dead]))
    assert limits == [312, 312, 312, 1, 1]
    assert ages == [1, 2, 3, 4, 0]


@pytest.mark.parametrize("growth", [3.0, 1e38, 3e38])
def test_a_limit_that_grows_stops_at_the_longest(growth):
    record = _Record(1, 1_000, torch.device("cpu"))
    record.ends[:, 1_000] = 1
    record.revise(0.99, growth)
    assert record.limit.tolist() == [1_000]


def test_its_limits_are_a_part_of_the_checkpoint():
    first, second = (SNR(level=0.5, longest=4, revise=2) for _ in range(2))
    loop, other = Loop(mlp, first).run(5), Loop(mlp, second)
    other.load(loop.state())
    for one, two in zip(first.records, second.records, strict=True):
        assert all(torch.equal(value, vars(two)[name]) for name, value in vars(one).items())
        assert one.age is not two.age


@pytest.mark.parametrize("options", [{"longest": 0}, {"longest": 100_001}, {"growth": 0.5}, {"revise": 0}])
def test_a_number_out_of_its_range_is_named(options):
    with pytest.raises(ValueError, match=rf"^snr: {next(iter(options))}="):
        SNR(**options)
