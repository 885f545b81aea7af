"""Other methods of the study against literal references: Clip to Grok, StableMax, OrthoGrad, norms that are held."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import nap
from experiment.config import ConfigError
from studies.grokking.config import GrokkingConfig
from studies.grokking.learner import log_stablemax
from studies.grokking.model import make_model
from tests.studies.grokking.test_command import train
from tests.studies.grokking.test_learner import FREE, SMALL, learner

CLIP = replace(SMALL, projection="clip", clip_norm=1.5, schedule="constant", delay=2_000, warmup=0, lr=0.1)
STABLE = replace(FREE, loss="stablemax")
ORTHOGONAL = replace(FREE, orthogonal_gradient=True, beta2=0.98)


def stablemax(logits):
    """Probabilities, entry by entry."""
    sizes = [[x + 1 if x >= 0 else 1 / (1 - x) for x in row] for row in logits.tolist()]
    return [[size / sum(row) for size in row] for row in sizes]


def test_stablemax_is_the_formula_and_has_a_gradient_everywhere():
    logits = torch.tensor([[0.0, 1.0, -1.0, 5.5], [-30.0, -0.25, 1e6, 2.0]], requires_grad=True)
    found = log_stablemax(logits).softmax(-1)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, torch.tensor(stablemax(logits), dtype=torch.float64), rtol=1e-12, atol=0)
    log_stablemax(logits).sum().backward()
    expected = [[1 / (1 + abs(x)) for x in row] for row in logits.tolist()]
    torch.testing.assert_close(logits.grad, torch.tensor(expected))


def literal(config, updates):
    """The same run with torch's plain optimiser, the textbook network, and one parameter at a time."""
    made, model = learner(config), make_model(config, config.modulus, 1).double()
    rate = torch.tensor(config.lr).item()
    optimizer = torch.optim.AdamW(model.parameters(), rate, (config.beta1, config.beta2), weight_decay=0)
    for _ in range(updates):
        chosen = torch.randint(len(made.pairs), (config.batch_size,), generator=made.generator)
        logits, answers = model.plain(made.pairs[chosen]), made.answers[chosen]
        model.zero_grad()
        if config.loss == "stablemax":
            sizes = torch.where(logits < 0, 1 / (1 - logits), logits + 1)
            (-(sizes / sizes.sum(-1, keepdim=True)).gather(1, answers[:, None]).log().mean()).backward()
        else:
            F.cross_entropy(logits, answers).backward()
        for p in model.parameters() if config.orthogonal_gradient else ():
            w, g = p.detach().flatten(), p.grad.flatten()
            across = g - (w @ g) / (w @ w) * w
            p.grad.copy_((across * (g.norm() / across.norm())).view_as(p))
        optimizer.step()
    return model


@pytest.mark.parametrize("config", [STABLE, ORTHOGONAL, replace(STABLE, orthogonal_gradient=True)])
def test_a_run_is_its_literal_reference(config):
    made = learner(config, torch.float64)
    for _ in range(8):
        made.update()
    for (name, p), expected in zip(made.model.named_parameters(), literal(config, 8).parameters(), strict=True):
        torch.testing.assert_close(p, expected, rtol=1e-6, atol=1e-8, msg=name)


def test_an_orthogonal_gradient_keeps_its_length_and_leaves_the_weight():
    made = learner(replace(SMALL, orthogonal_gradient=True), torch.float64)
    seen = {}

    def before(optimizer, *_):
        seen.update({name: (p.detach().clone(), p.grad.clone()) for name, p in made.model.named_parameters()})

    made.optimizer.register_step_pre_hook(before)
    plain = learner(SMALL, torch.float64)
    pairs, answers = plain._batch()
    plain.loss(pairs, answers)[0].backward()
    made.update()
    for name, p in plain.model.named_parameters():
        weight, gradient = seen[name]
        assert torch.equal(weight, p)
        cosine = F.cosine_similarity(weight.flatten(), gradient.flatten(), dim=0)
        assert abs(cosine.item()) < 1e-12, name
        torch.testing.assert_close(gradient.norm(), p.grad.norm(), rtol=1e-12, atol=0)


def rows(model):
    return {name: p.detach().norm(dim=-1) for name, p in model.named_parameters()}


@pytest.mark.parametrize("model", ["transformer", "mlp"])
def test_clip_starts_every_row_at_the_norm_and_cuts_those_above_it(model):
    made = learner(replace(CLIP, model=model))
    for name, norms in rows(made.model).items():
        torch.testing.assert_close(norms, torch.full_like(norms, 1.5), msg=name)
    loose = {"tokens.weight", "x.weight", "y.weight", "head.weight"}
    for _ in range(4):
        before, state = copy.deepcopy(made.model), copy.deepcopy(made.optimizer.state_dict())
        batches = made.generator.get_state()
        made.update()
        twin = learner(replace(CLIP, model=model, projection="off", clip_norm=2.0))  # the same step, without a clip
        twin.model.load_state_dict(before.state_dict())
        nap.load_optimizer_state(twin.optimizer, regrouped(state, made, twin))
        twin.generator.set_state(batches)
        twin.updates = made.updates - 1
        twin.update()
        for (name, p), free in zip(made.model.named_parameters(), twin.model.parameters(), strict=True):
            lengths = free.detach().norm(dim=-1, keepdim=True)
            factor = torch.ones_like(lengths) if name in loose else (1.5 / lengths).clamp(max=1.0)
            torch.testing.assert_close(p.detach(), free.detach() * factor, rtol=1e-5, atol=1e-6, msg=name)
    after = rows(made.model)
    assert all((after[name] > 1.51).any() for name in loose & after.keys())
    assert model == "mlp" or any((norms < 1.4999).any() for name, norms in after.items() if name not in loose)
    assert all((norms < 1.5001).all() for name, norms in after.items() if name not in loose)


def regrouped(state, made, twin):
    """The state of one learner's optimiser in the groups of another's."""
    place = {id(p): i for i, p in enumerate(p for group in made.optimizer.param_groups for p in group["params"])}
    names = {name: place[id(p)] for name, p in made.model.named_parameters()}
    order = {id(p): name for name, p in twin.model.named_parameters()}
    flat = [order[id(p)] for group in twin.optimizer.param_groups for p in group["params"]]
    own = twin.optimizer.state_dict()
    found = {i: state["state"][names[name]] for i, name in enumerate(flat) if names[name] in state["state"]}
    return {"state": found, "param_groups": own["param_groups"]}


@pytest.mark.parametrize("scope", ["all", "inner"])
@pytest.mark.parametrize("projection", ["frobenius", "hyperball"])
def test_norms_are_held_at_a_multiple_from_the_start(projection, scope):
    drawn = nap.weight_norms(make_model(SMALL, SMALL.modulus, 1))
    made = learner(replace(SMALL, projection=projection, hold_norm_at=2.5, hold_norm_of=scope, low_lr=1e-2))
    for _ in range(4):
        for name in made.projection.names:
            multiple = 1.0 if scope == "inner" and name == "head.weight" else 2.5
            assert float(made.projection.norms()[name] / drawn[name]) == pytest.approx(multiple, rel=1e-5), name
        made.update()
    fresh = learner(made.config)
    fresh.load_state_dict(copy.deepcopy(made.state_dict()))
    made.update()
    fresh.update()
    assert all(map(torch.equal, made.model.parameters(), fresh.model.parameters()))


def test_the_scales_of_norms_may_have_a_rate_of_their_own():
    made = learner(replace(SMALL, schedule="constant", delay=2_000, warmup=2, scale_lr=3e-4))
    for _ in range(4):
        made.update()
    names = {id(p): name for name, p in made.model.named_parameters()}
    rates = {names[id(p)]: group["lr"].item() for group in made.optimizer.param_groups for p in group["params"]}
    assert rates.keys() == dict(made.model.named_parameters()).keys()
    for name, rate in rates.items():
        assert rate == pytest.approx(3e-4 if name.endswith("norm.weight") else SMALL.lr), name


@pytest.mark.parametrize("config", [CLIP, STABLE, replace(SMALL, orthogonal_gradient=True, scale_lr=1e-3)])
def test_a_state_goes_on_to_the_bit(config):
    whole, parts = learner(config), learner(config)
    for made, updates in ((whole, 8), (parts, 4)):
        for _ in range(updates):
            made.update()
    resumed = learner(config)
    resumed.load_state_dict(copy.deepcopy(parts.state_dict()))
    for _ in range(4):
        resumed.update()
    assert all(map(torch.equal, resumed.model.parameters(), whole.model.parameters()))


@pytest.mark.parametrize("words", ["--projection clip --scale-decay 0", "--loss stablemax", "--orthogonal-gradient"])
def test_the_command_trains_with_each(tmp_path, words):
    result, found = train(tmp_path, "run", *words.split())
    plain, _ = train(tmp_path, "plain")
    assert result["parameter_hash"] != plain["parameter_hash"]
    assert found[-1]["train_loss"] > 0


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"clip_norm": 1.0}, "--clip-norm has no effect with --projection frobenius: leave it out"),
        ({"projection": "off", "hold_norm_at": 2.0}, "--hold-norm-at has no effect with --projection off"),
        ({"projection": "clip", "hold_norm_at": 2.0}, "--hold-norm-at has no effect with --projection clip"),
        ({"hold_norm_of": "inner"}, "--hold-norm-of has no effect with --hold-norm-at 1.0"),
        ({"norm": "none", "scale_lr": 1e-3}, "--scale-lr has no effect with --norm none"),
    ],
)
def test_what_has_no_effect_is_refused(settings, says):
    with pytest.raises(ConfigError, match=says):
        replace(GrokkingConfig(), **settings).resolved()
