"""The fast forward is the plain one."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import nap
from studies.grokking.config import NORM_POSITIONS, GrokkingConfig
from studies.grokking.data import make_task
from studies.grokking.model import make_model

SIZE = 13


def norm(model, name, x):
    part = model.get_submodule(name)
    return (
        x if isinstance(part, nn.Identity) else x / (x.square().mean(-1, keepdim=True) + part.eps).sqrt() * part.weight
    )


def stream_of(model, x, y):
    """The residual stream before attention at each of the five positions."""
    tokens = [x, SIZE, y, SIZE + 1, SIZE + 2]
    rows = [model.tokens.weight[t] + model.positions.weight[i] for i, t in enumerate(tokens)]
    return [norm(model, "embedding_norm", row) for row in rows]


def attention(model, normed, head):
    """What the last position attends to."""
    part = slice(32 * head, 32 * head + 32)
    query = norm(model, "query_norm", model.query.weight[part] @ normed[-1])
    scores = [query @ norm(model, "key_norm", model.key.weight[part] @ row) / 32**0.5 for row in normed]
    return torch.stack(scores).softmax(0)


def textbook(model, pairs):
    """The transformer once more, one example, head and position at a time, from the weights alone."""
    outputs = []
    for x, y in pairs.tolist():
        stream = stream_of(model, x, y)
        normed = [norm(model, "attention_norm", row) for row in stream]
        taken = []
        for head in range(4):
            value, weights = model.value.weight[32 * head : 32 * head + 32], attention(model, normed, head)
            taken.append(sum(w * (value @ row) for w, row in zip(weights, normed, strict=True)))
        last = stream[-1] + norm(model, "attention_output_norm", model.output.weight @ torch.cat(taken))
        hidden = model.up.weight @ norm(model, "mlp_norm", last)
        if isinstance(model.activation, nap.NormalizedActivation):
            hidden = norm(model, "activation.norm", hidden)
        last = last + norm(model, "mlp_output_norm", model.down.weight @ hidden.relu())
        outputs.append(model.head.weight @ norm(model, "final_norm", last))
    return torch.stack(outputs)


def gradients(model, logits, answers):
    loss = F.cross_entropy(logits, answers)
    return torch.autograd.grad(loss, list(model.parameters()))


def assert_same(model, fast, slow, answers):
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-10)
    pairs = zip(gradients(model, fast, answers), gradients(model, slow, answers), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-11)


def perturbed(config, seed):
    """A model whose norms have scales that matter; in float64, where rounding hides nothing."""
    model = make_model(config, SIZE, seed).double()
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


@settings(max_examples=12, deadline=None)
@given(norms=st.sets(st.sampled_from(NORM_POSITIONS)), norm=st.sampled_from(["rms", "none"]), seed=st.integers(0, 9))
def test_the_transformers_fast_forward_is_the_plain_one(norms, norm, seed):
    task = make_task("add", SIZE, 0.3, seed)
    model = perturbed(GrokkingConfig(norm=norm, norm_positions=tuple(norms)), seed)
    pairs, answers = task.pairs[task.train], task.answers[task.train]
    assert_same(model, model(pairs), model.plain(pairs), answers)
    assert_same(model, model(pairs[:3]), textbook(model, pairs[:3]), answers[:3])


@pytest.mark.parametrize("norm", ["rms", "none"])
def test_the_mlps_fast_forward_is_the_plain_one(norm):
    task = make_task("mul", SIZE, 0.3, 0)
    model = perturbed(GrokkingConfig(model="mlp", norm=norm), 0)
    pairs, answers = task.pairs[task.train], task.answers[task.train]
    assert_same(model, model(pairs), model.plain(pairs), answers)


def test_attention_entropy_is_that_of_the_weights():
    model = make_model(GrokkingConfig(), SIZE, 0)
    pairs = make_task("add", SIZE, 0.5, 0).pairs
    for part in (model.query, model.key):
        part.weight.data.zero_()
    assert model.attention_entropy(pairs).item() == pytest.approx(torch.tensor(5.0).log().item())


@pytest.mark.parametrize("norms", [(), ("attention", "query", "key")])
def test_attention_entropy_is_that_of_uneven_weights(norms):
    model = perturbed(GrokkingConfig(norm_positions=norms), 3)
    (model.query_norm if "query" in norms else model.query).weight.data.mul_(4)
    pairs = make_task("add", SIZE, 0.5, 0).pairs[:6]
    entropies = []
    for x, y in pairs.tolist():
        normed = [norm(model, "attention_norm", row) for row in stream_of(model, x, y)]
        entropies += [torch.special.entr(attention(model, normed, head)).sum() for head in range(4)]
    found = model.attention_entropy(pairs)
    torch.testing.assert_close(found, torch.stack(entropies).mean(), rtol=1e-9, atol=1e-10)
    assert found < 1.5  # of log 5 = 1.61


def test_nap_understands_the_networks():
    report = nap.analyze(make_model(GrokkingConfig(norm_positions=NORM_POSITIONS), SIZE, 0))
    assert report.outputs == ["head.weight"]
    assert not report.outputs_unknown
    assert {"up.weight", "down.weight", "output.weight"} <= set(report.scale_invariant)
    report = nap.analyze(make_model(GrokkingConfig(model="mlp"), SIZE, 0))
    assert report.outputs == ["head.weight"]
    assert not report.outputs_unknown


def test_a_norm_stands_before_every_nonlinearity():
    for kind in ("transformer", "mlp"):
        model = make_model(GrokkingConfig(model=kind), SIZE, 0)
        inside = {id(part.activation) for part in model.modules() if isinstance(part, nap.NormalizedActivation)}
        assert all(id(part) in inside for part in model.modules() if isinstance(part, nn.ReLU))
