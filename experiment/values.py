"""Turns text or plain Python values into the types that a config field may have, in one place for files and flags."""

import difflib
import math
import re
import types
import typing
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any, Literal

_RATIONAL = re.compile(r"[+-]?(\d{1,40}/\d{1,40}|(\d{1,40}\.?\d{0,40}|\.\d{1,40})([eE][+-]?\d{1,2})?)")
_BOOL = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_NONE = ("none", "null", "~")


LEAST_INT = -(2**63)
"""The least integer of 64 bits, which a setting has to fit into."""


class ConfigError(ValueError):
    """A mistake of the user; the message is one line."""


def one_line(text: object) -> str:
    """A message on one line; the spaces inside its lines, which a path may have, stay as they are."""
    return " ".join(line.strip() for line in str(text).splitlines())


def counted(number: int, what: str) -> str:
    """Returns "1 run", "2 runs", "1,000 runs"."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def every(number: int, what: str) -> str:
    """Returns "every update", "every 2 updates"."""
    return f"every {what}" if number == 1 else f"every {counted(number, what)}"


def suggest(word: str, known: Iterable[str], list_all: bool = False) -> str:
    """The end of a message about an unknown name: "; did you mean 'x'?" with the nearest known one.

    Without a close match: "", or with `list_all` the known names, up to 20.
    """
    names = list(known)
    by_lower = {name.lower(): name for name in names}
    if match := difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.5):
        return f"; did you mean {by_lower[match[0]]!r}?"
    listed = ", ".join(names[:20]) + " ..." * (len(names) > 20)
    return f"; known: {listed or 'none'}" if list_all else ""


def members(kind: Any) -> tuple[Any, ...]:
    """Returns the types of a union, or the one type that it is."""
    return typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)


def expected(kind: Any) -> str:
    """The values that the type takes, as text."""
    if len(members(kind)) > 1:
        return " or ".join(expected(member) for member in members(kind))
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(kind)))
    if typing.get_origin(kind) is tuple:
        return "a list of names"
    return {
        bool: "true or false",
        int: "an integer",
        float: "a finite number",
        str: "text",
        Fraction: "a rational such as 8, 0.25 or 3/7",
        types.NoneType: "none",
    }[kind]


def coerce(value: Any, kind: Any) -> Any:
    """Converts `value` to the field type `kind`, exactly or not at all.

    Text is what a config file or a flag holds, so it is read by the wanted type alone: "1e-4" is a float for a float,
    "off" is a choice for a Literal, "0.1" is exactly 1/10 for a Fraction. Numbers that text cannot mean are refused:
    NaN and infinity, and integers of more than 64 bits.

    Raises:
        ConfigError: one line that says what would be right.
    """
    for member in _none_first(members(kind)):
        try:
            return _coerce_one(value, member)
        except (ValueError, ZeroDivisionError, OverflowError):
            continue
    if int in members(kind) and _is_whole(value):
        raise ConfigError(f"an integer has to be from {LEAST_INT:,} to {-LEAST_INT - 1:,}, not {value}")
    hint = "".join(suggest(str(value), map(str, typing.get_args(k))) for k in members(kind) if _is_literal(k))
    raise ConfigError(f"expected {expected(kind)}, got {value!r}{hint}")


def _is_whole(value: Any) -> bool:
    """Whether it is an integer of any size, as a number or as text."""
    return isinstance(value, int | str) and re.fullmatch(r"[+-]?\d[\d_]*([eE]\+?\d+)?", str(value).strip()) is not None


def _is_literal(kind: Any) -> bool:
    return typing.get_origin(kind) is Literal


def _none_first(kinds: tuple[Any, ...]) -> list[Any]:
    """A choice "none" is that choice; otherwise "none" means None rather than text."""
    return sorted(kinds, key=lambda kind: (not _is_literal(kind), kind is not types.NoneType))


def _coerce_one(value: Any, kind: Any) -> Any:
    if _is_literal(kind):
        return _choice(value, typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return _names(value)
    return _READERS[kind](value)


def _choice(value: Any, choices: tuple[Any, ...]) -> Any:
    for choice in choices:
        if (type(value), value) == (type(choice), choice) or (isinstance(value, str) and value == str(choice)):
            return choice
    raise ValueError


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(part for part in re.split(r"[,\s]+", value) if part)
    if isinstance(value, list | tuple):
        return tuple(_str(part) for part in value)
    raise ValueError


def _none(value: Any) -> None:
    if value is not None and not (isinstance(value, str) and value.lower() in _NONE):
        raise ValueError


def _bool(value: Any) -> bool:
    if isinstance(value, str) and value.lower() in _BOOL:
        return _BOOL[value.lower()]
    if isinstance(value, bool):
        return value
    raise ValueError


def _str(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise ValueError


def _fraction(value: Any) -> Fraction:
    """A float means its shortest decimal text: 0.1 is one tenth."""
    if isinstance(value, bool):
        raise ValueError
    text = str(value).strip().replace("_", "")
    if not _RATIONAL.fullmatch(text):
        raise ValueError
    return Fraction(text)


def _int(value: Any) -> int:
    if isinstance(value, float | Fraction):
        raise ValueError
    number = _fraction(value)
    if number.denominator != 1 or "/" in str(value) or not LEAST_INT <= number < -LEAST_INT:
        raise ValueError
    return number.numerator


def _float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


_READERS: dict[Any, Callable[[Any], Any]] = {
    types.NoneType: _none,
    bool: _bool,
    int: _int,
    float: _float,
    str: _str,
    Fraction: _fraction,
}
