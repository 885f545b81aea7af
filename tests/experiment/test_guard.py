"""What is not finite is found, and by option kept out, without a bit changed while all is finite."""

import math
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experiment.determinism import parameter_hash
from experiment.guard import LossWatch, NonFinite, SkipNonFinite, bad_names, check_finite, magnitudes

BAD = st.sampled_from([math.nan, math.inf, -math.inf])


@given(st.lists(st.sampled_from([1.0, -2.0, 3e38, math.nan, math.inf]), max_size=12), st.sets(st.integers(0, 12)))
def test_the_updates_before_the_first_bad_loss_are_counted(losses, looks):
    watch, fine = LossWatch(), 0
    with patch("experiment.guard.FOLD", 3):
        for i, loss in enumerate(losses):
            watch.note(torch.tensor(loss))
            fine += fine == i and math.isfinite(loss)
            if i in looks:
                assert int(watch.fine()) == fine
    assert (int(watch.fine()), watch.seen) == (fine, len(losses))


@given(BAD, st.sampled_from(["a", "b", "c"]), st.integers(0, 5))
def test_what_is_not_finite_is_named_wherever_it_stands(value, place, index):
    state = {
        "a": torch.ones(6), "b": [{"c": torch.ones(2, 3).double()}, torch.tensor(7)],
        "c": (None, torch.empty(0), torch.ones(6, dtype=torch.bfloat16)), "text": "nan", "number": math.inf,
    }  # fmt: skip
    check_finite(state, {"loss": 1.0})
    assert {name: float(norm) for name, norm in magnitudes(state).items()} == {"a": 1, "b[0].c": 1, "c[2]": 1}
    spoilt = {"a": state["a"], "b": state["b"][0]["c"], "c": state["c"][2]}[place]
    spoilt.view(-1)[index] = value
    name = {"a": "a", "b": r"b\[0\].c", "c": r"c\[2\]"}[place]
    with pytest.raises(NonFinite, match=f"^not finite: {name}$"):
        check_finite(state)
    with pytest.raises(NonFinite, match=f"^not finite: loss, {name}$"):
        check_finite(state, {"loss": value})


def test_a_large_number_is_finite_and_long_lists_are_cut():
    check_finite({"weight": torch.full((100,), 3e38)})
    check_finite({})
    assert bad_names(dict.fromkeys("abcde", math.nan)) == "a, b, c and 2 more"


class Line:
    """A line learnt by fused Adam."""

    def __init__(self, skip):
        torch.manual_seed(0)
        self.model = torch.nn.Linear(3, 2)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=torch.tensor(0.1), fused=True)
        self.skip = SkipNonFinite(self.optimizer) if skip else None
        self.generator = torch.Generator().manual_seed(1)

    def update(self, spoil=None):
        self.optimizer.zero_grad()
        loss = self.model(torch.randn(4, 3, generator=self.generator)).square().mean()
        loss.backward()
        if spoil == "gradient":
            self.model.bias.grad[1] = math.nan
        elif spoil == "overflow":
            self.model.weight.grad[0, 0] = 1e30
        elif spoil == "loss":
            loss = loss * math.inf
        if self.skip is not None:
            self.skip.look(loss.detach())
        self.optimizer.step()

    def state(self):
        moments = [value.clone() for state in self.optimizer.state.values() for value in state.values()]
        return [parameter.detach().clone() for parameter in self.model.parameters()] + moments


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_while_all_is_finite_every_bit_is_as_without():
    plain, guarded = Line(skip=False), Line(skip=True)
    for _ in range(5):
        plain.update()
        guarded.update()
    assert parameter_hash(plain.model) == parameter_hash(guarded.model)
    assert same(plain.state(), guarded.state())
    assert int(guarded.skip.count) == 0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([None, None, "gradient", "overflow", "loss"]), min_size=1, max_size=6))
def test_updates_that_spoil_are_left_out_and_counted(kinds):
    """The others act as if those had never been; step counts included."""
    line = Line(skip=True)
    line.update()
    for kind in kinds:
        before = line.state()
        line.update(kind)
        assert same(before, line.state()) == bool(line.skip.left_out) == (kind is not None)
        assert not kind or all(not parameter.grad.any() for parameter in line.model.parameters() if kind != "loss")
    assert int(line.skip.count) == sum(kind is not None for kind in kinds)
    check_finite(line.optimizer.state_dict())


def test_an_optimiser_that_cannot_skip_is_refused():
    with pytest.raises(ValueError, match="Adam cannot leave out updates: it has to be made with fused=True"):
        SkipNonFinite(torch.optim.Adam(torch.nn.Linear(1, 1).parameters(), foreach=True))
