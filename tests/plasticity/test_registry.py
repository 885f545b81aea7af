import math
import subprocess
import sys

import pytest

from experiment.part import join_options
from plasticity.method import Method
from plasticity.nap import NaP
from plasticity.registry import METHODS, make, parse


class Local(Method):
    def __init__(self, size: float | None = 1.0, count: int = 2, on: bool = False, names: tuple[str, ...] = ()):
        self.options = size, count, on, names


HERE = f"{__name__}:Local"


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_made_by_its_name_with_a_line_for_the_help(name):
    (method,) = make([name])
    assert isinstance(method, Method)
    assert type(method).__doc__
    assert 10 < len(METHODS[name].line) <= 60


def test_options_are_read_as_their_types():
    (redo,) = make(["redo:period=inf,tau=0.25,init=xavier"])
    assert (redo.period, redo.tau, redo.init) == (math.inf, 0.25, "xavier")
    (reset,) = make(["reset:layers=head+torso.5"])
    assert reset.layers == ("head", "torso.5")
    (nap,) = make(["nap:every=3"])
    assert nap.every == 3
    (local,) = make([f"{HERE}:size=none,count=3,on=true,names=a+b"])
    assert local.options == (None, 3, True, ("a", "b"))


def test_a_list_split_at_commas_is_put_together():
    words = ["redo:period=1000", "tau=0.1", "nap", f"{HERE}:size=1", "on=true", "cbp"]
    assert join_options(words) == ("redo:period=1000,tau=0.1", "nap", f"{HERE}:size=1,on=true", "cbp")
    assert join_options(["tau=1"]) == ("tau=1",)


def test_projection_is_last_whatever_the_order():
    methods = make(["nap", "redo", "reset"])
    assert [type(method).__name__ for method in methods] == ["ReDo", "Reset", "NaP"]
    assert isinstance(methods[-1], NaP)


def test_each_method_has_a_seed_of_its_own():
    redo, reset = make(["redo", "reset"], seed=3)
    assert redo.seed != reset.seed
    assert make(["redo"], seed=3)[0].seed == redo.seed != make(["redo"], seed=4)[0].seed
    assert make(["redo:seed=5"], seed=3)[0].seed == 5


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("redoo", "'redo'"),
        ("redoo:tau=1", "'redo'"),
        ("tau=1", "known"),
        ("", "known"),
        ("redo:taw=1", "'tau'"),
        ("redo:tau", "key=value"),
        ("redo:tau=", "key=value"),
        ("redo:tau=1,tau=2", "once"),
        ("redo:tau=big", "a number"),
        ("nap:every=1.5", "whole number"),
        ("nap:norm=leyer", "'layer'"),
        (f"{HERE}:on=maybe", "true or false"),
        ("no.such.module:Thing", "no.such"),
        (f"{__name__}:Locl", "'Local'"),
        ("math:pi", "math"),
        ("plasticity.method:Method:a=1", "no option 'a'"),
    ],
)
def test_a_mistake_is_one_line_with_the_near_match(spec, said):
    with pytest.raises(ValueError, match=r".+") as error:
        make([spec])
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_method_is_named_once():
    with pytest.raises(ValueError, match="redo is named twice"):
        make(["redo", "nap", "redo:tau=0"])


PERIODS = ["reset:period", "shrink-perturb:period", "redo:period"]


@pytest.mark.parametrize("option", PERIODS)
def test_periods_are_whole_numbers_of_updates_or_never(option):
    for good in ("1", "1e12", "inf"):
        make([f"{option}={good}"])
    for bad in ("0", "-1", "nan", "1.5", "-inf"):
        with pytest.raises(ValueError, match="whole number of updates, at least 1, or inf"):
            make([f"{option}={bad}"])


@pytest.mark.parametrize("option", ["shrink-perturb:strength=1.1", "cbp:rate=2", "cbp:decay=1", "redo:samples=0"])
def test_a_value_out_of_its_range_is_refused(option):
    with pytest.raises(ValueError, match="has to be"):
        make([option])


def test_the_registry_needs_no_torch():
    code = "import sys, plasticity.registry as r; r.parse('redo:tau=1'); r.listing(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_import_path_is_parsed_with_and_without_options():
    assert parse("a.b:C").is_path
    assert parse("a.b:C:x=1,y=2").options == {"x": "1", "y": "2"}
