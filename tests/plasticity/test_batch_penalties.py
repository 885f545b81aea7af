"""The methods with a penalty on the data of an update, and ReGraMa, against slow, literal references."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import nap
from agents.networks.encoders import make_network
from plasticity.c_chain import CChain
from plasticity.features import FeatureTap
from plasticity.infer import InFeR, read_features
from plasticity.loops import Loop, cnn, mlp
from plasticity.method import Batch, Method
from plasticity.redo import ReDo
from plasticity.regrama import ReGraMa
from studies.warm_start.networks import ResNet18


def assert_equal_weights(network, other):
    for one, two in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


def losses_of(loop, network):
    """The squared error of the loop's next minibatch by a network, and the inputs of that and of the second one."""
    inputs, labels = loop.batch()
    return (network(inputs) - labels).square().mean(), inputs, loop.reference()


@pytest.mark.parametrize(("after", "window"), [(4, 3), (2, 7), (2, 1)])
@pytest.mark.parametrize("build", [mlp, cnn])
def test_c_chain_is_the_algorithm_with_lists_and_copies_of_the_network(build, after, window):
    strength, ratio = 3.0, 0.4
    loop = Loop(build, CChain(strength, ratio, after, window))
    network = copy.deepcopy(loop.network)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    past, losses, churns, coefficient, used = [copy.deepcopy(network)], [], [], strength, []
    for update in range(1, 10):
        loss, _, reference = losses_of(loop, network)
        churn = torch.zeros(())
        if len(past) >= 2:
            with torch.no_grad():
                before = past[-2](reference)
            churn = F.mse_loss(network(reference), before)
        used.append(coefficient)
        optimizer.zero_grad()
        (loss + coefficient * churn).backward()
        optimizer.step()
        losses.append(loss.item())
        if len(past) >= 2:
            churns.append(churn.item())
        if update >= after:
            coefficient = ratio * np.mean(np.abs(losses[-window:])) / (np.mean(churns[-window:]) + 1e-8)
        past.append(copy.deepcopy(network))
        loop.step()
        assert_equal_weights(loop.network, network)
    assert len(set(used)) > 4  # it adapts
    assert loop.methods[0]._coefficient.item() == pytest.approx(coefficient, rel=1e-3)


def test_chain_with_a_fixed_coefficient_keeps_it():
    loop = Loop(mlp, CChain(strength=100, ratio=0, after=2, window=5)).run(6)
    assert loop.methods[0]._coefficient.item() == 100


def test_c_chain_holds_the_weights_of_the_loss_whatever_other_methods_do_after_the_step():
    class Moves(Method):
        def attach(self, network, target, optimizer):
            self.weight = network[0].weight

        def after_update(self, update, features=None):
            self.weight.data.mul_(0.9)

    loop = Loop(mlp, CChain(), Moves())
    for _ in range(3):
        before = [p.detach().clone() for p in loop.network.parameters()]
        loop.step()
        assert all(map(torch.equal, loop.methods[0]._before, before))


def test_a_loss_that_is_not_finite_does_not_stay_in_the_mean():
    loop = Loop(mlp, method := CChain(3.0, 0.4, after=2, window=4))
    loop.step()
    method._found = torch.tensor([torch.inf, torch.nan])
    method.after_update(2)
    assert method._coefficient.isfinite()


@pytest.mark.parametrize("build", [mlp, cnn])
def test_infer_is_the_definition_head_by_head_with_learning_heads(build):
    strength, scale, count = 0.3, 2.0, 3
    loop = Loop(build, InFeR(strength, scale, count))
    heads = loop.network.get_submodule("infer_heads")
    network = nn.Sequential(*[part for name, part in copy.deepcopy(loop.network).named_children() if name.isdigit()])
    own = [nn.Linear(heads.weight.shape[1], 1) for _ in range(count)]
    for i, head in enumerate(own):
        head.load_state_dict({"weight": heads.weight[i : i + 1].detach(), "bias": heads.bias[i : i + 1].detach()})
    first, first_heads = copy.deepcopy(network), copy.deepcopy(own)
    parameters = [*network.parameters(), *(p for head in own for p in head.parameters())]
    optimizer = torch.optim.Adam(parameters, lr=0.01)
    for _ in range(5):
        loss, inputs, _ = losses_of(loop, network)
        features, goal = network[:-1](inputs), first[:-1](inputs).detach()
        for head, first_head in zip(own, first_heads, strict=True):
            errors = [(head(f) - scale * first_head(g).detach()) ** 2 for f, g in zip(features, goal, strict=True)]
            loss = loss + strength * torch.stack(errors).mean() / count
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loop.step()
        ours = nn.Sequential(*[part for name, part in loop.network.named_children() if name.isdigit()])
        assert_equal_weights(ours, network)
        torch.testing.assert_close(heads.weight, torch.cat([head.weight for head in own]), rtol=1e-4, atol=1e-6)


def test_the_network_at_the_start_has_no_dropout():
    network = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.5), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 2))
    (method := InFeR(1.0)).prepare(network)
    method.attach(network, None, torch.optim.Adam(network.parameters()))
    inputs, features = torch.ones(4, 6), {"3": torch.zeros(4, 12)}
    one, two = (method.batch_penalty(Batch(inputs, None, features, torch.zeros(()))) for _ in range(2))
    assert one == two


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (lambda: make_network("small", 4, (44, 44), 3), [(("torso.6",), 256)]),
        (lambda: make_network("small", 4, (44, 44), 3, dueling=True, streams="shared"), [(("torso.6",), 256)]),
        (
            lambda: make_network("small", 4, (44, 44), 3, dueling=True, noisy=True, size=5),
            [(("head.advantage.activation",), 256), (("head.value.activation",), 256)],
        ),
        (lambda: ResNet18((1, 8, 8), 3, 2), [(("stages.7.relu2",), 16)]),
    ],
)
def test_the_features_are_those_in_front_of_the_outputs(network, expected):
    assert read_features(network()) == expected


def test_a_network_whose_output_follows_no_nonlinearity_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"^infer: the output layer 2 of Sequential reads 1, and no nonlinearity"):
        InFeR().prepare(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)))


@pytest.mark.parametrize("build", [mlp, cnn])
def test_regrama_is_the_definition_unit_by_unit(build):
    tau = 0.7
    loop = Loop(build, ReGraMa(period=4, tau=tau))
    loop.run(3)
    loop.learn()
    layers = [part for part in loop.network if isinstance(part, nn.Linear | nn.Conv2d)]
    before, moments = copy.deepcopy(loop.network), copy.deepcopy(loop.optimizer.state_dict()["state"])
    gradients = [layer.weight.grad.clone() for layer in layers]
    loop.after()
    old = [part for part in before if isinstance(part, nn.Linear | nn.Conv2d)]
    states = [loop.optimizer.state[layer.weight] for layer in layers]
    replaced = 0
    for i, (layer, was, gradient) in enumerate(zip(layers, old, gradients, strict=True)):
        sizes = [np.mean(np.abs(row.numpy())) for row in gradient]
        bound = 1 / np.sqrt(layer.weight[0].numel())
        for unit, size in enumerate(sizes):
            if size <= tau * np.mean(sizes) and i < len(layers) - 1:
                replaced += 1
                assert (layer.weight[unit] != was.weight[unit]).all()
                assert layer.weight[unit].abs().max() <= bound
                assert layer.bias[unit] != was.bias[unit]
                assert states[i]["exp_avg"][unit].abs().sum() == states[i]["exp_avg_sq"][unit].sum() == 0
            else:
                assert torch.equal(layer.weight[unit], was.weight[unit])
                assert torch.equal(states[i]["exp_avg"][unit], moments[2 * i]["exp_avg"][unit])
    assert 2 < replaced < sum(len(layer.weight) for layer in layers[:-1])


def test_regrama_gives_a_dormant_unit_fresh_noise_and_a_fresh_norm():
    network = make_network("small", 4, (44, 44), 3, dueling=True, noisy=True, size=5)
    nap.normalize(network, biases="drop")
    method = ReGraMa(period=1, tau=0)
    method.attach(network, None, torch.optim.Adam(network.parameters()))
    noisy, norm = network.head.value.hidden, network.head.value.activation.norm
    network(torch.zeros(2, 4, 44, 44)).square().sum().backward()
    with torch.no_grad():
        for parameter in (*noisy.parameters(), *norm.parameters()):
            parameter.fill_(7)
        noisy.weight.grad.fill_(1)[3] = 0
    method.after_update(1)
    for name, parameter in noisy.named_parameters():
        assert (parameter[3] != 7).all(), name
        assert (torch.cat([parameter[:3], parameter[4:]]) == 7).all(), name
    assert [norm.weight[3], norm.bias[3]] == [1, 0]
    assert norm.weight.eq(7).sum() == norm.bias.eq(7).sum() == len(norm.weight) - 1


def test_regrama_leaves_a_layer_alone_whose_gradient_is_not_finite():
    loop = Loop(mlp, ReGraMa(period=1, tau=0.9))
    loop.learn()
    for parameter in loop.network.parameters():
        parameter.grad[0] = torch.inf
    before = [p.detach().clone() for p in loop.network.parameters()]
    loop.after()
    assert all(map(torch.equal, loop.network.parameters(), before))


def test_with_tau_0_only_units_without_a_gradient_are_dormant():
    loop = Loop(mlp, ReGraMa(period=1, tau=0))
    loop.network[0].weight.data[5], loop.network[0].bias.data[5] = 0, -1  # a dead unit
    before = loop.network[0].weight.detach().clone()
    loop.learn()
    after = loop.network[0].weight.detach().clone()
    loop.after()
    assert (loop.network[0].weight[5] != before[5]).all()
    assert torch.equal(loop.network[0].weight[:5], after[:5])


@pytest.mark.parametrize("others", [(CChain(5.0),), (InFeR(0.1),), (InFeR(0.1), CChain(5.0))])
def test_passes_of_penalties_leave_the_features_of_the_minibatch(others):
    loop = Loop(mlp, ReDo(period=100), *map(copy.deepcopy, others))
    for _ in range(3):
        with torch.no_grad():
            hidden = loop.network[:2](loop.batch()[0])
        loop.step()
        assert torch.equal(loop.tap.features["1"], hidden)
        assert not loop.tap.features["1"].requires_grad


def test_a_loss_without_the_second_minibatch_that_a_method_wants_is_refused_in_one_line():
    network = mlp()
    tap = FeatureTap(network, [CChain()])
    assert tap.wants_reference
    with pytest.raises(ValueError, match="CChain: the loss needs the inputs of a second minibatch"):
        tap.penalised(network(torch.zeros(2, 6)).mean(), torch.zeros(2, 6))


def test_without_such_methods_nothing_more_is_kept_or_asked_for():
    tap = FeatureTap(mlp(), [ReDo(), CChain(0), InFeR(0), ReGraMa()])
    assert not tap.wants_reference
    assert tap.features.keys() == {"1", "3"}
    assert not tap._kept.attached
