"""One update against a literal reference, what happens when the data change, and every method on both networks."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode

import nap
from experiment.layout import compiled
from plasticity.registry import METHODS
from studies.warm_start import learner as module
from studies.warm_start.config import CLOSED_LOOP, EARLY_CYCLE, WarmStartConfig
from studies.warm_start.data import Dataset
from studies.warm_start.learner import Learner
from studies.warm_start.networks import make_network
from studies.warm_start.protocols import make_protocol
from studies.warm_start.run import make_methods

BASE = WarmStartConfig(dataset="digits", fraction=0.5, phase_updates=6, width=4, hidden=12, batch_size=16, lr=1e-2)
RESNET = {"network": "resnet18", "width": 2, "hidden": WarmStartConfig.hidden}


def images(count, seed):
    return torch.randint(256, (count, 1, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


DATA = Dataset("random", images(64, 0), torch.arange(64) % 10, images(40, 1), torch.arange(40) % 10, 10)


def learner(**settings):
    config = replace(BASE, **settings).resolved()
    torch.manual_seed(1)
    network = make_network(config, (1, 8, 8), 10)
    methods = make_methods(config)
    for method in methods:
        method.prepare(network)
    return Learner(config, DATA, make_protocol(config, DATA.train_labels, 10, 2), network, methods, 3)


def train(made, updates):
    for _ in range(updates):
        made.update()
    return made


def rate(made):
    return made.optimizer.param_groups[0]["lr"].item()


def forward(w, x):
    for i, stride in ((1, 2), (2, 2), (3, 1)):
        x = F.conv2d(x, w[f"conv{i}.weight"], None, stride, padding=2 if i == 1 else 1)
        mean, variance = x.mean((1, 2, 3), keepdim=True), x.var((1, 2, 3), correction=0, keepdim=True)
        x = (x - mean) / (variance + 1e-5).sqrt()
        x = F.relu(x * w[f"norm{i}.weight"][:, None, None] + w[f"norm{i}.bias"][:, None, None])
    x = x.reshape(len(x), -1) @ w["hidden.weight"].T
    x = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    return F.relu(x * w["norm4.weight"] + w["norm4.bias"]) @ w["head.weight"].T + w["head.bias"]


def literal(made, updates):
    """The same run of the small CNN, written out, with torch's plain Adam; phases are of 3 updates."""
    weights = {name: p.detach().clone().requires_grad_() for name, p in made.model.named_parameters()}
    initial = {name: p.detach().norm() for name, p in weights.items()}
    generator = torch.Generator().manual_seed(3)
    pixels = DATA.train_images.float() / 255
    pixels = (pixels - pixels.mean()) / pixels.std(correction=0)
    for update in range(updates):
        if update % 3 == 0:
            queue, phase = [], made.protocol.phases[update // 3]
            optimizer = torch.optim.Adam(weights.values())
        if len(queue) < 16:
            queue += phase[torch.randperm(len(phase), generator=generator)].tolist()
        chosen, queue = queue[:16], queue[16:]
        optimizer.param_groups[0]["lr"] = 1e-6 + (1e-2 - 1e-6) * (1 + math.cos(math.pi * (update % 3) / 3)) / 2
        optimizer.zero_grad()
        F.cross_entropy(forward(weights, pixels[chosen]), DATA.train_labels[chosen]).backward()
        optimizer.step()
        for name in ("conv1", "conv2", "conv3", "hidden") if made.config.nap else ():
            weight = weights[f"{name}.weight"]
            weight.data *= initial[f"{name}.weight"] / weight.data.norm()
    return weights


@pytest.mark.parametrize("nap", [False, True])
def test_updates_are_those_of_the_literal_reference(nap):
    made = learner(nap=nap, phase_updates=3)
    expected = literal(made, 5)
    train(made, 5)
    for name, parameter in made.model.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name].detach(), rtol=1e-4, atol=2e-5, msg=name)


@pytest.mark.parametrize(("settings", "format"), [(RESNET, torch.contiguous_format), ({}, torch.channels_last)])
def test_images_and_weights_have_the_format_that_is_safe(settings, format):
    made, seen = learner(**settings), []
    other = {torch.contiguous_format: torch.channels_last, torch.channels_last: torch.contiguous_format}[format]
    for part in made.model.modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_hook(lambda part, args, out: seen.extend([part.weight, args[0], out]))
    with torch.no_grad():
        made.logits(DATA.train_images[:16])
    assert seen
    assert all(x.is_contiguous(memory_format=format) for x in seen)
    assert not all(x.is_contiguous(memory_format=other) for x in seen)


def test_the_loss_is_one_graph_that_no_phase_or_rate_compiles_again(monkeypatch):
    settings = {"nap": True, "plasticity": ("redo:period=3", "l2-init"), "phase_updates": 3}
    plain, counter = learner(**settings), CompileCounterWithBackend("eager")  # aot_eager of torch 2.14 breaks strides
    monkeypatch.setattr("studies.warm_start.learner.compiled", partial(compiled, backend=counter))
    made = learner(**settings, compile=True)
    made.prepare()
    assert all(map(torch.equal, plain.model.parameters(), made.model.parameters()))
    train(plain, 5).test()
    train(made, 5).test()
    assert counter.frame_count == 2  # one of the loss, one of the logits
    for a, b in zip(plain.model.parameters(), made.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_rates_restart_at_the_switch():
    made, rates = learner(phase_updates=4), []
    for _ in range(8):
        made.update()
        rates.append(rate(made))
    cosine = [1e-6 + (1e-2 - 1e-6) * (1 + math.cos(math.pi * i / 4)) / 2 for i in range(4)]
    assert rates == pytest.approx(2 * cosine)
    assert made.finished


@pytest.mark.parametrize("schedule", ["cyclic", "cusum"])
@pytest.mark.parametrize("first", [0, 4])
def test_a_restart_begins_with_its_warmup(schedule, first):
    made = learner(phase_updates=10, schedule=schedule, lr_warmup=4, first_warmup=first)
    if schedule == "cusum":
        made.schedule.alarms.append(10)
    rates = []
    for _ in range(20):
        made.update()
        rates.append(rate(made))
    rise = [1e-6 + (1e-2 - 1e-6) * i / 4 for i in range(5)]
    assert rates[10:15] == pytest.approx(rise)
    assert rates[:5] == pytest.approx(rise) if first else rates[0] == pytest.approx(1e-2)
    assert rates[14] == max(rates[10:])


def counted(made):
    """The optimiser's count of steps."""
    (steps,) = {int(state["step"]) for state in made.optimizer.state.values()}
    return steps


@pytest.mark.parametrize("nap", [False, True])
def test_a_restart_forgets_as_a_fresh_optimizer_does(nap):
    restarted = train(learner(nap=nap), 12)
    fresh = train(learner(nap=nap, restart_moments=False, at_switch="fresh-optimizer"), 12)
    kept = train(learner(nap=nap, restart_moments=False), 12)
    assert (counted(restarted), counted(fresh), counted(kept)) == (6, 6, 12)
    assert all(map(torch.equal, restarted.model.parameters(), fresh.model.parameters()))
    assert not all(map(torch.equal, restarted.model.parameters(), kept.model.parameters()))


def test_every_restart_forgets_and_nothing_else_does():
    made, steps = learner(phase_updates=6, cycles=4), []
    for _ in range(12):
        made.update()
        steps.append(counted(made))
    assert steps == [1, 2, 3] * 4
    alarmed = train(learner(schedule="cusum", cycles=2), 5)
    alarmed.schedule.alarms.append(5)
    assert counted(train(alarmed, 2)) == 2
    assert counted(train(learner(schedule="constant"), 12)) == 12


@pytest.mark.parametrize("schedule", ["cyclic", "constant"])
def test_a_later_peak_is_a_multiple_of_the_first(schedule):
    made = train(learner(schedule=schedule, later_peak=10.0, lr=1e-3), 6)
    first = rate(made)
    made.update()
    assert rate(made) == pytest.approx(1e-2)
    assert first <= 1.001e-3


def snapshot(made):
    model = {name: value.clone() for name, value in made.model.state_dict().items()}
    state = {key: {k: v.clone() for k, v in own.items()} for key, own in made.optimizer.state.items()}
    return model, state


@pytest.mark.parametrize("at_switch", ["warm", "fresh-optimizer", "cold"])
@pytest.mark.parametrize("settings", [{}, RESNET, {"nap": True}])
def test_what_is_kept_when_the_data_change(at_switch, settings):
    made = learner(at_switch=at_switch, **settings)
    initial = snapshot(made)[0]
    model, state = snapshot(train(made, 6))
    assert made.phase_over
    assert made.phase == 0
    made._switch()
    now, moments = snapshot(made)
    for name, value in now.items():
        assert torch.equal(value, initial[name] if at_switch == "cold" else model[name]), name
    for parameter, own in moments.items():
        for key, value in own.items():
            expected = state[parameter][key] if at_switch == "warm" else torch.zeros_like(value)
            assert torch.equal(value, expected), key
        assert state[parameter]["step"] == 6
    assert made.sampler.indices is made.protocol.phases[1]
    assert (made.phase, made.phase_began, made.phase_over, made.updates) == (1, 6, False, 6)


def test_batches_come_from_the_phase():
    made = learner()
    for update in range(12):
        made.update()
        seen = made.sampler.indices
        assert len(seen) == (32 if update < 6 else 64)
    assert made.seen == 12 * 16


def scripted(made, errors, rights):
    """Losses and counts of right answers as given, for parameters that get a gradient of 0."""
    given = zip(errors, rights, strict=True)

    def loss(images, labels, reference):
        error, right = next(given)
        return made.model.head.bias.sum() * 0, torch.tensor(error), torch.tensor(right)

    made._loss = loss
    return made


def test_a_phase_of_ash50_ends_at_99_percent_of_a_whole_pass():
    rights = [16, 15, 16, 16, 16, 16]  # of 32 images in 2 batches: 31, then 32
    made = scripted(learner(protocol="ash50", schedule="constant", phase_updates=100), [1.0] * 6, rights)
    over = []
    for _ in range(4):
        made.update()
        over.append(made.phase_over)
    assert over == [False, False, False, True]


def test_a_pass_is_not_any_stretch_of_its_length():
    rights = [15, 16, 16, 15, 16, 16]
    made = scripted(learner(protocol="ash50", schedule="constant", phase_updates=100), [1.0] * 6, rights)
    assert [train(made, 1).phase_over for _ in range(6)] == [False] * 5 + [True]


def test_the_second_phase_is_judged_by_its_own_images():
    made = learner(protocol="ash50", schedule="constant", phase_updates=10)
    scripted(made, [1.0] * 10, [16] * 10)
    assert [train(made, 1).phase_over for _ in range(6)] == [False, True, False, False, False, True]
    assert made.finished


def test_a_phase_of_ash50_ends_with_its_budget_and_the_next_counts_anew():
    made = learner(protocol="ash50", schedule="constant", phase_updates=5)
    scripted(made, [1.0] * 9, [3] * 5 + [16] * 4)
    assert train(made, 5).phase_over
    assert not made.finished
    assert [train(made, 1).phase_over for _ in range(4)] == [False, False, False, True]


def test_a_pass_goes_on_after_a_resume():
    settings = {"protocol": "ash50", "schedule": "constant", "phase_updates": 100}
    saved = train(scripted(learner(**settings), [1.0] * 3, [16, 15, 16]), 3).state_dict()
    made = scripted(learner(**settings), [1.0], [16])
    made.load_state_dict(saved)
    assert train(made, 1).phase_over


def test_each_rate_is_one_tensor_for_life():
    settings = {"rates": "even-ratio", "later_peak": 2.0, "at_switch": "cold", "phase_updates": 3}
    made = learner(**settings)
    tensors = [id(group["lr"]) for group in made.optimizer.param_groups]
    train(made, 5)
    made.load_state_dict(train(learner(**settings), 4).state_dict())
    train(made, 1)
    assert [id(group["lr"]) for group in made.optimizer.param_groups] == tensors


@pytest.mark.parametrize("settings", [{}, RESNET])
def test_projection_holds_every_norm_but_the_heads(settings):
    made = learner(nap=True, **settings)
    initial = nap.weight_norms(made.model)
    for _ in range(8):
        made.update()
        for name, norm in nap.weight_norms(made.model).items():
            assert math.isclose(norm, initial[name], rel_tol=1e-5) == (name != "head.weight")


@pytest.mark.parametrize("name", sorted(nap.SCHEDULES))
def test_every_schedule_of_nap_is_one_of_the_study(name):
    """With each of its options away from the default, and no other. A closed loop has no alarm in 30 updates."""
    restart: dict[str, float] = {"lr_warmup": 3, "first_warmup": 1}
    closed = restart | {"cycles": 4, "rewarm_threshold": 7.0}
    early = {"cycles": 2, "cycle_fraction": 0.5, "anneal": "linear"}
    given = {
        "delayed-cosine": {"lr_delay": 4, "lr_warmup": 3},
        "cyclic": restart | {"cycles": 3},
        **dict.fromkeys(CLOSED_LOOP, closed),
        **dict.fromkeys(EARLY_CYCLE, early),
    }
    settings = given.get(name, {}) | ({} if name == "constant" else {"lr_floor": 1e-4})
    made = learner(schedule=name, phase_updates=15, **settings)
    rates = [rate(train(made, 1)) for _ in range(30)]

    renamed = {"lr_warmup": "warmup", "lr_delay": "delay", "lr_floor": "floor"}
    options = {renamed.get(option, option): value for option, value in settings.items()}
    if name in CLOSED_LOOP:
        options["cycle_steps"] = 30 // options.pop("cycles")
        options["threshold"] = options.pop("rewarm_threshold")
        assert made.schedule.threshold == 7
        assert made.schedule.warmup == 3
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=torch.tensor(BASE.lr))
    schedule = nap.make_schedule(name, optimizer, 30, **options)
    expected = []
    for step in range(30):
        schedule.move_to(step)
        expected.append(optimizer.param_groups[0]["lr"].item())
    alike = 7 if name in EARLY_CYCLE[1:] else 30  # those listen to the loss, and may stop after the first cycle
    assert rates[:alike] == pytest.approx(expected[:alike])
    assert max(rates) == pytest.approx(BASE.lr)


def test_cusum_restarts_when_the_loss_has_risen():
    noise = torch.randn(900, generator=torch.Generator().manual_seed(0))
    errors = [math.exp(0.3 * z - i / 200) * (20 if i >= 700 else 1) for i, z in enumerate(noise.tolist())]
    made = learner(nap=True, schedule="cusum", cycles=2, phase_updates=700)
    train(scripted(made, errors, [0] * 900), 700)
    assert made.schedule.alarms == []
    assert rate(made) < 1e-5
    train(made, 60)
    (alarm,) = made.schedule.alarms
    assert 700 < alarm <= 760
    train(made, 100 - (760 - alarm))
    assert rate(made) == pytest.approx(1e-2, rel=0.02)  # after a rise of 100


@pytest.mark.parametrize("at_switch", ["warm", "cold"])
def test_even_ratio_follows_the_weights(at_switch, monkeypatch):
    monkeypatch.setattr(module, "RATES_INTERVAL", 2)
    made = learner(rates="even-ratio", schedule="constant", at_switch=at_switch)

    def check():
        weights = {name: p for name, p in made.model.named_parameters() if "norm" not in name}
        sizes = {n.split(".")[0]: p.abs().mean() for n, p in weights.items() if n.endswith("weight")}
        mean = sum(sizes[n.split(".")[0]] * p.numel() for n, p in weights.items())
        mean /= sum(p.numel() for p in weights.values())
        owner = {id(p): n.split(".")[0] for n, p in weights.items()}
        for group in made.optimizer.param_groups:
            layer = owner.get(id(group["params"][0]))
            expected = 1e-2 * (sizes[layer] / mean).item() if layer else 1e-2
            assert group["lr"].item() == pytest.approx(expected, rel=1e-4)

    check()
    train(made, 3)
    before = [group["lr"].item() for group in made.optimizer.param_groups]
    made.update()
    assert before != [group["lr"].item() for group in made.optimizer.param_groups]
    check()
    train(made, 2)._switch()
    check()


def test_bf16_passes_are_bf16_on_fp32_weights():
    made, kinds = learner(precision="bf16"), set()
    for part in made.model.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            part.register_forward_hook(lambda *args: kinds.add(args[2].dtype))
    train(made, 2)
    assert kinds == {torch.bfloat16}
    assert {parameter.dtype for parameter in made.model.parameters()} == {torch.float32}
    assert made.logits(DATA.test_images).dtype == torch.float32
    assert {state["exp_avg"].dtype for state in made.optimizer.state.values()} == {torch.float32}


class Calls(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


WAITS = {"_local_scalar_dense", "nonzero", "masked_select"}


@pytest.mark.parametrize(
    ("settings", "waiting"),
    [
        ({"nap": True, "augment": True}, []),
        ({"precision": "bf16", "plasticity": ("redo:period=3", "cbp:maturity=1", "spectral")}, []),
        ({"schedule": "cusum", "cycles": 200}, [10, 20]),
        ({"rates": "even-ratio"}, [7, 14, 21]),
        ({"protocol": "ash50", "schedule": "constant"}, [2, 4, 6, 8, 10, 12, 14, 16, 18, 20]),
    ],
)
def test_an_update_waits_for_the_device_where_it_says_so(settings, waiting, monkeypatch):
    monkeypatch.setattr(module, "RATES_INTERVAL", 7)
    made, found, lists = learner(**settings, phase_updates=100), [], []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: lists.append(tensor) or tolist(tensor))
    made.update()
    while made.updates < 21:
        with Calls() as calls:
            made.update()
        assert "_fused_adam_" in calls.names
        if WAITS & set(calls.names) or lists:
            found.append(made.updates)
            lists.clear()
    assert found == waiting


ACTING = {
    "reset": "reset:period=2",
    "shrink-perturb": "shrink-perturb:period=2",
    "redo": "redo:period=2,tau=1",
    "cbp": "cbp:rate=0.5,maturity=0",
    "injection": "injection:at=2",
    "hare-tortoise": "hare-tortoise:period=2",
    "dash": "dash:period=2",
    "fire": "fire:period=2",
    "snr": "snr:level=0.5,longest=2",
    "optimizer-reset": "optimizer-reset:period=2",
    "adam-rel": "adam-rel:period=2",
}
OTHERS = [name for name in METHODS if name != "nap"]
REFUSED = {"crelu": "stem.2 of ResNet18 cannot be replaced: it feeds add", "injection": "name its head="}
"""By ResNet-18: a concatenation would double the channels of a residual sum; it has several layers before its head."""


@pytest.mark.parametrize("nap", [False, True])
@pytest.mark.parametrize("network", ["cnn", "resnet18"])
@pytest.mark.parametrize("name", OTHERS)
def test_every_method_trains_or_is_refused(name, network, nap):
    settings = {"plasticity": (ACTING.get(name, name),), "nap": nap} | (RESNET if network == "resnet18" else {})
    if name == "layer-norm" or (network == "resnet18" and name in REFUSED):
        with pytest.raises(ValueError, match=REFUSED.get(name, "has its norms already")):
            learner(**settings)
        return
    check_training(learner(**settings))


def test_injection_into_the_resnet_is_told_its_head():
    check_training(learner(plasticity=("injection:at=2,head=head",), **RESNET))


def check_training(made):
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    train(made, 3)
    assert math.isfinite(made.loss_sum.item())
    owned = {id(parameter) for group in made.optimizer.param_groups for parameter in group["params"]}
    trained = {name: p for name, p in made.model.named_parameters() if p.requires_grad}
    assert {id(p) for p in trained.values()} <= owned
    assert all(p.isfinite().all() for p in trained.values())
    assert all(not torch.equal(p, before[name]) for name, p in trained.items() if p.ndim > 1)


def test_a_method_that_is_off_has_no_effect():
    plain = train(learner(), 3)
    for spec in ("reset:period=inf", "shrink-perturb:strength=0", "redo:period=inf", "cbp:rate=0", "dash:period=inf"):
        made = train(learner(plasticity=(spec,)), 3)
        assert all(map(torch.equal, plain.model.parameters(), made.model.parameters()))


@pytest.mark.parametrize(
    ("at", "settings"),
    [
        (6, {"nap": True, "augment": True, "at_switch": "fresh-optimizer"}),
        (5, {"schedule": "cusum", "rates": "even-ratio", "at_switch": "cold"}),
        (6, {"schedule": "cusum", "rates": "even-ratio", "at_switch": "cold"}),
        (5, {"protocol": "ash50", "schedule": "constant", "later_peak": 3.0}),
        (7, {"protocol": "increments", "fraction": 0.1, "plasticity": ("cbp:maturity=0,rate=0.3", "dash:period=5")}),
    ],
)
def test_a_loaded_state_goes_on_to_the_bit(settings, at):
    whole = train(learner(**settings), 9)
    saved = train(learner(**settings), at).state_dict()
    made = learner(**settings)
    train(made, 2)
    made.load_state_dict(saved)
    train(made, 9 - at)
    assert all(map(torch.equal, whole.model.parameters(), made.model.parameters()))
    assert (made.phase, made.seen, made.loss_sum.item()) == (whole.phase, whole.seen, whole.loss_sum.item())


@pytest.mark.parametrize(("dataset", "flips"), [("cifar10", True), ("fashion-mnist", False), ("digits", False)])
def test_only_photographs_are_flipped(dataset, flips, monkeypatch):
    asked = []
    monkeypatch.setattr(module, "augment", lambda images, generator, flip: asked.append(flip) or images)
    train(learner(dataset=dataset, augment=True), 1)
    assert asked == [flips]


def test_the_test_set_is_measured_whole():
    made = learner()  # 40 images in batches of 16
    with torch.no_grad():
        logits = made.logits(DATA.test_images)
    accuracy, loss = made.test()
    assert accuracy == pytest.approx((logits.argmax(1) == DATA.test_labels).float().mean().item())
    assert loss == pytest.approx(F.cross_entropy(logits, DATA.test_labels).item(), rel=1e-5)
