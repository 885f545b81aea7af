"""One step of the smaller methods against slow, literal references."""

import contextlib
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

import nap
from agents.networks.layers import NoisyLinear
from agents.networks.low_precision import LowPrecisionCopy
from plasticity.dash import DASH
from plasticity.hare_tortoise import HareTortoise
from plasticity.l2_init import L2Init
from plasticity.loops import Loop, cnn, mlp
from plasticity.nap import NaP
from plasticity.spectral import SpectralRegularization
from plasticity.weight_clipping import WeightClipping
from plasticity.weight_decay import WeightDecay


def values(network):
    return {name: parameter.detach().numpy().copy() for name, parameter in network.named_parameters()}


def gradients(loop, method):
    parameters = dict(loop.network.named_parameters())
    found = torch.autograd.grad(method.penalty(), list(parameters.values()), materialize_grads=True)
    return dict(zip(parameters, (g.numpy() for g in found), strict=True))


def layers(network):
    """(name, layer) of linear layers and convolutions, by hand."""
    return [(name, part) for name, part in network.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)]


@given(strength=st.floats(1e-5, 10))
@settings(max_examples=5, deadline=None)
def test_l2_init_is_half_the_squared_distance(strength):
    method = L2Init(strength)
    loop = Loop(cnn, method, NaP())
    start = values(loop.network)
    for _ in range(3):
        loop.step()
    now, norms = values(loop.network), ("1.norm", "3.norm", "6.norm")
    parts = {name: now[name] - start[name] for name in now if not name.startswith(norms)}
    expected = strength * 0.5 * sum((part.astype(np.float64) ** 2).sum() for part in parts.values())
    assert method.penalty().item() == pytest.approx(expected, rel=1e-4)
    for name, gradient in gradients(loop, method).items():
        np.testing.assert_allclose(gradient, strength * parts.get(name, np.zeros_like(gradient)), rtol=1e-4, atol=1e-9)


def test_l2_init_starts_at_zero_with_a_zero_gradient():
    method = L2Init(1.0)
    loop = Loop(mlp, method)
    assert method.penalty().item() == 0
    assert all((gradient == 0).all() for gradient in gradients(loop, method).values())


def test_l2_decay_is_half_the_squared_norm():
    method = WeightDecay(0.3, kind="l2")
    loop = Loop(cnn, method)
    now = values(loop.network)
    assert method.penalty().item() == pytest.approx(0.15 * sum((v**2).sum() for v in now.values()), rel=1e-5)
    for name, gradient in gradients(loop, method).items():
        np.testing.assert_allclose(gradient, 0.3 * now[name], rtol=1e-5)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_decoupled_decay_follows_the_rate_of_each_group(as_tensor):
    method, network = WeightDecay(0.2), mlp()
    rates = [torch.tensor(0.1), torch.tensor(0.5)] if as_tensor else [0.1, 0.5]
    groups = [{"params": list(part.parameters()), "lr": rate} for part, rate in zip(network[::4], rates, strict=True)]
    optimizer = torch.optim.SGD(groups, lr=rates[0])
    method.attach(network, None, optimizer)
    before = values(network)
    optimizer.param_groups[1]["lr"] = rates[1] / 2  # a schedule's step
    method.after_update(1)
    factors = {"0": 1 - 0.1 * 0.2, "2": 1.0, "4": 1 - 0.25 * 0.2}  # layer 2 is in no group
    for name, value in values(network).items():
        np.testing.assert_allclose(value, before[name] * factors[name[0]], rtol=1e-6)


@given(kappa=st.floats(0.1, 3), output=st.booleans())
@settings(max_examples=10, deadline=None)
def test_clipping_bounds_by_the_fan_in(kappa, output):
    method = WeightClipping(kappa, output)
    loop = Loop(cnn, method)
    with torch.no_grad():
        for parameter in loop.network.parameters():
            parameter.mul_(4)
    before = values(loop.network)
    method.after_update(1)
    fan_in = {"0": 2 * 3 * 3, "2": 7 * 2 * 2, "5": 20, "7": 9}
    for name, value in values(loop.network).items():
        bound = math.inf if name[0] == "7" and not output else kappa / math.sqrt(fan_in[name[0]])
        np.testing.assert_allclose(value, np.clip(before[name], -bound, bound), rtol=1e-6)


def test_clipping_at_one_changes_no_fresh_network():
    method = WeightClipping()
    loop = Loop(cnn, method)
    before = values(loop.network)
    method.after_update(1)
    assert all((value == before[name]).all() for name, value in values(loop.network).items())


@pytest.mark.parametrize("k", [1.0, 2.0, 2.5])
def test_spectral_is_the_largest_singular_value_and_its_gradient(k):
    method = SpectralRegularization(0.5, k=k)
    loop = Loop(cnn, method)
    for _ in range(200):
        method.after_update(0)  # the weights stand still: the iteration converges
    torch._foreach_neg_(method.state_dict()["left"])  # as good a vector; weights re-initialised may turn it round
    expected, found = 0.0, gradients(loop, method)
    for name, layer in layers(loop.network):
        matrix = layer.weight.detach().double().reshape(layer.weight.shape[0], -1)
        u, s, vh = torch.linalg.svd(matrix)
        sigma, bias = s[0].item(), layer.bias.detach().double()
        expected += (sigma**k - 1) ** 2 + bias.norm().item() ** k
        slope = 0.5 * 2 * (sigma**k - 1) * k * sigma ** (k - 1)
        of_weight = slope * torch.outer(u[:, 0], vh[0]).reshape(layer.weight.shape)
        np.testing.assert_allclose(found[f"{name}.weight"], of_weight.numpy(), rtol=1e-3, atol=1e-5)
        of_bias = 0.5 * k * bias.norm() ** (k - 2) * bias
        np.testing.assert_allclose(found[f"{name}.bias"], of_bias.numpy(), rtol=1e-4, atol=1e-7)
    assert method.penalty().item() == pytest.approx(0.5 * expected, rel=1e-4)


def test_spectral_makes_one_power_iteration_per_update():
    method = SpectralRegularization(0.5)
    loop = Loop(mlp, method)
    before = [left.clone() for left in method.state_dict()["left"]]
    loop.step()
    for (_, layer), left, u in zip(layers(loop.network), method.state_dict()["left"], before, strict=True):
        v = layer.weight.detach().T @ u
        u = layer.weight.detach() @ (v / v.norm())
        torch.testing.assert_close(left, u / u.norm())


def test_spectral_starts_near_the_largest_singular_value_and_depends_on_its_seed_alone():
    one, other, third = (SpectralRegularization(1.0, seed=seed) for seed in (0, 0, 1))
    loops = [Loop(cnn, method) for method in (one, other, third)]
    exact = sum(
        (torch.linalg.matrix_norm(p.detach().flatten(1), 2) ** 2 - 1) ** 2 if p.ndim > 1 else p.detach().square().sum()
        for p in loops[0].network.parameters()
    )
    assert one.penalty().item() == pytest.approx(exact.item(), rel=0.1)
    pairs = [zip(one.state_dict()["left"], m.state_dict()["left"], strict=True) for m in (other, third)]
    assert [all(torch.equal(a, b) for a, b in pair) for pair in pairs] == [True, False]


def test_hare_and_tortoise_step_by_step():
    method = HareTortoise(0.75, period=3)
    loop = Loop(mlp, method)
    tortoise = values(loop.network)
    for update in range(1, 8):
        loop.learn()
        hare = values(loop.network)
        exp_avg = [state["exp_avg"].clone() for state in loop.optimizer.state.values()]
        method.after_update(update)
        tortoise = {name: 0.75 * tortoise[name] + 0.25 * hare[name] for name in hare}
        expected = tortoise if update % 3 == 0 else hare
        for name, value in values(loop.network).items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-6)
        for state, old in zip(loop.optimizer.state.values(), exp_avg, strict=True):
            assert torch.equal(state["exp_avg"], old)


def test_hare_and_tortoise_never_share_memory():
    method = HareTortoise(0.5, period=1)
    loop = Loop(mlp, method)
    loop.step()  # hare <- tortoise just now
    held = [value.clone() for value in method.state_dict()["tortoise"]]
    loop.learn()
    assert all(map(torch.equal, method.state_dict()["tortoise"], held))


def test_the_tortoise_is_lent_and_given_back_to_the_bit():
    method = HareTortoise(0.9)
    loop = Loop(mlp, method)
    for _ in range(3):
        loop.step()
    hare, tortoise = values(loop.network), [value.numpy().copy() for value in method.state_dict()["tortoise"]]
    with contextlib.suppress(RuntimeError), method.averaged():
        inside = values(loop.network)
        raise RuntimeError("while evaluating")
    assert all((a == b).all() for a, b in zip(inside.values(), tortoise, strict=True))
    assert all((value == hare[name]).all() for name, value in values(loop.network).items())


def test_a_copy_in_another_precision_follows_the_loan():
    method = HareTortoise(0.9)
    loop = Loop(mlp, method)
    copy = LowPrecisionCopy(loop.network, torch.bfloat16)
    loop.step()
    copy.refresh()
    own = [p.clone() for p in copy.module.parameters()]
    with method.averaged(copy.refresh):
        for p, tortoise in zip(copy.module.parameters(), method.state_dict()["tortoise"], strict=True):
            assert torch.equal(p, tortoise.bfloat16())
    assert all(map(torch.equal, copy.module.parameters(), own))


def test_buffers_are_averaged_but_counters_are_not():
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    method = HareTortoise(0.5, period=1)
    method.attach(network, None, torch.optim.SGD(network.parameters(), lr=0.1))
    network(torch.randn(5, 3))
    mean = network[1].running_mean.clone()
    method.after_update(1)
    torch.testing.assert_close(network[1].running_mean, mean / 2)
    assert network[1].num_batches_tracked.item() == 1


def dash_reference(value, average, shrinkage):
    """Vector by vector: w <- w · max(cos(w, G), shrinkage); no length counts as less than 1e-8."""

    def scale(w, g):
        lengths = [max(np.linalg.norm(vector), 1e-8) for vector in (w, g)]
        return max((w * g).sum() / math.prod(lengths), shrinkage)

    out, value, average = value.copy(), value.astype(np.float64), average.astype(np.float64)
    if value.ndim == 1:
        return out * scale(value, average)
    for i in range(value.shape[0]):
        if value.ndim == 2:
            out[i] *= scale(value[i], average[i])
            continue
        for j in range(value.shape[1]):
            out[i, j] *= scale(value[i, j], average[i, j])
    return out


@given(alpha=st.floats(0.05, 1), shrinkage=st.floats(0, 1))
@example(alpha=1 - 1e-6, shrinkage=0)  # some units are dead at the last gradient, and what is left of theirs is tiny
@example(alpha=1 - 1e-7, shrinkage=0.3)
@example(alpha=1 - 2e-9, shrinkage=0)  # all but the last gradient weigh less than 1e-8
@example(alpha=1, shrinkage=0)
@settings(max_examples=10, deadline=None)
def test_dash_every_period_against_vector_by_vector(alpha, shrinkage):
    method = DASH(alpha, shrinkage, period=3)
    loop = Loop(cnn, method)
    average = {name: np.zeros_like(value) for name, value in values(loop.network).items()}
    for update in range(1, 7):
        loop.learn()
        before = values(loop.network)
        later = -update % 3  # gradients that come before the shrinking
        if later == 0 or (alpha < 1 and later * math.log1p(-alpha) > math.log(1e-8)):
            for name, parameter in loop.network.named_parameters():
                average[name] = (1 - alpha) * average[name] - alpha * parameter.grad.numpy()
        method.after_update(update)
        for name, value in values(loop.network).items():
            expected = dash_reference(before[name], average[name], shrinkage) if update % 3 == 0 else before[name]
            np.testing.assert_allclose(value, expected, rtol=1e-3, atol=1e-6)
        if update % 3 == 0:
            average = {name: np.zeros_like(value) for name, value in average.items()}


@pytest.mark.parametrize("alpha", [0.3, 1 - 1e-12, 1])
def test_dash_shrinks_a_vector_that_gets_no_gradient(alpha):
    method, network = DASH(alpha, 0.25, period=2), nn.Sequential(nn.Linear(3, 2, bias=False))
    method.attach(network, None, torch.optim.SGD(network.parameters()))
    before = network[0].weight.detach().clone()
    for update, learning in ((1, alpha > 0.5), (2, False)):  # a gradient that weighs nothing is as good as none
        gradient = -before.clone()
        gradient[0] *= learning
        network[0].weight.grad = gradient
        method.after_update(update)
    torch.testing.assert_close(network[0].weight.detach(), before * torch.tensor([[0.25], [1.0]]))


def test_dash_applied_to_noisy_layers_under_nap():
    network = nn.Sequential(NoisyLinear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    nap.normalize(network)
    assert network[0].bias is not None  # a buffer in the place of what the norm made redundant
    method = DASH()
    method.attach(network, None, torch.optim.Adam(network.parameters()))
    before = network[0].weight.clone()
    method.apply(network(torch.randn(4, 6)).square().mean() for _ in range(2))
    assert not torch.equal(network[0].weight, before)


def test_dash_applied_at_a_change_of_data():
    method = DASH(period=9)
    loop = Loop(cnn, method)
    loop.learn()
    method.after_update(8)  # gradients of training, which must not count
    before, batches = values(loop.network), [loop.batch(size) for size in (8, 5, 7)]
    held = [parameter.grad.clone() for parameter in loop.network.parameters()]
    average = {name: np.zeros_like(value) for name, value in before.items()}
    for inputs, labels in batches:
        loss = (loop.network(inputs) - labels).square().mean()
        for (name, old), gradient in zip(
            list(average.items()), torch.autograd.grad(loss, list(loop.network.parameters())), strict=True
        ):
            average[name] = 0.7 * old - 0.3 * gradient.numpy()
    method.apply((loop.network(inputs) - labels).square().mean() for inputs, labels in batches)
    for name, value in values(loop.network).items():
        np.testing.assert_allclose(value, dash_reference(before[name], average[name], 0.3), rtol=1e-4, atol=1e-6)
        assert not np.allclose(value, before[name])
    assert all(torch.equal(p.grad, old) for p, old in zip(loop.network.parameters(), held, strict=True))


def test_dash_gathers_only_gradients_that_still_weigh():
    long, short = DASH(alpha=0.9, period=200), DASH(alpha=0.9, period=200)
    loops = [Loop(mlp, long), Loop(mlp, short)]
    for update in range(1, 201):
        for loop, method in zip(loops, (long, short), strict=True):
            loop.learn()
            if method is long or update > 200 - 12:  # 0.1^8 = 1e-8
                method.after_update(update)
    for one, other in zip(loops[0].network.parameters(), loops[1].network.parameters(), strict=True):
        assert torch.equal(one, other)
