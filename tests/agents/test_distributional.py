"""Value distributions against the published algorithms, written as loops over samples and atoms."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from agents.distributional import categorical_loss, categorical_mean, project, quantile_loss, quantile_mean

SEEDS = st.integers(0, 10_000)


def algorithm_1(probabilities, reward, discount, support):
    """Bellemare et al. 2017, algorithm 1 for one sample in Python's floats; mass on an atom exactly stays there."""
    low, high, atoms = support[0], support[-1], len(support)
    step, projected = (high - low) / (atoms - 1), [0.0] * atoms
    for probability, atom in zip(probabilities, support, strict=True):
        place = min(max((reward + discount * atom - low) / step, 0.0), atoms - 1.0)  # or it rounds to beyond the last
        lower, upper = math.floor(place), math.ceil(place)
        if lower == upper:
            projected[lower] += probability
        else:
            projected[lower] += probability * (upper - place)
            projected[upper] += probability * (place - lower)
    return projected


def draw(seed, batch, atoms, bound):
    random = torch.Generator().manual_seed(seed)
    probabilities = torch.randn(batch, atoms, generator=random, dtype=torch.float64).mul(3).softmax(-1)
    reward = torch.randn(batch, generator=random, dtype=torch.float64) * bound
    discount = torch.rand(batch, generator=random, dtype=torch.float64).mul(1.5).sub(0.2).clamp(0, 1)
    return probabilities, reward, discount, torch.linspace(-bound, bound, atoms, dtype=torch.float64)


@settings(deadline=None, max_examples=40)
@given(SEEDS, st.integers(1, 6), st.integers(2, 60), st.sampled_from([0.5, 10.0, 300.0]))
def test_projection_is_algorithm_1(seed, batch, atoms, bound):
    probabilities, reward, discount, support = draw(seed, batch, atoms, bound)
    projected = project(probabilities, reward, discount, support)
    rows = zip(probabilities.tolist(), reward.tolist(), discount.tolist(), strict=True)
    expected = torch.tensor([algorithm_1(*row, support.tolist()) for row in rows], dtype=torch.float64)
    torch.testing.assert_close(projected, expected)
    torch.testing.assert_close(projected.sum(-1), torch.ones(batch, dtype=torch.float64))


@settings(deadline=None, max_examples=40)
@given(SEEDS, st.integers(-40, 40))
def test_projection_onto_atoms_moves_mass_exactly(seed, atoms_up):
    """Whole steps between atoms that are exact in float32: nothing is lost, nothing is spread."""
    support = torch.linspace(-8, 8, 33)
    probabilities = torch.randint(0, 9, (1, 33), generator=torch.Generator().manual_seed(seed)) / 256
    projected = project(probabilities, torch.tensor([0.5 * atoms_up]), torch.ones(1), support)
    expected = torch.zeros(1, 33).index_add_(1, (torch.arange(33) + atoms_up).clamp(0, 32), probabilities)
    assert torch.equal(projected, expected)


def test_projection_of_an_end_and_of_nothing_new():
    support = torch.linspace(-10, 10, 51)
    probabilities = torch.randn(4, 51).softmax(-1)
    same = project(probabilities, torch.zeros(4), torch.ones(4), support)
    torch.testing.assert_close(same, probabilities, rtol=0, atol=1e-6)
    ends = project(probabilities, torch.tensor([0.0, 12.0, -99.0, 0.1]), torch.zeros(4), support)
    places = torch.tensor([[25, 25], [50, 50], [0, 0], [25, 26]])
    expected = torch.zeros(4, 51).scatter_add_(1, places, torch.tensor([[1, 0], [1, 0], [1, 0], [0.75, 0.25]]))
    torch.testing.assert_close(ends, expected, rtol=0, atol=1e-5)


@settings(deadline=None, max_examples=20)
@given(SEEDS)
def test_projection_inside_the_atoms_keeps_the_mean(seed):
    probabilities, reward, discount, support = draw(seed, 4, 51, 10.0)
    reward, discount = reward.clamp(-1, 1), discount * 0.9
    before = reward + discount * (probabilities * support).sum(-1)
    after = (project(probabilities, reward, discount, support) * support).sum(-1)
    torch.testing.assert_close(after, before)


def test_categorical_loss_is_cross_entropy_and_its_gradient_is_the_difference():
    logits = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    target = torch.randn(3, 7, dtype=torch.float64).softmax(-1)
    predicted = logits.detach().exp() / logits.detach().exp().sum(-1, keepdim=True)
    loss = categorical_loss(logits, target)
    expected = [-sum(t * math.log(p) for t, p in zip(*row, strict=True)) for row in zip(target, predicted, strict=True)]
    torch.testing.assert_close(loss.detach(), torch.stack(expected))
    loss.sum().backward()
    torch.testing.assert_close(logits.grad, predicted - target)


def literal_quantile_loss(quantiles, targets, kappa):
    """Dabney et al. 2018, algorithm 1 with eq. 9 and 10, for one sample."""
    total = 0.0
    for i, quantile in enumerate(quantiles):
        level, losses = (2 * i + 1) / (2 * len(quantiles)), []
        for target in targets:
            error = target - quantile
            huber = 0.5 * error**2 if abs(error) <= kappa else kappa * (abs(error) - 0.5 * kappa)
            huber = abs(error) if kappa == 0 else huber
            losses.append(abs(level - (error < 0)) * huber)
        total += sum(losses) / len(losses)
    return total


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.integers(1, 8), st.integers(1, 8), st.sampled_from([0.0, 0.3, 1.0, 5.0]))
def test_quantile_loss_is_the_published_one(seed, count, samples, kappa):
    random = torch.Generator().manual_seed(seed)
    quantiles = torch.randn(3, count, generator=random, dtype=torch.float64) * 2
    targets = torch.randn(3, samples, generator=random, dtype=torch.float64) * 2
    rows = zip(quantiles.tolist(), targets.tolist(), strict=True)
    expected = torch.tensor([literal_quantile_loss(*row, kappa) for row in rows], dtype=torch.float64)
    torch.testing.assert_close(quantile_loss(quantiles, targets, kappa), expected)


def test_quantile_loss_is_least_at_the_quantiles():
    samples = torch.randn(1, 501, dtype=torch.float64)
    quantiles = torch.zeros(1, 5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([quantiles], lr=0.05)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 300)
        optimizer.zero_grad()
        quantile_loss(quantiles, samples, kappa=0.0).sum().backward()
        optimizer.step()
    expected = samples[0].quantile(torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9], dtype=torch.float64))
    torch.testing.assert_close(quantiles.detach()[0], expected, rtol=0, atol=0.03)


def test_means():
    logits, support = torch.randn(2, 3, 51), torch.linspace(-10, 10, 51)
    probabilities = logits.softmax(-1)
    torch.testing.assert_close(categorical_mean(logits, support), torch.einsum("ban,n->ba", probabilities, support))
    torch.testing.assert_close(quantile_mean(logits), logits.sum(-1) / 51)


def test_bfloat16_is_computed_in_float32():
    logits, targets = torch.randn(4, 51).bfloat16(), torch.randn(4, 51).bfloat16()
    support, numbers = torch.linspace(-10, 10, 51), torch.rand(4).bfloat16()
    for function, arguments in (
        (categorical_loss, (logits, targets.softmax(-1))),
        (quantile_loss, (logits, targets)),
        (project, (logits.softmax(-1), numbers, numbers, support)),
        (categorical_mean, (logits, support)),
        (quantile_mean, (logits,)),
    ):
        result = function(*arguments)
        assert result.dtype == torch.float32
        assert torch.equal(result, function(*(argument.float() for argument in arguments)))


def c51_problem():
    """Layers for the logits and the target's, a batch, our loss and gradients; some returns are beyond the atoms."""
    torch.manual_seed(0)
    support, rows = torch.linspace(-10, 10, 51), torch.arange(16)
    head, target = torch.nn.Linear(5, 3 * 51), torch.nn.Linear(5, 3 * 51)
    (obs, next_obs), action, reward = torch.randn(2, 16, 5), torch.randint(0, 3, (16,)), 8 * torch.randn(16)
    terminated = torch.rand(16) < 0.3

    def logits(layer, observations):
        return layer(observations).unflatten(-1, (51, 3)).transpose(1, 2)

    with torch.no_grad():
        best = categorical_mean(logits(head, next_obs), support).argmax(-1)
        probabilities = logits(target, next_obs)[rows, best].softmax(-1)
        projected = project(probabilities, reward, 0.9 * (~terminated).float(), support)
    loss = categorical_loss(logits(head, obs)[rows, action], projected).mean()
    ends = {"reward": reward.unsqueeze(-1), "done": terminated.unsqueeze(-1), "terminated": terminated.unsqueeze(-1)}
    batch = TensorDict({"observation": obs, "action": action, "next": {"observation": next_obs, **ends}}, [16])
    return head, target, support, batch, loss, torch.autograd.grad(loss, [head.weight, head.bias])


def test_the_c51_loss_is_the_number_that_torchrl_gave():
    """TorchRL 0.14.1 with torch 2.13, by the test below; it cannot be installed with this tensordict."""
    *_, loss, (weight, bias) = c51_problem()
    torch.testing.assert_close(loss.item(), 4.156467437744141, rtol=1e-6, atol=0)
    ramp = torch.linspace(-1, 1, 153)
    seen = torch.stack([weight.norm(), (weight.sum(1) * ramp).sum(), bias.norm(), (bias * ramp).sum()])
    theirs = torch.tensor([0.24867722392082214, -0.11009730398654938, 0.12852980196475983, 0.06214458867907524])
    torch.testing.assert_close(seen, theirs, rtol=1e-5, atol=0)


def test_the_c51_loss_is_torchrls():
    """Loss and gradient on one batch and one set of parameters."""
    modules = pytest.importorskip("torchrl.modules")
    objectives = pytest.importorskip("torchrl.objectives")
    head, target, support, batch, loss, gradients = c51_problem()
    network = torch.nn.Sequential(head, torch.nn.Unflatten(-1, (51, 3)))  # theirs has the actions last
    actor = modules.DistributionalQValueActor(network, support=support, spec=None, action_space="categorical")
    theirs = objectives.DistributionalDQNLoss(actor, gamma=0.9, delay_value=True)
    weights = theirs.target_value_network_params.values(include_nested=True, leaves_only=True)
    for mine in (target.weight, target.bias):
        next(value for value in weights if value.shape == mine.shape).data.copy_(mine.data)
    expected = theirs(batch)["loss"]
    parameters = [value for value in theirs.parameters() if value.requires_grad]
    expected_gradients = torch.autograd.grad(expected, parameters)
    torch.testing.assert_close(loss, expected)
    for gradient in gradients:
        theirs_same = next(value for value in expected_gradients if value.shape == gradient.shape)
        torch.testing.assert_close(gradient, theirs_same)
