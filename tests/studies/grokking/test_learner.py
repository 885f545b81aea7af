"""One update: the optimiser's variants against literal references, the schedule, the projection."""

import copy
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

import nap
from experiment.config import ConfigError
from plasticity.layers import draw_network
from plasticity.registry import METHODS, make
from studies.grokking.config import OPTIONS, GrokkingConfig
from studies.grokking.constraints import global_norm
from studies.grokking.data import make_task
from studies.grokking.learner import Learner
from studies.grokking.model import make_model

SMALL = GrokkingConfig(
    modulus=7, fraction=0.5, batch_size=16, delay=3, warmup=2, anneal=5, schedule="rewarm", precision="fp32"
)
FREE = replace(SMALL, norm="none", projection="off", schedule="constant", delay=2_000, warmup=0, lr=1e-3)


def learner(config, dtype=torch.float32):
    task, methods = make_task(config.operation, config.modulus, config.fraction, 0), make(config.plasticity, 3)
    model = make_model(config, task.size, 1)
    for method in methods:
        method.prepare(model)
    return Learner(config.resolved(), task, model.to(dtype), 2, methods)


def literal(config, updates):
    """The same run with torch's plain optimisers and one parameter at a time; the parameters after each update."""
    made = learner(config)
    model = make_model(config, config.modulus, 1).double()
    kind = torch.optim.Adam if config.coupled_decay else torch.optim.AdamW
    betas = (config.beta1, config.beta2)
    lr = torch.tensor(config.lr).item()  # the learner holds it as float32
    optimizer = kind(model.parameters(), lr=lr, betas=betas, weight_decay=config.weight_decay)
    initial = math.sqrt(sum(float(p.detach().square().sum()) for p in model.parameters()))
    averages = {}
    if config.optimizer == "omnigrok":
        for p in model.parameters():
            p.data *= config.omnigrok_alpha
    for _ in range(updates):
        chosen = torch.randint(len(made.pairs), (config.batch_size,), generator=made.generator)
        model.zero_grad()
        F.cross_entropy(model.plain(made.pairs[chosen]), made.answers[chosen]).backward()
        if config.optimizer == "grokfast-ema":
            for name, p in model.named_parameters():
                averages.setdefault(name, p.grad.clone())
                averages[name] = averages[name] * config.grokfast_alpha + p.grad * (1 - config.grokfast_alpha)
                p.grad += averages[name] * config.grokfast_lambda
        optimizer.step()
        if config.optimizer == "omnigrok":
            size = math.sqrt(sum(float(p.detach().square().sum()) for p in model.parameters()))
            for p in model.parameters():
                p.data *= config.omnigrok_alpha * initial / size
    return model


@pytest.mark.parametrize(
    "variant",
    [
        {"weight_decay": 1.0},
        {"weight_decay": 0.1, "coupled_decay": True},
        {"optimizer": "grokfast-ema", "weight_decay": 0.005, "coupled_decay": True, "beta2": 0.98},
        {"optimizer": "omnigrok"},
    ],
)
def test_each_optimiser_is_its_literal_reference(variant):
    config = replace(FREE, **variant)
    made = learner(config, torch.float64)  # Adam makes whole steps of gradients that are rounding errors
    for _ in range(8):
        made.update()
    for (name, p), expected in zip(made.model.named_parameters(), literal(config, 8).parameters(), strict=True):
        torch.testing.assert_close(p, expected, rtol=1e-6, atol=1e-8, msg=name)


ACTING = {
    "reset": "reset:period=2",
    "shrink-perturb": "shrink-perturb:period=2",
    "redo": "redo:period=2,tau=1",
    "cbp": "cbp:rate=0.5,maturity=0",
    "hare-tortoise": "hare-tortoise:period=2",
    "dash": "dash:period=2",
    "fire": "fire:period=2",
    "snr": "snr:level=0.5,longest=2",
    "regrama": "regrama:period=2,tau=1",
    "optimizer-reset": "optimizer-reset:period=2",
    "adam-rel": "adam-rel:period=2",
    "c-chain": "c-chain:after=2,window=2",
}
REFUSED = {
    "transformer": {
        "injection": "Transformer is no Sequential, nor torso and head: name its head=",
        "infer": "the output layer head of Transformer reads final_norm, and no nonlinearity",
    },
    "mlp": {
        "crelu": "activation1 of MLP cannot be replaced: it follows add",
        "injection": "MLP is no Sequential, nor torso and head: name its head=",
    },
}


@pytest.mark.parametrize("model", REFUSED)
@pytest.mark.parametrize("name", [name for name in METHODS if name not in OPTIONS])
def test_every_method_trains_or_is_refused(name, model):
    config = replace(SMALL, model=model, plasticity=(ACTING.get(name, name),))
    if name in REFUSED[model]:
        with pytest.raises(ValueError, match=REFUSED[model][name]):
            learner(config)
        return
    made, plain = learner(config), learner(replace(config, plasticity=()))
    for _ in range(4):
        made.update()
        plain.update()
    assert all(parameter.isfinite().all() for parameter in made.model.parameters())
    pairs = zip(made.model.parameters(), plain.model.parameters(), strict=False)
    assert any(a.shape != b.shape or not torch.equal(a, b) for a, b in pairs)
    norms = nap.weight_norms(made.model)
    for weight, norm in made.projection.initial_norms.items():
        assert norms[weight].item() == pytest.approx(float(norm), rel=1e-5), weight


def test_a_method_that_is_off_has_no_effect():
    plain = learner(SMALL)
    specs = ("reset:period=inf", "l2-init:strength=0", "c-chain:strength=0", "fire:at=inf", "snr:period=inf")
    made = learner(replace(SMALL, plasticity=specs))
    for _ in range(5):
        plain.update()
        made.update()
    assert all(map(torch.equal, plain.model.parameters(), made.model.parameters()))


def test_a_penalty_is_in_the_loss_and_not_in_the_signal(monkeypatch):
    made = learner(replace(SMALL, plasticity=("weight-decay:strength=0.1,kind=l2",)))
    heard = []
    monkeypatch.setattr(made.signal, "note", lambda update, error: heard.append(error))
    loss, error = made.loss(made.pairs, made.answers)
    squares = sum(parameter.detach().square().sum() for parameter in made.model.parameters())
    assert (loss - error).item() == pytest.approx(0.05 * squares.item(), rel=1e-4)
    made.update()
    assert 0 < heard[0] < 3 < loss.item()


@pytest.mark.parametrize("model", ["transformer", "mlp"])
def test_fresh_weights_are_drawn_as_the_first_ones(model):
    made = make_model(replace(SMALL, model=model), 97, 1)
    layers = [name for name, part in made.named_modules() if isinstance(part, torch.nn.Linear | torch.nn.Embedding)]
    fresh = draw_network(made, layers, torch.Generator().manual_seed(2))
    first = dict(made.named_parameters())
    assert fresh.keys() == {f"{layer}.weight" for layer in layers}
    for name, value in fresh.items():
        assert value.std().item() == pytest.approx(first[name].std().item(), rel=0.1), name


def test_a_second_minibatch_needs_a_size():
    with pytest.raises(ConfigError, match="--batch-size 0 has all training pairs in each minibatch: CChain needs"):
        learner(replace(SMALL, batch_size=0, plasticity=("c-chain",)))


def test_omnigrok_holds_the_global_norm():
    initial = global_norm(list(learner(FREE).model.parameters())).item()
    made = learner(replace(FREE, optimizer="omnigrok"))
    for _ in range(2):
        assert global_norm(list(made.model.parameters())).item() == pytest.approx(0.8 * initial, rel=1e-5)
        made.update()


def test_rates_follow_the_schedule():
    made = learner(SMALL)
    rates = []
    for _ in range(10):
        made.update()
        rates.append(made.optimizer.param_groups[0]["lr"].item())
    assert rates[:4] == pytest.approx([SMALL.low_lr] * 4)  # the warm-up begins at the low rate
    assert rates[5] == pytest.approx(SMALL.lr)
    assert all(a > b for a, b in pairwise(rates[5:]))
    assert rates[-1] > SMALL.final_lr


@pytest.mark.parametrize(("with_head", "free"), [(False, ["head.weight"]), (True, [])])
def test_projection_holds_every_norm_and_the_heads_if_asked(with_head, free):
    made = learner(replace(SMALL, low_lr=1e-2, project_head=with_head))
    before = nap.weight_norms(made.model)
    for _ in range(4):
        made.update()
    after = nap.weight_norms(made.model)
    changed = [name for name in before if not math.isclose(before[name], after[name], rel_tol=1e-5)]
    assert changed == free


def test_scale_decay_shrinks_scales_alone():
    kept, decayed = (learner(replace(SMALL, low_lr=1e-2, scale_decay=decay)) for decay in (0.0, 10.0))
    kept.update()
    decayed.update()
    for (name, a), b in zip(kept.model.named_parameters(), decayed.model.parameters(), strict=True):
        if name.endswith("norm.weight"):
            torch.testing.assert_close(a - b, torch.full_like(a, 0.1), rtol=1e-3, atol=1e-5)
        else:
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("norm", "elr"), [(0.25, 1.0), (4.0, 1.0), (1.0, 0.25), (4.0, 4.0)])
def test_norm_and_elr_move_apart(norm, elr):
    constant = replace(SMALL, schedule="constant", delay=2_000, warmup=0, anneal=10)
    made = learner(replace(constant, norm_end=norm, elr_end=elr))
    before, rate = nap.weight_norms(made.model), nap.effective_lr(made.model, made.optimizer)
    for _ in range(10):
        made.update()
    after = nap.weight_norms(made.model)
    made._set_rates()
    end = nap.effective_lr(made.model, made.optimizer)
    torch.testing.assert_close(after["head.weight"], before["head.weight"])
    for name in set(made.projection.names) - {"head.weight"}:
        assert after[name] / before[name] == pytest.approx(norm, rel=1e-4)
        assert end[name] / rate[name] == pytest.approx(elr, rel=1e-4)
    head = [group["lr"].item() for group in made.optimizer.param_groups if not group["moved"]]
    assert head == pytest.approx([made.config.lr * elr] * len(head))


@pytest.mark.parametrize("scale_decay", [0.0, 1.0])
def test_the_rate_of_norm_scales_can_stay_while_the_elr_moves(scale_decay):
    base = replace(SMALL, schedule="constant", delay=2_000, warmup=0, anneal=10, elr_end=4.0, scale_decay=scale_decay)
    made = learner(replace(base, elr_of="weights"))
    for _ in range(10):
        made.update()
    made._set_rates()
    names = {id(parameter): name for name, parameter in made.model.named_parameters()}
    rates = {names[id(p)]: group["lr"].item() for group in made.optimizer.param_groups for p in group["params"]}
    assert rates.keys() == dict(made.model.named_parameters()).keys()
    for name, rate in rates.items():
        assert rate == pytest.approx(base.lr * (1 if name.endswith("norm.weight") else 4)), name


@pytest.mark.filterwarnings("ignore:Mismatch dtype")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precision_is_that_of_the_products(precision):
    made = learner(replace(SMALL, precision=precision))
    seen = []
    made.model.head.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    loss, _ = made.loss(made.pairs, made.answers)
    assert seen == [{"fp32": torch.float32, "bf16": torch.bfloat16}[precision]]
    assert loss.dtype == torch.float32
    with torch.no_grad():
        assert loss.item() == pytest.approx(F.cross_entropy(made.model(made.pairs), made.answers).item(), rel=0.02)


@pytest.mark.parametrize(
    "config",
    [
        replace(SMALL, project_every=3, low_lr=1e-2),
        replace(FREE, optimizer="grokfast-ema"),
        replace(FREE, optimizer="omnigrok"),
        replace(SMALL, optimizer="muon"),
        replace(SMALL, plasticity=("redo:period=3,tau=1", "upgd", "c-chain:after=3,window=4", "fire:at=6")),
    ],
    ids=["projection", "grokfast-ema", "omnigrok", "muon", "methods"],
)
def test_a_state_between_two_projections_goes_on_to_the_bit(config):
    whole, parts = learner(config), learner(config)
    for made, updates in ((whole, 8), (parts, 4)):
        for _ in range(updates):
            made.update()
    state = copy.deepcopy(parts.state_dict())
    resumed, kept = learner(config), copy.deepcopy(state)
    resumed.load_state_dict(state)
    for _ in range(4):
        resumed.update()
    for a, b in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(state["filter"] or [], kept["filter"] or [], strict=True):
        assert torch.equal(a, b)  # it is copied, not taken over


def test_the_omnigrok_target_is_copied():
    made = learner(replace(FREE, optimizer="omnigrok"))
    target, state = made.sphere.target, copy.deepcopy(made.state_dict())
    state["sphere"].mul_(2)
    made.load_state_dict(state)
    assert made.sphere.target is target
    assert torch.equal(target, state["sphere"])
    assert made.sphere.target is not state["sphere"]


@pytest.mark.parametrize("name", sorted(set(nap.SCHEDULES) - {"delayed-cosine"} | {"rewarm"}))
def test_every_schedule_of_nap_is_one_of_the_study(name):
    others = {"delay": 2_000} if name != "rewarm" else {}
    cycles = {"cycles": 2} if name.startswith(("cyclic", "early-cycle")) else {}
    config = replace(SMALL, schedule=name, updates=20, **others, **cycles).resolved()
    made = learner(config)
    rates = []
    for _ in range(20):
        made.update()
        rates.append(made.lr())
    assert max(rates) == pytest.approx(config.lr)
    assert min(rates) >= 0
    assert made.schedule.last_epoch in (19, 20)


def test_a_closed_loop_schedule_hears_the_loss_of_every_ten_updates():
    config = replace(SMALL, schedule="cusum", delay=2_000, warmup=0, anneal=4, updates=900, lr=1e-3).resolved()
    made = learner(config)
    heard = []
    made.schedule.observe = lambda signal: heard.append(float(signal))
    losses = [float(loss) for loss in (updated(made) for _ in range(30))]
    assert heard == pytest.approx([sum(losses[i : i + 10]) / 10 for i in (0, 10, 20)], rel=1e-5)


def updated(made):
    """The loss of one update."""
    found = []
    loss = made._loss
    made._loss = lambda *batch: found.append(loss(*batch)) or found[-1]
    made.update()
    made._loss = loss
    return found[0][1]
