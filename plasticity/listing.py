"""Help on the methods: `--list-methods` and `--plasticity NAME:help`."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Sequence

from plasticity.registry import METHODS, load, options_of, parse


def answer(argv: Sequence[str]) -> str | None:
    """The text that a command line asks for, or None if it asks for none. ValueError for an unknown method."""
    if "--list-methods" in argv:
        return "\n".join(map(_entry, METHODS))
    option = ""
    for argument in argv:
        option = argument.partition("=")[0] if argument.startswith("--") else option
        name = argument.removeprefix("--plasticity=")
        if option == "--plasticity" and name.endswith(":help"):
            return described(name.removesuffix(":help"))
    return None


def described(spec: str) -> str:
    """A method's options with their defaults, and its docstring."""
    part = parse(spec)
    kind = load(part)
    return f"{part.name}\noptions: {_options(kind)}\n\n{inspect.getdoc(kind) or 'It has no docstring.'}"


def _entry(name: str) -> str:
    kind = load(parse(name))
    _, _, source = " ".join((inspect.getdoc(kind) or "").split()).partition("Source: ")
    source = re.split(r"\.\s+(?=[A-Z])", source)[0].rstrip(".")  # "eq. 2" is no end of a sentence
    lines = [METHODS[name].line, f"options: {_options(kind)}", f"source: {source}"]
    return "\n".join(
        [name, *(textwrap.fill(line, 116, initial_indent="  ", subsequent_indent="    ") for line in lines)]
    )


def _options(kind: type) -> str:
    """The options as they are written, with their defaults, without the seed, which follows from the run's."""
    known = {name: option.default for name, option in options_of(kind).items() if name != "seed"}
    return ", ".join(f"{name}={_written(value)}" for name, value in known.items()) or "none"


def _written(value: object) -> str:
    if isinstance(value, tuple):
        return "+".join(map(str, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
