"""Fields of a config that know their range and role."""

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment.setting import changeable, check_ranges, learning, names_of, setting
from experiment.values import ConfigError


@dataclass(frozen=True)
class Config:
    plain: int = 1
    share: float | None = setting(0.5, "learning", above=0, at_most=1)
    count: int = setting(3, "learning", at_least=1, at_most=1_000)
    many: int = setting(3, "learning", at_least=2)
    threads: int = setting(1, "machine", role="machine")
    track: str = setting("none", "logging", role="observing", changeable=True)
    name: str = setting("x", "run", role="identity")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"share": 0.0}, "--share is 0.0: it has to be above 0, at most 1"),
        ({"share": 1.5}, "--share is 1.5: it has to be above 0, at most 1"),
        ({"share": float("nan")}, "--share is nan: it has to be above 0, at most 1"),
        ({"count": 0}, "--count is 0: it has to be from 1 to 1,000"),
        ({"many": 1}, "--many is 1: it has to be at least 2"),
    ],
)
def test_a_value_outside_its_range_is_named(changed, message):
    with pytest.raises(ConfigError, match=f"^{message}$"):
        check_ranges(replace(Config(), **changed))


@given(st.floats(0, 1, exclude_min=True), st.integers(1, 1_000), st.integers(2), st.integers())
def test_values_within_their_range_pass(share, count, many, plain):
    check_ranges(Config(plain=plain, share=share, count=count, many=many))
    check_ranges(Config(share=None))


def test_roles_are_asked_of_the_fields():
    assert names_of(Config, "learning") == {"plain", "share", "count", "many"}
    assert names_of(Config, "machine", "identity") == {"threads", "name"}
    assert learning(Config()) == {"plain": 1, "share": 0.5, "count": 3, "many": 3}
    assert changeable(Config()) == {"track": "none"}
