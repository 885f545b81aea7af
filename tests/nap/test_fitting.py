"""Fits of random targets: what they find in dead, identical and scaled networks, and that they change nothing."""

import random
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from nap.metrics import FitCurves, fit_random_targets

STATES = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
OPTIONS = {"draws": 4, "updates": 150, "lr": 3e-3}


def mlp(width=64):
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3))


def drawn(seed, build=mlp):
    torch.manual_seed(seed)
    return build()


def fits(model, fresh=mlp, **options):
    return fit_random_targets(model, STATES, fresh, **OPTIONS | options)


def log_interval(values):
    """Mean and three standard errors of the logs."""
    logs = values.double().log()
    return logs.mean().item(), 3 * logs.std().item() / len(logs) ** 0.5


def test_a_network_without_living_units_learns_nothing_but_a_mean():
    dead = drawn(1)
    with torch.no_grad():
        dead[2].bias.fill_(-1e3)
    found = fits(dead)
    assert (found.aged[:, -1] > 0.9).all()
    assert (found.fresh[:, -1] < 0.6).all()
    assert (found.ratios > 1.5).all()
    assert (found.slowdowns > 3).all()


def test_a_fresh_network_is_neither_worse_nor_slower_than_fresh_ones():
    for seed in range(3):
        found = fits(drawn(seed), draws=8)
        for values in (found.ratios, found.slowdowns):
            mean, margin = log_interval(values)
            assert abs(mean) < max(margin, 0.1)


def test_the_same_network_gives_a_ratio_of_exactly_1():
    model = drawn(3)
    found = fits(model, fresh=Alternating(model))
    assert torch.equal(found.aged, found.fresh)
    assert found.ratios.tolist() == found.slowdowns.tolist() == [1.0] * 4


class Alternating:
    """Gives a network for the targets, then a copy of the model to be fitted, and so on."""

    def __init__(self, model):
        self.model, self.calls = model, 0

    def __call__(self):
        self.calls += 1
        network = mlp()
        if self.calls % 2 == 0:
            network.load_state_dict(self.model.state_dict())
        return network


def test_large_outputs_are_no_handicap():
    offset = drawn(5)
    with torch.no_grad():
        offset[4].bias.add_(100)
    mean, margin = log_interval(fits(offset, draws=8).ratios)
    assert abs(mean) < max(margin, 0.1)


def test_errors_start_below_1_fall_and_are_those_of_a_plain_loop():
    model = drawn(6)
    found = fits(model, draws=1, updates=40, batch_size=64)  # each minibatch holds every state, in some order
    assert found.updates.tolist() == list(range(2, 41, 2))
    seed = torch.randint(2**62, (1,), generator=torch.Generator().manual_seed(0)).item()
    teacher = drawn(seed)
    wanted = (1e5 * teacher(STATES)).sin().detach()
    start, errors = model(STATES).detach(), []
    optimizer = torch.optim.Adam(model.parameters(), lr=OPTIONS["lr"])
    for _ in range(40):
        optimizer.zero_grad()
        (((model(STATES) - start - wanted) ** 2).mean() / (wanted**2).mean()).backward()
        optimizer.step()
        errors.append(((model(STATES) - start - wanted) ** 2).mean().item() / (wanted**2).mean().item())
    torch.testing.assert_close(found.aged[0], torch.tensor(errors[1::2]), rtol=1e-3, atol=1e-4)
    assert 1 > errors[0] > errors[-1]


class Odd(nn.Module):
    """Two inputs, dropout, a batch norm, a frozen layer, a generator of its own and a hook that counts."""

    def __init__(self):
        super().__init__()
        self.frozen, self.first, self.norm = nn.Linear(6, 8).requires_grad_(False), nn.Linear(6, 8), nn.BatchNorm1d(8)
        self.relu, self.dropout, self.last = nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2)
        self.generator = torch.Generator().manual_seed(3)
        self.seen = []
        self.relu.register_forward_hook(lambda module, args, out: self.seen.append(len(out)))

    def forward(self, x, y, scale):
        noise = torch.rand((), generator=self.generator)
        return self.last(self.dropout(self.relu(self.norm(self.frozen(x) + scale * self.first(y))))) + noise


@pytest.mark.parametrize("training", [True, False])
def test_model_flags_and_generators_stay_as_they_are(training):
    model = drawn(0, Odd).train(training)
    model(STATES, STATES, 1.0).sum().backward()
    model.seen.clear()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    torch.manual_seed(11)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist(), model.generator.get_state()
    batch = (STATES, STATES.flip(0), 2.0)
    one, two = (fit_random_targets(model, batch, Odd, draws=2, updates=5, seed=4) for _ in range(2))
    assert torch.equal(one.aged, two.aged)
    assert torch.equal(one.fresh, two.fresh)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:3] == (random.getstate(), np.random.get_state()[1].tolist())
    assert torch.equal(states[3], model.generator.get_state())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert {name for name, p in model.named_parameters() if p.grad is not None} == set(gradients)
    assert all(torch.equal(p.grad, gradients[name]) for name, p in model.named_parameters() if name in gradients)
    assert model.training == model.norm.training == model.dropout.training == training
    assert not model.frozen.weight.requires_grad
    assert not torch.equal(one.aged, fit_random_targets(model, batch, Odd, draws=2, updates=5, seed=5).aged)


def test_progress_counts_the_updates_of_all_fits():
    made = []
    fits(drawn(0), draws=2, updates=7, progress=made.append)
    assert made == list(range(1, 29))


@pytest.mark.parametrize(
    ("model", "fresh", "options", "said"),
    [
        (mlp, lambda: mlp().requires_grad_(True), {"draws": 0}, "have to be at least 1: 0, 150 and 32"),
        (mlp, lambda: nn.Sequential(nn.Linear(6, 3), nn.Threshold(1e9, 0.0)), {}, "the same output for every input"),
        (lambda: nn.Sequential(nn.Linear(6, 3), nn.Threshold(1e9, torch.nan)), mlp, {}, "aged network is NaN"),
        (partial(nn.LSTM, 6, 3), partial(nn.LSTM, 6, 3), {}, "is a tuple, not a tensor of floats"),
    ],
)
def test_what_cannot_be_fitted_is_refused(model, fresh, options, said):
    with pytest.raises(ValueError, match=said):
        fits(model(), fresh, **options)


def test_a_slowdown_is_read_off_the_curves():
    updates = torch.tensor([10.0, 20.0, 30.0, 40.0])
    slow, quick = torch.tensor([[0.9, 0.8, 0.7, 0.6]]), torch.tensor([[0.6, 0.4, 0.2, 0.1]])
    assert FitCurves(updates, slow, quick).slowdowns.item() == pytest.approx(4)
    assert FitCurves(updates, quick, slow).slowdowns.item() == pytest.approx(0.25)
    between = torch.tensor([[0.8, 0.4, 0.2, 0.1]])  # reaches 0.6 half-way from the first point to the second
    assert FitCurves(updates, slow, between).slowdowns.item() == pytest.approx(40 / 15)
    stuck = torch.tensor([[1.0, 1.0, 1.1, 1.1]])  # never below where it began: the fresh one needs no more than 1
    assert FitCurves(updates, stuck, quick).slowdowns.item() >= 1


# --- of several threads


def test_fits_on_two_threads_are_those_of_one():
    def fit(model):
        return fits(model, partial(mlp, 256), draws=20, updates=2)

    models = [drawn(seed) for seed in (1, 2)]
    alone = [fit(model) for model in models]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(fit, models))
    for found, expected in zip(together, alone, strict=True):
        assert torch.equal(found.aged, expected.aged)
        assert torch.equal(found.fresh, expected.fresh)
