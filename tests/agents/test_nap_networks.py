"""NaP on the networks that the agents ship, on frames of real games."""

from itertools import product

import pytest
import torch
from torch import nn

import envs
import nap
from agents.names import NETWORKS
from agents.networks.encoders import make_network
from nap.graph import NormalizedActivation


@pytest.fixture(scope="module")
def frames():
    """uint8 [8, 4, 84, 84] from random play of two games."""
    stacks = []
    for game in ("Breakout", "RoadRunner"):
        env = envs.make(game, "atari100k", seed=0)
        played = [env.reset()] + [env.step([i % env.num_actions]).first_frame for i in range(99)]
        stacks += [torch.stack([torch.from_numpy(frame[0]) for frame in played[i : i + 4]]) for i in (0, 30, 60, 96)]
        env.close()
    return torch.stack(stacks)


@pytest.mark.parametrize(
    ("network", "pool", "norm", "axes"),
    list(
        product([*NETWORKS, "impala:width=0.25"], (False, True), ("layer", "rms"), ("channels", "channels_and_space"))
    ),
)
@torch.no_grad()
def test_every_hidden_weight_is_scale_invariant_but_those_that_feed_a_sum(network, pool, norm, axes, frames):
    torch.manual_seed(0)
    module = make_network(network, 4, (84, 84), 6, pool=pool)
    report = nap.normalize(module, norm=norm, conv_axes=axes, biases="drop")
    assert not report.not_handled
    norms, nonlinearities = (
        sum(isinstance(part, kind) for part in module.modules()) for kind in (NormalizedActivation, nn.ReLU)
    )
    assert norms == nonlinearities
    weights = dict(module.named_parameters())
    hidden = {name for name, p in weights.items() if p.ndim >= 2 and name != "head.weight"}
    summed = {n for n in hidden if "impala" in network and weights[n].ndim == 4 and "conv1" not in n}
    assert dict(report.projected_only) == dict.fromkeys(summed, "feeds a residual sum")
    assert set(report.scale_invariant) == hidden - summed
    assert set(nap.Projection(module).names) == hidden
    assert report.outputs == ["head.weight"]
    output = module(frames)
    for name in hidden - summed:
        for scale in (0.5, 2.0):
            weights[name].mul_(scale)
            assert (module(frames) - output).norm() < 1e-4 * output.norm(), name
            weights[name].div_(scale)
