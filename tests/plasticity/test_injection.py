import copy

import pytest
import torch
from torch import nn

from agents.names import NETWORKS
from agents.networks.encoders import make_network
from agents.networks.layers import Noise, NoisyLinear
from plasticity.injection import InjectedHead, PlasticityInjection
from plasticity.loops import Loop, cnn, mlp
from plasticity.nap import NaP


def head_of(network):
    return next(part for part in network.modules() if isinstance(part, InjectedHead))


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("build", [mlp, cnn])
def test_training_until_then_is_that_of_no_method(build):
    loop, plain = Loop(build, PlasticityInjection(at=100)), Loop(build)
    for _ in range(5):
        loop.step()
        plain.step()
    x, _ = loop.batch()
    assert torch.equal(loop.network(x), plain.network(x))
    learned = [p for p in loop.network.parameters() if p.requires_grad]
    assert all(map(torch.equal, learned, plain.network.parameters()))


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("build", [mlp, cnn])
def test_injection_changes_no_output_to_the_bit_and_to_rounding_where_a_projection_follows(build, normalized):
    loop = Loop(build, PlasticityInjection(at=4, seed=7), *([NaP()] if normalized else []))
    for _ in range(3):
        loop.step()
    loop.learn()
    for other in loop.methods[1:]:
        other.projection.project()  # what follows must not change anything but the injection
    x, _ = loop.batch()
    network, target = loop.network(x), loop.target(x)
    for other in loop.methods:
        other.after_update(4)
    if not normalized:
        assert torch.equal(loop.network(x), network)
    torch.testing.assert_close(loop.network(x), network, rtol=1e-4, atol=1e-5)
    assert torch.equal(loop.target(x), target)
    head = head_of(loop.network)
    assert equal(state(head.learned), state(head.fresh))


@pytest.mark.parametrize("build", [mlp, cnn])
def test_the_formula_of_the_paper(build):
    """Q = h(z; frozen) + h(z; learned) - h(z; fresh), by a plain copy of the old head and of the fresh one."""
    method = PlasticityInjection(at=3)
    loop = Loop(build, method)
    for _ in range(2):
        loop.step()
    loop.learn()
    old = copy.deepcopy(head_of(loop.network).learned)
    method.after_update(3)
    fresh = copy.deepcopy(head_of(loop.network).learned)
    for _ in range(3):
        loop.step()
    encoder, head = nn.Sequential(*list(loop.network)[:-1]), head_of(loop.network)
    z = encoder(loop.batch()[0])
    torch.testing.assert_close(loop.network(loop.batch()[0]), old(z) + head.learned(z) - fresh(z))
    assert equal(state(head.frozen), state(old))
    assert equal(state(head.fresh), state(fresh))
    assert not equal(state(head.learned), state(fresh))
    for name, p in head.learned.named_parameters():
        fan_in = head.learned.get_submodule(name[:-5] if name.endswith("bias") else name[:-7]).weight[0].numel()
        assert (dict(fresh.named_parameters())[name].abs() <= fan_in**-0.5).all()
        assert not torch.equal(dict(old.named_parameters())[name], p)


def test_the_target_gets_the_same_fresh_weights_and_keeps_its_own_old_head():
    loop = Loop(mlp, PlasticityInjection(at=2))
    own = state(head_of(loop.target).learned)
    for _ in range(2):
        loop.step()
    online, target = head_of(loop.network), head_of(loop.target)
    assert equal(state(target.learned), state(online.learned))
    assert equal(state(target.fresh), state(online.fresh))
    assert equal(state(target.frozen), own)
    loop.target.load_state_dict(loop.network.state_dict())  # a sync
    x, _ = loop.batch()
    assert torch.equal(loop.target(x), loop.network(x))


@pytest.mark.parametrize("reset", [False, True])
def test_moments_stay_unless_asked(reset):
    method = PlasticityInjection(at=2, reset_moments=reset)
    loop = Loop(cnn, method)
    loop.step()
    loop.learn()
    head = set(head_of(loop.network).learned.parameters())
    before = {p: loop.optimizer.state[p]["exp_avg"].clone() for p in loop.network.parameters() if p.requires_grad}
    method.after_update(2)
    for p, old in before.items():
        now = loop.optimizer.state[p]
        assert torch.equal(now["exp_avg"], torch.zeros_like(old) if reset and p in head else old)
        assert now["step"] == (0 if reset and p in head else 2)


def test_the_optimiser_never_touches_what_is_frozen_even_with_gradients_and_decay():
    method, network = PlasticityInjection(at=1), mlp()
    for part in (method, nap := NaP()):
        part.prepare(network)  # NaP puts trainable norms into the frozen copies
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=0.5)
    for part in (method, nap):
        part.attach(network, None, optimizer)
    for update in range(1, 4):
        for parameter in network.parameters():
            parameter.grad = torch.ones_like(parameter)  # as a copy in another precision gives
        held = (state(head_of(network).frozen), state(head_of(network).fresh))
        optimizer.step()
        assert equal(state(head_of(network).frozen), held[0])
        assert equal(state(head_of(network).fresh), held[1])
        method.after_update(update)
    assert not any(
        p.requires_grad for part in (head_of(network).frozen, head_of(network).fresh) for p in part.parameters()
    )


def test_a_decay_of_norms_leaves_the_frozen_head_alone():
    loop = Loop(mlp, PlasticityInjection(at=4), NaP(affine="decay"))
    head = head_of(loop.network)
    for _ in range(4):
        loop.step()
    frozen, learned = state(head.frozen), state(head.learned)
    assert any("norm" in name and bool((value != value.round()).any()) for name, value in frozen.items())
    for _ in range(3):
        loop.step()
    # a projection restores norms of matrices to rounding; scales and offsets it must not touch
    for name, value in state(head.frozen).items():
        assert torch.equal(value, frozen[name]) if value.ndim == 1 else torch.allclose(value, frozen[name])
    assert not equal(state(head.learned), learned)


def test_of_noisy_layers_the_copies_have_the_mean_so_that_the_noise_is_that_of_one_head():
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), NoisyLinear(8, 2))
    method = PlasticityInjection(at=1, head="2")
    method.prepare(network)
    method.attach(network, None, torch.optim.Adam(network.parameters()))
    x = torch.randn(5, 6)
    mean = network.eval()(x)
    Noise(network, generator=torch.Generator()).resample()
    method.after_update(1)
    assert torch.equal(network(x), mean)
    z, learned = network[:2](x), network[2].learned
    noise = network.train()(x) - mean
    assert noise.abs().min() > 0
    torch.testing.assert_close(noise, learned(z) - learned.eval()(z))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_head_of_an_agents_network_is_what_follows_its_convolutions(name):
    network = make_network(name, 4, (84, 84), 3)
    pixels = torch.randint(0, 256, (2, 4, 84, 84), dtype=torch.uint8)
    output = network(pixels)
    PlasticityInjection(at=1).prepare(network)
    assert not any(isinstance(part, nn.Linear) for part in network.torso)
    assert [type(part).__name__ for part in network.head.learned] == ["Linear", "ReLU", "OutputLinear"]
    assert torch.equal(network(pixels), output)


def test_a_head_can_be_named():
    network = mlp()
    PlasticityInjection(at=1, head="4").prepare(network)
    assert isinstance(network[4], InjectedHead)
    assert isinstance(network[2], nn.Linear)


@pytest.mark.parametrize(
    ("network", "head", "message"),
    [
        (mlp(), "haed", "no submodule 'haed'"),
        (nn.ModuleDict({"a": nn.Linear(2, 2)}), None, "name its head="),
        (nn.Sequential(nn.Linear(2, 2), nn.PReLU(), nn.Linear(2, 1)), None, "PReLU"),
    ],
)
def test_a_head_that_cannot_be_found_or_drawn_is_refused(network, head, message):
    with pytest.raises(ValueError, match=message):
        PlasticityInjection(at=1, head=head).prepare(network)


def test_it_happens_once_and_from_its_own_seed():
    loops = [Loop(mlp, PlasticityInjection(at=2, seed=seed)) for seed in (0, 0, 1)]
    rng = torch.get_rng_state()
    for loop in loops:
        loop.step()
        loop.step()
    fresh = [state(head_of(loop.network).fresh) for loop in loops]
    assert equal(fresh[0], fresh[1])
    assert not equal(fresh[0], fresh[2])
    for _ in range(4):
        loops[0].step()
    assert equal(state(head_of(loops[0].network).fresh), fresh[0])
    assert torch.equal(torch.get_rng_state(), rng)
