"""`Projection(update="fixed")`: steps of a fixed length, against the formula and on every kind of optimiser."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import nap
from plasticity.testing import WAITS, Calls

LR = 0.02


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))
    nap.normalize(net)
    return net


def backward(net: nn.Module, seed: int = 0, size: float = 1.0) -> None:
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(seed))
    net.zero_grad()
    (size * F.cross_entropy(net(x), x[:, :3].argmax(1))).backward()


def fixed(net: nn.Module, *optimizers: torch.optim.Optimizer, **options) -> nap.Projection:
    return nap.Projection(net, update="fixed", **options).attach(*optimizers)


def expected(before: torch.Tensor, u: torch.Tensor, radius: torch.Tensor, rate: float) -> torch.Tensor:
    """R n(W - rate R n(u)) in float64."""
    before, u, radius = before.double(), u.double(), radius.double()
    stepped = before - rate * radius * u / u.norm()
    return radius * stepped / stepped.norm()


OPTIMISERS = {
    "sgd": lambda p: torch.optim.SGD(p, LR, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, LR),
    "adamw, one by one": lambda p: torch.optim.AdamW(p, LR, foreach=False),
    "fused adamw, tensor lr": lambda p: torch.optim.AdamW(p, torch.tensor(LR), fused=True),
    "adamw with decay": lambda p: torch.optim.AdamW(p, LR, weight_decay=3.0),
    "adafactor": lambda p: torch.optim.Adafactor(p, LR),
    "rprop": lambda p: torch.optim.Rprop(p, LR),
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_step_is_the_papers_formula_of_the_optimisers_own_direction(name):
    net = network()
    optimizer = OPTIMISERS[name](net.parameters())
    projection = fixed(net, optimizer, update_scale=2.0)
    radii = {key: value.clone() for key, value in projection.initial_norms.items()}
    assert set(radii) == {"0.weight", "2.weight"}
    for step in range(4):
        plain = copy.deepcopy(net)
        own = OPTIMISERS[name](plain.parameters())
        own.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        backward(net, step)
        backward(plain, step)
        before = nap.snapshot(net)
        optimizer.step()
        own.step()
        after, directions = nap.snapshot(net), nap.snapshot(plain)
        for key, radius in radii.items():
            wanted = expected(before[key], before[key] - directions[key], radius, 2 * LR)
            torch.testing.assert_close(after[key].double(), wanted, rtol=0, atol=3e-6)
            assert not torch.allclose(after[key], directions[key], atol=1e-4)
        assert torch.equal(after["4.weight"], directions["4.weight"])  # the head's step is the optimiser's own


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("rate", [1e-3, 0.3])
def test_a_step_turns_by_the_rate_whatever_the_gradients_are(rate, size):
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), rate)
    projection = fixed(net, optimizer, update_scale=0.5)
    for step in range(3):
        backward(net, step, size)
        before = nap.snapshot(net)
        optimizer.step()
        turned = nap.rotation(before, nap.snapshot(net))
        for key in projection.names:  # a gradient is perpendicular to a scale-invariant weight
            assert float(turned[key]) == pytest.approx(math.atan(rate / 2), rel=2e-3)
    for key, norm in projection.norms().items():
        assert float(norm) == pytest.approx(float(projection.initial_norms[key]), rel=1e-6)


def test_weight_decay_inside_the_step_takes_a_part_of_the_angle():
    angles = []
    for decay in (0.0, 10.0):
        net = network()
        optimizer = torch.optim.AdamW(net.parameters(), LR, weight_decay=decay)
        fixed(net, optimizer)
        before = nap.snapshot(net)
        backward(net)
        optimizer.step()
        angles.append(float(nap.rotation(before, nap.snapshot(net))["2.weight"]))
    assert angles[0] == pytest.approx(LR, rel=0.01)
    assert angles[1] < 0.8 * LR


def test_each_group_has_its_own_rate_which_a_schedule_may_move():
    net = network()
    groups = [{"params": net[:2].parameters(), "lr": torch.tensor(0.01)}, {"params": net[2:].parameters(), "lr": 0.05}]
    optimizer = torch.optim.SGD(groups)
    fixed(net, optimizer)
    for rates in ((0.01, 0.05), (0.02, 0.1)):
        optimizer.param_groups[0]["lr"].fill_(rates[0])
        optimizer.param_groups[1]["lr"] = rates[1]
        before = nap.snapshot(net)
        backward(net)
        optimizer.step()
        turned = nap.rotation(before, nap.snapshot(net))
        assert float(turned["0.weight"]) == pytest.approx(rates[0], rel=2e-3)
        assert float(turned["2.weight"]) == pytest.approx(rates[1], rel=5e-3)


@pytest.mark.parametrize("stop", ["no gradient", "zero gradient", "lr 0"])
def test_a_step_of_length_zero_changes_no_bit(stop):
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), LR)
    fixed(net, optimizer)
    for step in range(3):  # off the initial weights, where norms are exact
        backward(net, step)
        optimizer.step()
    backward(net)
    if stop == "lr 0":
        optimizer.param_groups[0]["lr"] = 0.0
    else:
        optimizer.zero_grad(set_to_none=stop == "no gradient")
    before = nap.snapshot(net)
    for _ in range(3):
        optimizer.step()
    assert all(torch.equal(before[key], value) for key, value in nap.snapshot(net).items())


@pytest.mark.parametrize("fused", [True, False])
def test_a_step_that_a_gradient_scaler_skips_changes_no_bit(fused):
    net = network()
    optimizer = torch.optim.AdamW(net.parameters(), torch.tensor(LR), fused=fused, weight_decay=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    projection = fixed(net, optimizer)
    for bad in (False, True, False):
        before = nap.snapshot(net)
        backward(net, size=float(scaler.scale(torch.ones(()))))
        if bad:
            net[0].weight.grad[0, 0] = math.inf
        scaler.step(optimizer)
        scaler.update()
        assert all(torch.equal(before[key], value) == bad for key, value in nap.snapshot(net).items())
    assert all(norm.isfinite() for norm in projection.norms().values())


def test_a_step_that_is_not_finite_stays_so():
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), LR)
    fixed(net, optimizer)
    backward(net)
    net[0].weight.grad[0, 0] = math.nan
    optimizer.step()
    assert net[0].weight.isnan().all()
    assert net[2].weight.isfinite().all()


def test_nothing_waits_for_the_device_and_the_copy_stays_where_it_is():
    net = network()
    optimizer = torch.optim.AdamW(net.parameters(), torch.tensor(LR), fused=True)
    fixed(net, optimizer)
    backward(net)
    optimizer.step()
    copies = [value.data_ptr() for value in _copies(optimizer)]
    backward(net)
    with Calls() as calls:
        optimizer.step()
    assert not WAITS & calls.names
    assert len(copies) == 2
    assert [value.data_ptr() for value in _copies(optimizer)] == copies  # a captured graph writes there


def _copies(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    owners = [hook.__self__ for hook in optimizer._optimizer_step_pre_hooks.values()]
    return [value for owner in owners for value in getattr(owner, "_before", ())]


def test_a_compiled_step_is_the_eager_one():
    values = []
    for compiled in (True, False):
        torch.compiler.reset()
        net = network()
        optimizer = torch.optim.Adam(net.parameters(), torch.tensor(LR))
        fixed(net, optimizer)
        step = torch.compile(optimizer.step, backend="aot_eager") if compiled else optimizer.step
        for number in range(4):
            optimizer.param_groups[0]["lr"].fill_(LR / (1 + number))
            backward(net, number)
            step()
        values.append(nap.snapshot(net))
    for key, value in values[0].items():
        torch.testing.assert_close(value, values[1][key], rtol=1e-5, atol=1e-6)


def test_neurons_turn_one_by_one_and_one_at_zero_goes_its_own_way():
    net = network()
    net[2].weight.data[3] = 0
    optimizer = torch.optim.SGD(net.parameters(), LR)
    fixed(net, optimizer, mode="neuron")
    before = net[2].weight.detach().clone()
    backward(net)
    optimizer.step()
    after = net[2].weight.detach()
    torch.testing.assert_close(after[3], -LR * net[2].weight.grad[3])
    cosines = F.cosine_similarity(before, after)
    lengths = after.norm(dim=1)
    gradients = net[2].weight.grad
    for row in range(32):
        if row != 3 and gradients[row].norm() > 0:
            radius = before[row].norm()
            wanted = expected(before[row], gradients[row], radius, LR)
            torch.testing.assert_close(after[row].double(), wanted, rtol=0, atol=1e-6)
    assert (cosines[torch.arange(32) != 3] > math.cos(2 * LR)).all()
    assert lengths[3] > 0


def test_mu_and_sigma_of_a_noisy_layer_turn_as_one_matrix():
    layer = nn.Linear(4, 4)
    layer.sigma = nn.Parameter(torch.full((4, 4), 0.3))
    layer.parameter_spec = nap.ParameterSpec(coscaled={"sigma": "weight"}, initial={"sigma": 0.3})
    net = nn.Sequential(layer, nn.ReLU(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(net.parameters(), LR)
    fixed(net, optimizer, include=["0"])
    before = torch.cat([layer.weight.detach(), layer.sigma.detach()])
    layer.weight.grad, layer.sigma.grad = torch.randn(4, 4), torch.randn(4, 4)
    gradients = torch.cat([layer.weight.grad, layer.sigma.grad])
    optimizer.step()
    wanted = expected(before, gradients, before.norm(), LR)
    torch.testing.assert_close(torch.cat([layer.weight, layer.sigma]).double(), wanted, rtol=0, atol=1e-6)


def test_weights_in_bfloat16_turn_by_what_their_precision_holds():
    net = network().bfloat16()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    projection = fixed(net, optimizer)
    before = nap.snapshot(net)
    net(torch.randn(16, 8, dtype=torch.bfloat16)).float().square().sum().backward()
    optimizer.step()
    turned = nap.rotation(before, nap.snapshot(net))
    assert all(float(turned[key]) == pytest.approx(0.1, rel=0.05) for key in projection.names)


class Model(nn.Module):
    """An embedding, attention, and experts as one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.q, self.head = nn.Embedding(9, 8), nn.Linear(8, 12), nn.Linear(8, 9)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.experts = nn.Parameter(torch.randn(3, 8, 8))

    def forward(self, x):
        x = self.tokens(x)
        x = x + self.attention(x, x, x)[0] + self.q(x)[..., :8]
        return self.head(torch.einsum("bti,eij->btj", x, self.experts))


def test_heads_and_experts_have_norms_and_steps_of_their_own_where_asked():
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.Adam(model.parameters(), LR)
    split = {"q": 3, "attention.in_proj_weight[k]": 2}
    projection = fixed(model, optimizer, include=["experts"], split=split)
    parts = {"q.weight[0]", "q.weight[1]", "q.weight[2]", "attention.in_proj_weight[k][1]", "experts[2]"}
    assert parts < set(projection.names)
    assert "experts" not in projection.names
    experts, keys = model.experts.detach().clone(), model.attention.in_proj_weight.detach()[8:16].clone()
    tokens = torch.arange(8).reshape(2, 4)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
        optimizer.step()
    torch.testing.assert_close(model.experts.norm(dim=(1, 2)), experts.norm(dim=(1, 2)), rtol=1e-6, atol=0)
    now = model.attention.in_proj_weight[8:16].unflatten(0, (2, 4)).norm(dim=(1, 2))
    torch.testing.assert_close(now, keys.unflatten(0, (2, 4)).norm(dim=(1, 2)), rtol=1e-6, atol=0)
    before = model.experts.detach().clone()
    model.experts.grad[0] *= 100
    optimizer.step()
    for one, other in zip(before, model.experts.detach(), strict=True):
        assert float(nap.rotation({"e": one}, {"e": other})["e"]) == pytest.approx(LR, rel=0.1)
    state = copy.deepcopy(projection.state_dict())
    nap.Projection(model, update="fixed", include=["experts"], split=split).load_state_dict(state)


@pytest.mark.parametrize(
    ("split", "why"),
    [({"q": 5}, "q.weight cannot be split into 5 .* 12 rows"), ({"Q": 3}, "split has 'Q'"), ({"q": 0}, "into 0")],
)
def test_a_split_that_cannot_be_is_refused(split, why):
    with pytest.raises(ValueError, match=why):
        nap.Projection(Model(), split=split)


def test_embeddings_are_left_to_the_optimiser_as_in_the_paper_unless_included():
    model = Model()
    assert "tokens.weight" in nap.Projection(model).names
    assert "tokens.weight" not in nap.Projection(model, update="fixed").names
    assert "tokens.weight" in nap.Projection(model, update="fixed", include=["tokens"]).names


@pytest.mark.parametrize("options", [{"update": "fix"}, {"update_scale": 0.0}, {"update_scale": math.nan}])
def test_an_unknown_option_is_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}="):
        nap.Projection(network(), **options)


def test_muon_for_matrices_and_adam_for_the_rest():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 3))
    nap.normalize(net)
    matrices = [net[3].weight]
    others = [p for p in net.parameters() if p is not net[3].weight]
    muon, adam = torch.optim.Muon(matrices, lr=0.03, weight_decay=0), torch.optim.Adam(others, lr=0.01)
    projection = fixed(net, muon, adam)
    assert set(projection.names) == {"0.weight", "3.weight"}
    for _ in range(3):
        net.zero_grad()
        F.cross_entropy(net(torch.randn(16, 1, 4, 4)), torch.randint(3, (16,))).backward()
        before = nap.snapshot(net)
        muon.step()
        adam.step()
        turned = nap.rotation(before, nap.snapshot(net))
        assert float(turned["3.weight"]) == pytest.approx(0.03, rel=0.05)
        assert float(turned["0.weight"]) == pytest.approx(0.01, rel=0.05)


def test_a_resumed_run_ends_like_an_uninterrupted_one_and_a_deepcopy_goes_its_own_way():
    def build(seed):
        net = network(seed)
        optimizer = torch.optim.Adam(net.parameters(), torch.tensor(LR))
        return net, optimizer, fixed(net, optimizer, affine="joint")

    def train(net, optimizer, steps):
        for step in steps:
            backward(net, step)
            optimizer.step()

    net, optimizer, projection = build(0)
    train(net, optimizer, range(3))
    saved = copy.deepcopy([part.state_dict() for part in (net, optimizer, projection)])
    other, its_optimizer, its_projection = build(1)
    other.load_state_dict(saved[0])
    nap.load_optimizer_state(its_optimizer, saved[1])
    its_projection.load_state_dict(saved[2])
    twin, twin_optimizer = copy.deepcopy((net, optimizer))
    train(net, optimizer, range(3, 6))
    train(other, its_optimizer, range(3, 6))
    train(twin, twin_optimizer, range(3, 6))
    for one, two, three in zip(net.parameters(), other.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)


def test_detached_the_steps_are_the_optimisers_own_again():
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), LR)
    fixed(net, optimizer).detach()
    before = net[0].weight.detach().clone()
    backward(net)
    optimizer.step()
    assert torch.equal(net[0].weight, before.sub(net[0].weight.grad, alpha=LR))
    assert float(nap.effective_lr(net, optimizer)["0.weight"]) == pytest.approx(
        LR / float(net[0].weight.detach().norm()) ** 2
    )


def test_the_effective_rate_is_the_angle():
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), torch.tensor(LR))
    fixed(net, optimizer, update_scale=3.0)
    rates = {key: float(rate) for key, rate in nap.effective_lr(net, optimizer).items()}
    head = LR / float(net[4].weight.detach().norm())
    assert rates == pytest.approx({"0.weight": 3 * LR, "2.weight": 3 * LR, "4.weight": head})
