"""When methods act: periods, once at an update, once now."""

import copy
import math

import pytest
import torch

from plasticity.loops import Loop, mlp
from plasticity.registry import make
from plasticity.testing import check_method
from plasticity.timing import Timing

KINDS = ["reset", "shrink-perturb", "fire", "optimizer-reset"]


def acts(timing, updates):
    return [update for update in updates if timing.due(update)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"period": 3}, [3, 6, 9]),
        ({"period": 3, "until": 8}, [3, 6]),
        ({"period": 4, "until": 3}, []),
        ({"period": math.inf}, []),
        ({"period": 3, "at": 5}, [5]),
        ({"period": 3, "at": 5.0, "until": 2}, [5]),
        ({"period": 3, "at": math.inf}, []),
        ({"period": 3, "at": 10**400}, []),
        ({"period": 3, "at": "now"}, [1]),
        ({"period": math.inf, "at": "now"}, [1]),
    ],
)
def test_it_acts_at_these_updates(options, expected):
    timing = Timing("method", **options)
    assert timing.is_off == (not expected and options.get("at") != 10**400)
    assert acts(timing, range(1, 11)) == expected
    assert [timing.last(update) for update in range(1, 11)] == [
        max((act for act in expected if act <= update), default=0) for update in range(1, 11)
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"period": 3},
        {"period": 3, "until": 8},
        {"period": 3, "at": 5},
        {"period": 3, "at": "now"},
        {"period": 4, "until": 4},
    ],
)
def test_it_is_over_when_no_update_is_left_at_which_it_acts(options):
    for update in range(12):
        assert Timing("method", **options).is_over(update) == (
            not acts(Timing("method", **options), range(update + 1, 40))
        )


def test_what_is_off_is_not_over():
    assert not any(
        Timing("method", **options).is_over(9) for options in ({"period": math.inf}, {"period": 3, "at": math.inf})
    )


def test_now_is_the_first_update_of_a_run_that_goes_on():
    timing = Timing("method", 3, "now")
    assert acts(timing, range(500, 510)) == [500]
    assert timing.last(499) == 0
    resumed = Timing("method", 3, "now")
    resumed.load_state_dict(timing.state_dict())
    assert acts(resumed, range(510, 520)) == []
    assert resumed.last(600) == 500


def test_a_method_that_acted_periodically_still_acts_now_under_other_settings():
    timing = Timing("method", 3)
    assert acts(timing, range(1, 5)) == [3]
    other = Timing("method", 3, "now")
    other.load_state_dict(timing.state_dict())
    assert acts(other, range(5, 9)) == [5]


@pytest.mark.parametrize("name", KINDS)
def test_a_resumed_run_does_not_act_a_second_time_and_a_fork_acts(name):
    whole = Loop(mlp, *make([f"{name}:at=now"])).run(6)
    first = Loop(mlp, *make([f"{name}:at=now"])).run(3)
    state = first.state()
    resumed, fork, plain = (Loop(mlp, *make(specs), seed=1) for specs in ([f"{name}:at=now"], [f"{name}:at=now"], []))
    resumed.load(copy.deepcopy(state))
    fork.load(copy.deepcopy(state | {"methods": [fork.methods[0].state_dict()]}))
    plain.load(copy.deepcopy(state | {"methods": []}))
    for loop in (resumed, fork, plain):
        loop.run(3)
    assert all(map(torch.equal, resumed.values(), whole.values()))
    assert all(map(torch.equal, resumed.values(), plain.values()))
    assert not all(map(torch.equal, fork.values(), plain.values()))


@pytest.mark.parametrize("name", ["reset", "shrink-perturb"])
def test_the_state_of_an_older_checkpoint_is_taken(name):
    (method,) = make([name])
    Loop(mlp, method)
    method.load_state_dict({"generator": method.generator.get_state()})
    assert method.last_reset(100) == 0


@pytest.mark.parametrize(
    ("value", "said"), [("soon", "a number or now or task"), ("nan", "whole number"), ("0.5", "whole number")]
)
@pytest.mark.parametrize("name", KINDS)
def test_an_update_that_is_none_is_refused(name, value, said):
    with pytest.raises(ValueError, match=rf"^{name}: at={value}: .*{said}") as error:
        make([f"{name}:at={value}"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("at", [0, 0.5, -1, math.nan])
def test_an_update_that_cannot_be_is_refused_by_its_own_name(at):
    with pytest.raises(ValueError, match=r"^fire: at=\S+: it has to be a whole number of updates, at least 1, or inf"):
        Timing("fire", 3, at)


@pytest.mark.parametrize("name", ["reset", "shrink-perturb", "dash", "fire", "optimizer-reset", "adam-rel"])
def test_a_method_that_acts_at_a_change_of_task_keeps_the_contract(name):
    check_method(name, at="task")


def test_dash_at_a_change_of_task_shrinks_by_all_gradients_before_it():
    told, (method,) = Loop(mlp), make(["dash:at=task,alpha=0.3,shrinkage=0.2"])
    method.attach(told.network, None, told.optimizer)
    average = [torch.zeros_like(parameter) for parameter in method._parameters]
    for update in range(1, 8):
        told.learn()
        method.after_update(update)
        for mean, parameter in zip(average, method._parameters, strict=True):
            mean.mul_(0.7).sub_(0.3 * parameter.grad)
    before = [parameter.detach().clone() for parameter in method._parameters]
    method.task_changed(7)
    for parameter, old, mean in zip(method._parameters, before, average, strict=True):
        cosine = torch.nn.functional.cosine_similarity(old, mean, dim=-1)
        factor = cosine.clamp(0.2, 1)
        assert torch.allclose(parameter, old * (factor[:, None] if old.ndim > 1 else factor), rtol=1e-5)
    after = [parameter.detach().clone() for parameter in method._parameters]
    method.task_changed(7)  # no update since: there is no gradient to shrink by
    assert all(map(torch.equal, after, method._parameters))


@pytest.mark.parametrize("name", ["nap", "hyperball"])
def test_a_projection_follows_what_other_methods_do_at_a_change_of_task(name):
    shrink, project = make(["shrink-perturb:at=task,strength=0.5", name])
    loop = Loop(mlp, shrink, project)
    loop.learn()
    loop.after()
    kept, before = project.projection.initial_norms, loop.values()
    copies = [value.clone() for value in before]
    project.task_changed(1)
    assert all(map(torch.equal, copies, loop.values()))
    shrink.task_changed(1)
    assert not all(torch.allclose(norm, kept[key], rtol=1e-3) for key, norm in project.projection.norms().items())
    project.task_changed(1)
    assert all(torch.allclose(norm, kept[key], rtol=1e-5) for key, norm in project.projection.norms().items())
