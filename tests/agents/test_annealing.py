"""n and γ that change while a run learns: their course, what resets it, and that the replay follows."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agents.build import build_agent
from agents.cli import settings
from agents.training.annealing import NStepAnneal
from plasticity.loops import Loop, mlp
from plasticity.reset import Reset
from plasticity.shrink_perturb import ShrinkPerturb
from tests.agents.test_dqn import RAINBOW
from tests.agents.toys import catch_trainer, run


def literal(since, first, last, steps):
    """The schedule as BBF's code has it: exp of a line between logarithms."""
    share = min(max((steps - since) / steps, 0.0), 1.0)
    return math.exp(share * (math.log(first) - math.log(last)) + math.log(last))


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 50), st.integers(1, 60), st.integers(0, 200))
def test_the_course_is_that_of_the_published_code(first, last, steps, period, update):
    horizon = NStepAnneal((first, last), (0.97, 0.997), steps, [Reset(period), Reset(math.inf)])
    n_step, gamma = horizon.at(update)
    since = update % period
    exact = literal(since, first, last, steps)
    assert abs(n_step - exact) <= 0.5 + 1e-9
    assert 1 - gamma == pytest.approx(literal(since, 0.03, 0.003, steps))
    assert n_step <= horizon.longest
    assert horizon.report(update) == {"n_step": n_step, "gamma": gamma}


def test_both_ends_are_met_exactly_and_what_has_no_end_stays():
    horizon = NStepAnneal((10, 3), (0.97, 0.997), 10_000)
    assert horizon.at(0) == (10, 0.97)
    assert horizon.at(10_000) == horizon.at(10**6) == (3, 0.997)
    fixed = NStepAnneal((10, None), (0.99, None), 10_000, [Reset(5)])
    assert fixed.at(3) == (10, 0.99)
    assert fixed.report(3) == {}


@pytest.mark.parametrize("kind", [Reset, ShrinkPerturb])
@pytest.mark.parametrize(("period", "until"), [(3, 8), (3, math.inf), (math.inf, math.inf), (4, 2), (1, 5)])
def test_methods_tell_after_which_update_they_reset(kind, period, until):
    loop, last = Loop(mlp, method := kind(period=period, until=until)), 0
    for update in range(1, 12):
        before = method.generator.get_state()
        method.after_update(update)
        if not torch.equal(before, method.generator.get_state()):
            last = update
        assert method.last_reset(update) == last
    assert loop.updates == 0


@pytest.mark.parametrize("prioritised", [False, True])
@pytest.mark.parametrize("num_envs", [1, 8])
def test_a_run_learns_from_the_returns_of_the_moment(prioritised, num_envs):
    trainer = catch_trainer(
        num_envs=num_envs, steps=120, update_start=40, batch_size=8, replay_capacity=120, block=3, log_interval=8,
        n_step=6, n_step_final=2, gamma=0.9, gamma_final=0.99, anneal_updates=10,
        plasticity=("reset:period=30,until=60",), **RAINBOW | {"prioritised": prioritised},
    )  # fmt: skip
    asked, sample = [], trainer.replay.sample

    def watched(*sizes, **options):
        asked.append((trainer.agent.updates, options["n_step"], options["gamma"]))
        if prioritised:
            trainer.replay.check()
        return sample(*sizes, **options)

    trainer.replay.sample = watched
    rows = [row for row in run(trainer) if "updates" in row]
    for update, n_step, gamma in asked:
        since = update - min(update // 30, 2) * 30
        assert n_step == round(literal(since, 6, 2, 10))
        assert gamma == pytest.approx(1 - literal(since, 0.1, 0.01, 10))
    found = [n for _, n, _ in asked]
    assert {6, 2} <= set(found)
    assert found != sorted(found, reverse=True)  # it grew again
    assert all((row["n_step"], row["gamma"]) == trainer.n_step_anneal.at(row["updates"]) for row in rows)


def test_no_update_is_made_before_the_longest_return_is_known():
    trainer = catch_trainer(steps=60, update_start=0, batch_size=8, n_step=2, n_step_final=9, anneal_updates=3)
    trainer.open()
    while not trainer.agent.updates:
        trainer.step()
    assert trainer.replay.num_legal(9) >= 8
    assert trainer.replay.num_legal(9) - 1 < 8


def test_the_preset_resets_what_bbf_resets():
    config = settings("rainbow", ["--config", "bbf-like", "--env=Pong", "--compile=false", "--threads=1"])
    assert (config.n_step, config.n_step_final, config.gamma, config.gamma_final) == (10, 3, 0.97, 0.997)
    agent = build_agent(config, (84, 84), 6, seed=0)
    reset, shrink = agent.methods
    convs = [name for name, part in agent.network.named_modules() if isinstance(part, torch.nn.Conv2d)]
    owners = {name.rpartition(".")[0] for name, _ in agent.network.named_parameters()}
    assert set(shrink.chosen) == set(convs)
    assert set(reset.chosen) == owners - set(convs)
    assert [method.last_reset(200_000) for method in (reset, shrink)] == [120_000, 120_000]
