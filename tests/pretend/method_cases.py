"""Every plasticity method on the pretend device, in an agent and in a supervised study: the CPU's bits, no waits."""

import pytest

from tests.pretend.trainers import check_same

# ruff: isort: split
from tests.plasticity.test_every_method import ACTIVE


@pytest.mark.parametrize("name", ACTIVE)
def test_a_method_works_there_as_on_the_cpu(name):
    check_same(plasticity=(name + ACTIVE[name],))


def test_methods_together_with_nap_on_a_low_precision_copy_work_there_as_on_the_cpu():
    names = ("redo", "l2-init", "shrink-perturb", "spectral")
    check_same(plasticity=tuple(name + ACTIVE[name] for name in names), nap=True, precision="bf16")
