"""LayerNorm: NaP's network without its projection."""

import pytest
import torch

import nap
from plasticity.layer_norm import LayerNorm
from plasticity.loops import Loop, cnn, mlp
from plasticity.nap import NaP
from plasticity.registry import make


@pytest.mark.parametrize("options", [{}, {"norm": "rms"}, {"axes": "channels_and_space"}])
@pytest.mark.parametrize("build", [mlp, cnn])
def test_it_is_nap_but_for_the_projection(build, options):
    free, kept = Loop(build, LayerNorm(**options)), Loop(build, NaP(**options))
    assert str(free.network) == str(kept.network)
    inputs, _ = free.batch()
    assert torch.equal(free.network(inputs), kept.network(inputs))
    projection = nap.Projection(free.network)
    for loop in (free, kept):
        loop.run(20)
    grown = [float(norm / projection.initial_norms[name]) for name, norm in projection.norms().items()]
    assert min(grown) > 1.001
    for name, norm in kept.methods[0].projection.norms().items():
        assert float(norm) == pytest.approx(float(projection.initial_norms[name]), rel=1e-5)


def test_with_nap_it_is_nap():
    both, kept = Loop(mlp, *make(["nap", "layer-norm"])).run(5), Loop(mlp, NaP()).run(5)
    assert all(map(torch.equal, both.values(), kept.values()))


def test_a_network_that_has_its_norms_is_refused():
    with pytest.raises(ValueError, match=r"^layer-norm: Sequential has its norms already: leave the method out$"):
        Loop(cnn, LayerNorm(), normalized=True)


def test_what_cannot_be_normalised_is_refused_by_its_name():
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Softmax(-1), torch.nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"^LayerNorm cannot normalise this network: .*1"):
        LayerNorm().prepare(network)
