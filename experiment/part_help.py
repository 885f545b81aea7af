"""Help on a part of a run: `--option NAME:help` prints its options with their defaults, and its docstring."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Mapping, Sequence

from experiment.part import load, options_of
from experiment.values import ConfigError

_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
Bases = Mapping[str, tuple[str, int, tuple[str, ...]]]
"""Of each option: the base of its classes as module:Class, how many arguments of the constructor come first and are no
options, and the names of others that are none."""
SCHEDULES: Bases = {"schedule": ("nap:Schedule", 2, ())}


def asked_help(argv: Sequence[str], option: str) -> str | None:
    """The part whose help a command line asks for: of `--schedule NAME:help` NAME. None if it asks for none."""
    last = ""
    for argument in argv:
        last = argument.partition("=")[0] if argument.startswith("--") else last
        given = argument.removeprefix(f"--{option}=")
        if last == f"--{option}" and given.endswith(":help"):
            return given.removesuffix(":help")
    return None


def own_help(argv: Sequence[str], bases: Bases, names: Mapping[str, str] | None = None) -> str | None:
    """The help on a part of the user's, module:Class, that a command line asks for; None if it asks for none.

    names: what else may be asked for, each with its import path.
    Raises ConfigError, in one line, for a path that leads to no such class.
    """
    for option, (base_path, given, others) in bases.items():
        asked = asked_help(argv, option)
        path = (names or {}).get(asked or "", asked)
        if path is not None and _PATH.fullmatch(path):
            module, _, name = base_path.partition(":")
            base = getattr(importlib.import_module(module), name)
            try:
                kind = load(path, base)
            except ValueError as error:
                raise ConfigError(f"--{option}: {error}") from None
            known = options_of(kind, base, given)
            return help_text(asked or path, kind, {name: known[name] for name in known if name not in others})
    return None


def help_text(name: str, kind: type, options: Mapping[str, inspect.Parameter]) -> str:
    """A part's options with their defaults, and its docstring."""
    return f"{name}\noptions: {written(options)}\n\n{inspect.getdoc(kind) or 'It has no docstring.'}"


def written(options: Mapping[str, inspect.Parameter]) -> str:
    """The options as they are written, with their defaults."""
    return ", ".join(f"{name}={_value(option.default)}" for name, option in options.items()) or "none"


def _value(value: object) -> str:
    if value is inspect.Parameter.empty:
        return "(to be given)"
    if isinstance(value, tuple):
        return "+".join(map(str, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
