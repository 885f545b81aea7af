"""`--projection hyperball` in the grokking study."""

from dataclasses import replace

import pytest

import nap
from experiment.config import ConfigError
from studies.grokking.config import GrokkingConfig
from tests.studies.grokking.test_command import train
from tests.studies.grokking.test_learner import SMALL, learner

FIXED = replace(SMALL, projection="hyperball", hyperball_scale=2.0, delay=0, warmup=1)


@pytest.mark.parametrize("with_head", [True, False])
def test_an_update_turns_each_matrix_but_embeddings_by_scale_times_the_rate(with_head):
    made = learner(replace(FIXED, project_head=with_head))
    assert ("head.weight" in made.projection.names) == with_head
    assert "tokens.weight" not in made.projection.names
    made.update()  # at a rate of low_lr
    for _ in range(4):
        before = nap.snapshot(made.model)
        made.update()
        turned = nap.rotation(before, nap.snapshot(made.model))
        for name in made.projection.names:
            assert float(turned[name]) == pytest.approx(2 * made.lr(), rel=0.15)
    assert float(turned["tokens.weight"]) != pytest.approx(2 * made.lr(), rel=0.15)
    for name, norm in made.projection.norms().items():
        assert float(norm) == pytest.approx(float(made.projection.initial_norms[name]), rel=1e-6)


def test_the_command_trains_and_reports_the_rate_of_each_matrix(tmp_path):
    result, rows = train(tmp_path, "fixed", "--projection", "hyperball", "--hyperball-scale", "3")
    assert result["updates"] == 30
    assert rows[-1]["norm/up.weight"] == pytest.approx(rows[0]["norm/up.weight"], rel=1e-6)
    assert rows[-1]["elr/up.weight"] == pytest.approx(3 * rows[-1]["lr"], rel=1e-6)


def test_a_scale_without_hyperball_is_refused():
    with pytest.raises(ConfigError, match="--hyperball-scale has no effect with --projection frobenius"):
        GrokkingConfig(hyperball_scale=2.0).resolved()
