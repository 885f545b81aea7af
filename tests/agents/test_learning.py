import numpy as np
import pytest

from experiment.determinism import parameter_hash
from tests.agents.toys import catch_trainer, run


@pytest.mark.parametrize(
    "settings", [pytest.param({"schedule": "linear"}, marks=pytest.mark.slow), {"nap": True}], ids=["plain", "nap"]
)
def test_catch_is_solved(settings):
    rows = run(catch_trainer(steps=6_000, **settings))
    scores = [row["episode_return"] for row in rows if "episode_return" in row]
    assert np.mean(scores[:50]) < -0.5
    assert np.mean(scores[-100:]) > 0.5


def test_one_seed_gives_one_run_and_two_seeds_two():
    hashes = []
    for seed in (0, 0, 1):
        trainer = catch_trainer(seed, steps=400, nap=True)
        run(trainer)
        hashes.append(parameter_hash(trainer.agent.network))
    assert hashes[0] == hashes[1] != hashes[2]
