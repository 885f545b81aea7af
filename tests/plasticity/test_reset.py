import copy
import math

import pytest
import torch

from plasticity.loops import Loop, cnn, mlp
from plasticity.reset import Reset
from plasticity.shrink_perturb import ShrinkPerturb


def drawn(network, layers, state):
    """What a generator in this state draws for these layers, one parameter after the other."""
    generator = torch.Generator()
    generator.set_state(state)
    fresh = {}
    for name in layers:
        layer = network.get_submodule(name)
        bound = 1 / math.sqrt(layer.weight[0].numel())
        for key in ("weight", "bias"):
            parameter = getattr(layer, key)
            fresh[f"{name}.{key}"] = torch.empty_like(parameter).uniform_(-bound, bound, generator=generator)
    return fresh


@pytest.mark.parametrize(
    ("build", "layers", "names"),
    [(mlp, ("output",), ["4"]), (mlp, ("2", "4"), ["2", "4"]), (cnn, ("all",), ["0", "2", "5", "7"])],
)
def test_a_reset_draws_the_layers_anew_and_starts_their_optimiser_again(build, layers, names):
    loop = Loop(build, method := Reset(period=4, layers=layers))
    for _ in range(3):
        loop.step()
    loop.learn()
    before, target = copy.deepcopy(loop.network.state_dict()), copy.deepcopy(loop.target.state_dict())
    fresh = drawn(loop.network, names, method.generator.get_state())
    method.after_update(4, None)
    for name, parameter in loop.network.named_parameters():
        assert torch.equal(parameter, fresh.get(name, before[name]))
        state = loop.optimizer.state[parameter]
        assert state["step"] == (0 if name in fresh else 4)
        assert bool(state["exp_avg"].any()) != (name in fresh)
        assert bool(state["exp_avg_sq"].any()) != (name in fresh)
        assert torch.equal(loop.target.state_dict()[name], target[name])


@pytest.mark.parametrize("method", [Reset(layers=("all",)), ShrinkPerturb()])
def test_a_layer_that_cannot_be_drawn_is_refused_at_once(method):
    network = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.PReLU(), torch.nn.Linear(3, 2))
    with pytest.raises(
        ValueError, match=r"^(reset|shrink-perturb): it is not known how a PReLU draws its initial weight"
    ):
        method.attach(network, None, torch.optim.Adam(network.parameters()))


def test_after_a_reset_adam_moves_as_from_its_start():
    loop = Loop(mlp, Reset(period=4, layers=("all",)))
    for _ in range(4):
        loop.step()
    before = copy.deepcopy(list(loop.network.parameters()))
    loop.learn()
    largest = max((p - q).abs().max().item() for p, q in zip(loop.network.parameters(), before, strict=True))
    assert largest == pytest.approx(0.01, rel=1e-3)  # the learning rate, not √10 of it


def test_a_target_of_its_own_draw():
    loop = Loop(mlp, method := Reset(period=2, target="draw"))
    fresh = None
    for _ in range(2):
        state = method.generator.get_state()
        loop.step()
    fresh = drawn(loop.network, ["4", "4"], state)
    assert not torch.equal(loop.target[4].weight, loop.network[4].weight)
    assert torch.equal(loop.target[4].weight, fresh["4.weight"])


def test_periods_and_the_last_reset():
    loop, resets = Loop(mlp, method := Reset(period=3, until=8)), []
    method.change = lambda parameters, fresh: resets.append(loop.updates)
    for _ in range(12):
        loop.step()
    assert resets == [3, 6]


@pytest.mark.parametrize("normalized", [False, True])
def test_shrink_and_perturb_is_a_step_towards_a_fresh_draw(normalized):
    loop = Loop(cnn, method := ShrinkPerturb(period=2, strength=0.3), normalized=normalized)
    loop.step()
    loop.learn()
    generator = torch.Generator()
    generator.set_state(method.generator.get_state())
    networks = [(loop.network, copy.deepcopy(loop.network)), (loop.target, copy.deepcopy(loop.target))]
    moments = copy.deepcopy([loop.optimizer.state[p] for p in loop.network.parameters()])
    method.after_update(2)
    norms = 0
    for network, old in networks:
        for (name, now), before in zip(network.named_parameters(), old.parameters(), strict=True):
            owner = network.get_submodule(name.rpartition(".")[0])
            if "norm" in name:
                fresh, norms = torch.full_like(now, float("weight" in name)), norms + 1
            else:
                bound = 1 / math.sqrt(owner.weight[0].numel())
                fresh = torch.empty_like(now).uniform_(-bound, bound, generator=generator)
            torch.testing.assert_close(now, 0.7 * before + 0.3 * fresh)
    assert (norms > 0) == normalized
    for parameter, before in zip(loop.network.parameters(), moments, strict=True):
        assert all(torch.equal(loop.optimizer.state[parameter][key], before[key]) for key in before)


def test_a_target_may_be_left_alone():
    loop = Loop(mlp, ShrinkPerturb(period=1, target="keep"))
    before = copy.deepcopy(loop.target.state_dict())
    loop.step()
    assert all(torch.equal(before[key], value) for key, value in loop.target.state_dict().items())


@pytest.mark.parametrize(("layers", "said"), [(("outputs",), "outputs"), (("3",), "'3'"), (("torso.*",), "torso")])
def test_a_layer_that_is_not_there_is_named(layers, said):
    with pytest.raises(ValueError, match="is no layer of Sequential") as error:
        Loop(mlp, Reset(layers=layers))
    assert said in str(error.value)
