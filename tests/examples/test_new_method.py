"""The example of a new method, in an agent and in a supervised loop, by its import path."""

import subprocess
import sys
from pathlib import Path

import pytest

import examples.new_method
import examples.own_loop
from examples.own_loop import train
from experiment.determinism import parameter_hash
from plasticity.registry import make
from plasticity.testing import check_method
from tests.agents.test_dqn import block, learner

PATH = "examples.new_method:MyMethod"


@pytest.mark.parametrize("module", [examples.new_method, examples.own_loop])
def test_it_is_short(module):
    assert len(Path(module.__file__).read_text().splitlines()) <= 40


def test_a_supervised_loop_uses_it_and_others():
    plain, noisy = train([], tasks=2, updates=20), train([f"{PATH}:scale=0.05"], tasks=2, updates=20)
    assert plain != noisy
    assert train([f"{PATH}:scale=0"], tasks=2, updates=20) == plain
    assert train([PATH, "redo:period=5", "nap", "l2-init"], tasks=1, updates=20)[0] < 10


def test_an_agent_uses_it():
    plain, noisy, off = (learner(plasticity=specs) for specs in ((), (PATH,), (f"{PATH}:scale=0",)))
    for agent in (plain, noisy, off):
        for batch in agent.bootstrap(block()):
            agent.update(batch)
    assert parameter_hash(plain.network) == parameter_hash(off.network) != parameter_hash(noisy.network)


@pytest.mark.parametrize("scale", [0.0, 0.01])
def test_it_keeps_the_contract_of_methods(scale):
    check_method(PATH, scale=scale)


def test_the_loop_runs_from_the_command_line():
    argv = [sys.executable, "-m", "examples.own_loop", f"{PATH}:scale=0.01", "redo:period=100"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert len([float(loss) for loss in done.stdout.split()]) == 5


def test_a_bad_number_is_refused():
    with pytest.raises(ValueError, match="MyMethod: scale=-1"):
        make([f"{PATH}:scale=-1"])
