import copy
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from plasticity.cbp import ContinualBackprop, _Record
from plasticity.layers import hidden_layers
from plasticity.loops import Loop, cnn, mlp


class Literal:
    """Algorithm 1 with loops over units: utilities, ages and replacements of one layer after the other."""

    def __init__(self, rate, maturity, decay, layers):
        self.rate, self.maturity, self.decay = rate, maturity, decay
        self.units = [[{"u": 0.0, "f": 0.0, "age": 0} for _ in range(n)] for n in layers]
        self.saved = [0.0 for _ in layers]
        self.replaced = []

    def update(self, network, optimizer, maps, features, draw):
        modules = dict(network.named_modules())
        for number, (layer, activation, reader, span) in enumerate(maps):
            units, h = self.units[number], features[activation]
            incoming, outgoing = modules[layer], modules[reader]
            for i, unit in enumerate(units):
                columns = outgoing.weight[:, i * span : (i + 1) * span]
                new = h[:, i].abs().mean().item() * columns.abs().mean().item()
                unit["u"] = self.decay * unit["u"] + (1 - self.decay) * new
                unit["f"] = self.decay * unit["f"] + (1 - self.decay) * h[:, i].mean().item()
                unit["age"] += 1
            eligible = [i for i, unit in enumerate(units) if unit["age"] > self.maturity]
            self.saved[number] += self.rate * len(eligible)
            count = int(self.saved[number])
            self.saved[number] -= count
            eligible.sort(key=lambda i: units[i]["u"] / (1 - self.decay ** units[i]["age"]))
            chosen = eligible[:count]
            if chosen:
                rows = draw(incoming, chosen)
            for row, i in enumerate(chosen):
                self.replaced.append((number, i))
                columns = slice(i * span, (i + 1) * span)
                mean = units[i]["f"] / (1 - self.decay ** units[i]["age"])
                outgoing.bias.data += outgoing.weight.data[:, columns].flatten(1).sum(1) * mean
                incoming.weight.data[i] = rows[row]
                incoming.bias.data[i] = 0
                outgoing.weight.data[:, columns] = 0
                for key in ("exp_avg", "exp_avg_sq"):
                    optimizer.state[incoming.weight][key][i] = 0
                    optimizer.state[incoming.bias][key][i] = 0
                    optimizer.state[outgoing.weight][key][:, columns] = 0
                units[i] |= {"u": 0.0, "f": 0.0, "age": 0}


@pytest.mark.parametrize(
    ("build", "maps"),
    [
        (mlp, [("0", "1", "2", 1), ("2", "3", "4", 1)]),
        (cnn, [("0", "1", "2", 1), ("2", "3", "5", 4), ("5", "6", "7", 1)]),
    ],
)
def test_twelve_updates_are_the_papers_algorithm(build, maps):
    method = ContinualBackprop(rate=0.04, maturity=3, decay=0.9)
    loop = Loop(build, method, kind=nn.GELU)  # dead units would tie
    literal = Literal(0.04, 3, 0.9, [loop.network.get_submodule(layer).weight.shape[0] for layer, *_ in maps])
    generator = torch.Generator()

    def draw(layer, chosen):
        bound = math.sqrt(2) * math.sqrt(3 / layer.weight[0].numel())
        rows = layer.weight.new_empty(len(chosen), *layer.weight.shape[1:]).detach()
        return rows.uniform_(-bound, bound, generator=generator)

    for _ in range(12):
        loop.learn()
        network, optimizer = copy.deepcopy((loop.network, loop.optimizer))
        generator.set_state(method.generator.get_state())
        literal.update(network, optimizer, maps, loop.tap.features, draw)
        method.after_update(loop.updates, loop.tap.features)
        for ours, theirs in zip(loop.network.parameters(), network.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs)
            for key in ("exp_avg", "exp_avg_sq", "step"):
                assert torch.equal(loop.optimizer.state[ours][key], optimizer.state[theirs][key])
    counts = Counter(number for number, _ in literal.replaced)
    assert all(counts[number] >= 1 for number in range(len(maps)))
    for record, units in zip(method.records, literal.units, strict=True):
        assert record.age.tolist() == [unit["age"] for unit in units]
        torch.testing.assert_close(record.utility, torch.tensor([unit["u"] for unit in units]))


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 1), st.integers(0, 6), st.integers(1, 25))
def test_units_are_counted_as_if_by_asking_the_device(rate, maturity, updates):
    record = _Record(hidden_layers(mlp())[0], torch.device("cpu"))
    saved = 0.0
    for _ in range(updates):
        record.observe(torch.rand(3, 16), 0.9)
        eligible = int((record.age > maturity).sum())
        saved += rate * eligible
        count = record.due(rate, maturity)
        assert count == min(int(saved), eligible)
        saved -= count
        if count:
            units = record.least(count, maturity, 0.9)
            assert (record.age[units] > maturity).all()
            record.forget(units)


def test_the_mean_of_a_replaced_unit_stays_in_the_biases_behind_it():
    loop = Loop(mlp, method := ContinualBackprop(rate=1 / 16, maturity=0, decay=0.0))
    loop.learn()
    features = {name: h.mean(0, keepdim=True).expand_as(h) for name, h in loop.tap.features.items()}
    before = loop.network[4](features["3"])
    method.after_update(1, features)
    gone = method.records[1].age == 0
    assert gone.any() or method.records[1].saved > 0
    after = loop.network[4](torch.where(gone, 0.0, features["3"]))
    torch.testing.assert_close(after, before)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_feature_that_overflows_once_is_not_remembered(bad):
    record = _Record(hidden_layers(mlp())[0], torch.device("cpu"))
    h = torch.rand(8, 16)
    record.observe(h, 0.9)
    utility, mean = record.utility.clone(), record.mean.clone()
    record.observe(h.index_fill(1, torch.tensor([3]), bad), 0.9)
    assert record.utility.isfinite().all()
    assert record.mean.isfinite().all()
    assert (record.utility[3], record.mean[3]) == (utility[3], mean[3])
    assert (record.utility[4], record.mean[4]) > (utility[4], mean[4])
    assert record.age.tolist() == [2] * 16
