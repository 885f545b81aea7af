"""NaP on the networks that the agents ship, on frames of real games."""

from itertools import product

import pytest
import torch

import envs
import nap
from agents.names import NETWORKS
from agents.networks.encoders import make_network


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
    ("network", "norm", "axes"), list(product(NETWORKS, ("layer", "rms"), ("channels", "channels_and_space")))
)
@torch.no_grad()
def test_every_hidden_weight_is_scale_invariant(network, norm, axes, frames):
    torch.manual_seed(0)
    module = make_network(network, 4, (84, 84), 6)
    report = nap.normalize(module, norm=norm, conv_axes=axes, biases="drop")
    assert not report.not_handled
    assert not report.projected_only
    weights = dict(module.named_parameters())
    hidden = {name for name, p in weights.items() if p.ndim >= 2 and name != "head.weight"}
    assert set(report.scale_invariant) == hidden == set(nap.Projection(module).names)
    assert report.outputs == ["head.weight"]
    output = module(frames)
    for name in hidden:
        for scale in (0.5, 2.0):
            weights[name].mul_(scale)
            assert (module(frames) - output).norm() < 1e-4 * output.norm(), name
            weights[name].div_(scale)
