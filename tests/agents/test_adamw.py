import copy

import pytest
import torch
from torch import nn

from agents.training.adamw import FusedAdamW

OPTIONS = {"eps": 1e-5, "weight_decay": 0.01}


def pair():
    """The same network twice: with torch's optimiser and with ours."""
    torch.manual_seed(0)
    theirs = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    ours = copy.deepcopy(theirs)
    rate = torch.tensor(0.1)
    return (
        (theirs, torch.optim.AdamW(theirs.parameters(), rate.clone(), fused=True, **OPTIONS)),
        (ours, FusedAdamW(ours.parameters(), rate.clone(), **OPTIONS)),
    )


def steps(pairs, count=3):
    inputs = torch.randn(count, 5, 4, generator=torch.Generator().manual_seed(1))
    for network, optimizer in pairs:
        for x in inputs:
            optimizer.zero_grad()
            network(x).square().sum().backward()
            optimizer.step()


def assert_equal(pairs):
    (theirs, first), (ours, second) = pairs
    for a, b in zip(theirs.parameters(), ours.parameters(), strict=True):
        assert torch.equal(a, b)
        assert first.state[a].keys() == second.state[b].keys()
        assert all(torch.equal(value, second.state[b][name]) for name, value in first.state[a].items())


def test_it_has_the_bits_and_the_state_dict_of_torchs():
    pairs = pair()
    steps(pairs)
    assert_equal(pairs)
    states = [optimizer.state_dict() for _, optimizer in pairs]
    assert states[0]["param_groups"] == states[1]["param_groups"]


def freeze_a_layer(network, optimizer):
    network[0].requires_grad_(False)


def load(network, optimizer):
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def replace_a_moment(network, optimizer):
    optimizer.state[network[0].weight]["exp_avg"] = torch.ones(8, 4)


def delete_a_state(network, optimizer):
    del optimizer.state[network[2].bias]


def add_a_group(network, optimizer):
    network.append(nn.Linear(2, 2))
    nn.init.ones_(network[3].weight), nn.init.zeros_(network[3].bias)
    optimizer.add_param_group({"params": list(network[3].parameters())})


def change_the_rate(network, optimizer):
    optimizer.param_groups[0]["lr"].fill_(0.01)


@pytest.mark.parametrize(
    "change", [freeze_a_layer, load, replace_a_moment, delete_a_state, add_a_group, change_the_rate]
)
def test_what_changes_between_steps_counts_in_the_next_one(change):
    pairs = pair()
    steps(pairs)
    for network, optimizer in pairs:
        change(network, optimizer)
    steps(pairs)
    assert_equal(pairs)


def test_a_copy_steps_its_own_parameters():
    (_, _), (network, optimizer) = pair()
    steps([(network, optimizer)])
    before = [p.clone() for p in network.parameters()]
    steps([copy.deepcopy((network, optimizer))])
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_found_inf_leaves_a_step_out():
    pairs = pair()
    steps(pairs)
    for _, optimizer in pairs:
        optimizer.found_inf = torch.ones(())
    before = [p.clone() for p in pairs[1][0].parameters()]
    steps(pairs, 1)
    assert all(torch.equal(a, b) for a, b in zip(before, pairs[1][0].parameters(), strict=True))
    assert_equal(pairs)


def test_hooks_run_once_and_a_closure_computes_the_gradients():
    (_, _), (network, optimizer) = pair()
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))

    def closure():
        loss = network(torch.ones(1, 4)).square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).requires_grad
    assert seen == ["before", "after"]
