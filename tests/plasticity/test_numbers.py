"""Every number that any method takes, found in its signature: it works, or is refused in one line."""

import inspect
import math
import typing

import pytest

from plasticity.loops import Loop, cnn
from plasticity.registry import METHODS, make
from tests.plasticity.test_every_method import ACTIVE
from tests.plasticity.test_small_methods import run, same, weights

VALUES = ["0", "-1", "1" + 300 * "0", "nan", "inf", "-inf", "5e-324"]
OFF_AT = {"strength": "0", "rate": "0", "kappa": "0", "period": "inf", "at": "inf"}


def constructor(name):
    return make([name])[0].__class__


def numeric_options(name):
    """The options of a method that are numbers, and their kind."""
    kind = constructor(name)
    hints = typing.get_type_hints(kind.__init__)
    members = {key: typing.get_args(hints[key]) or (hints[key],) for key in inspect.signature(kind).parameters}
    return {key: int if int in kinds else float for key, kinds in members.items() if {int, float} & set(kinds)}


OPTIONS = [(name, option) for name in METHODS for option in numeric_options(name)]
PLAIN = {}


def plain():
    """The weights after 3 updates without a method."""
    if not PLAIN:
        PLAIN["weights"] = weights(run(Loop(cnn), 3))
    return PLAIN["weights"]


def spec(name, option, value):
    """The method at work early, with one option set."""
    options = dict(part.split("=") for part in ACTIVE[name].strip(":").split(",") if part) | {option: value}
    return f"{name}:" + ",".join(f"{key}={text}" for key, text in options.items())


def check_refusal(name, option, error):
    assert str(error).startswith(f"{name}: {option}=")
    assert "\n" not in str(error)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: value[:6])
@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_a_number_works_or_is_refused_in_one_line(name, option, value):
    try:
        (method,) = make([spec(name, option, value)])
    except ValueError as error:
        check_refusal(name, option, error)
        method = None
    is_off = value == OFF_AT.get(option)
    assert method is None or (value not in ("nan", "-inf", "-1") and method.is_off >= is_off)
    assert method is not None or not is_off
    if method is not None:
        network = run(Loop(cnn, method), 3).network
        assert all(parameter.isfinite().all() for parameter in network.parameters())
        assert not method.is_off or same([p for p in network.parameters() if p.requires_grad], plain())


@pytest.mark.parametrize(("name", "option"), [pair for pair in OPTIONS if numeric_options(pair[0])[pair[1]] is int])
def test_a_large_whole_number_takes_no_memory_and_no_time_or_is_refused_in_one_line(name, option):
    size = lambda network: sum(parameter.numel() for parameter in network.parameters())  # noqa: E731
    try:
        (method,) = make([spec(name, option, str(10**12))])
    except ValueError as error:
        check_refusal(name, option, error)
        return
    network = run(Loop(cnn, method), 3).network
    assert size(network) < 2 * size(run(Loop(cnn, *make([name])), 3).network)


def test_a_refused_size_names_its_bound():
    with pytest.raises(ValueError, match=r"^infer: heads=1000000000000: it has to be a whole number from 1 to 10,000$"):
        make(["infer:heads=1000000000000"])


@pytest.mark.parametrize("value", [-1, 10**400, math.nan, -math.inf], ids=lambda value: str(value)[:4])
@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_a_number_given_in_code_is_refused_likewise(name, option, value):
    kind = constructor(name)
    if value == 10**400 and option in ("period", "at", "until"):
        kind(**{option: value})
        return
    with pytest.raises(ValueError, match=f"{option}=") as error:
        kind(**{option: value})
    check_refusal(name, option, error.value)


def test_the_methods_that_act_are_not_off():
    assert not any(make([name + options])[0].is_off for name, options in ACTIVE.items())
