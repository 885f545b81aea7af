"""A field of a config that states its role, its range, and its group in the help."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import field
from fractions import Fraction
from typing import Any, Literal

from experiment.values import ConfigError

Role = Literal["learning", "machine", "observing", "identity"]
"""learning: decides what is learned or how it is scored; runs with different values are different. machine: where a
run is computed, which changes only the last bits. observing: what is measured and saved. identity: name and folder of
the run."""


def setting(
    default: Any,
    group: str = "",
    *,
    role: Role = "learning",
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    common: bool = False,
    changeable: bool = False,
    fixed: bool = False,
    positional: bool = False,
    metavar: str = "",
) -> Any:
    """A dataclass field for a config.

    Args:
        default: the value where none is given.
        group: heading of the help under which the option stands.
        role: what the setting decides.
        at_least, above, at_most: the range of a number; `above` excludes its bound.
        common: whether the short help shows the option.
        changeable: whether a resume may give it another value.
        fixed: whether a fork has to keep it, since the state of the run that it forks depends on it.
        positional: whether the value may be given without its flag.
        metavar: what the help shows for the value; by default its type.
    """
    known = {
        "group": group, "role": role, "at_least": at_least, "above": above, "at_most": at_most, "common": common,
        "changeable": changeable, "fixed": fixed, "positional": positional, "metavar": metavar,
    }  # fmt: skip
    return field(default=default, metadata=known)


def names_of(config_class: Any, *roles: Role) -> frozenset[str]:
    """The names of the fields that have one of these roles; a field that states none has the role learning."""
    fields = dataclasses.fields(config_class)
    return frozenset(each.name for each in fields if each.metadata.get("role", "learning") in roles)


def changeable(config: Any) -> dict[str, Any]:
    """The values of a config that a resume may change."""
    fields = dataclasses.fields(config)
    return {each.name: getattr(config, each.name) for each in fields if each.metadata.get("changeable")}


def learning(config: Any) -> dict[str, Any]:
    """The values of the settings with the role learning: runs that differ in them are different runs."""
    names = names_of(type(config), "learning")
    return {name: value for name, value in vars(config).items() if name in names}


def check_ranges(config: Any) -> None:
    """Raises ConfigError for the first number outside the range that its field states."""
    for each in dataclasses.fields(config):
        value, allowed = getattr(config, each.name), _in_words(each.metadata)
        if allowed and isinstance(value, int | float | Fraction) and not _lies_within(value, each.metadata):
            raise ConfigError(f"--{each.name.replace('_', '-')} is {value}: it has to be {allowed}")


def _lies_within(value: Any, limits: Mapping[str, Any]) -> bool:
    low, above, high = limits["at_least"], limits["above"], limits["at_most"]
    return (
        (low is None or value >= low)
        and (above is None or value > above)
        and value <= (math.inf if high is None else high)
    )


def _in_words(limits: Mapping[str, Any]) -> str:
    """The range as "from 1 to 64" or "above 0, at most 1"; nothing where no bound is stated."""
    low, above, high = (limits.get(key) for key in ("at_least", "above", "at_most"))
    if low is not None and high is not None:
        return f"from {_number(low)} to {_number(high)}"
    bounds = (("at least", low), ("above", above), ("at most", high))
    return ", ".join(f"{words} {_number(bound)}" for words, bound in bounds if bound is not None)


def _number(bound: float) -> str:
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"
