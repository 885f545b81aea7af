"""The comparison of DER's update is fair."""

import numpy as np
import pytest

from agents.build import build_agent
from benchmarks import der
from benchmarks.speed.der_recipe import Network, Tree, recipe_run
from benchmarks.speed.replays import FRAME_SHAPE
from benchmarks.speed.settings import Timing

SETTINGS = Timing(threads=1, compile=False)


def test_the_script_has_a_network_of_the_same_size():
    agent = build_agent(der.der_config(SETTINGS), FRAME_SHAPE, der.ACTIONS, seed=0)
    script = Network(der.ACTIONS, 51, 0.1)
    assert sum(p.numel() for p in script.parameters()) == sum(p.numel() for p in agent.network.parameters())


def test_everyone_updates():
    config = der.der_config(SETTINGS, "--batch-size=4", "--max-grad-norm=10")
    der.ours(config, 2)(1)
    recipe_run(config, der.ACTIONS, 500, compile=False)(2)


def test_the_scripts_tree_draws_in_proportion():
    tree, random = Tree(600), np.random.default_rng(0)
    tree.set(np.arange(600), np.arange(600.0))
    index, probability = tree.draw(20_000, random)
    assert probability == pytest.approx(index / np.arange(600.0).sum())
    assert index.mean() == pytest.approx((np.arange(600.0) ** 2).sum() / np.arange(600.0).sum(), rel=0.01)
