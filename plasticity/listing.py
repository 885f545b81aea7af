"""Help on the methods: `--list-methods` and `--plasticity NAME:help`."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from experiment.part_help import asked_help, help_text, written
from plasticity.registry import METHODS, load, options_of, parse

if TYPE_CHECKING:
    from plasticity.method import Method


def answer(argv: Sequence[str]) -> str | None:
    """The text that a command line asks for, or None if it asks for none. ValueError for an unknown method."""
    if "--list-methods" in argv:
        return "\n".join(map(_entry, METHODS))
    if (spec := asked_help(argv, "plasticity")) is None:
        return None
    part = parse(spec)
    kind = load(part)
    return help_text(part.name, kind, _options(kind))


def _entry(name: str) -> str:
    kind = load(parse(name))
    _, _, source = " ".join((inspect.getdoc(kind) or "").split()).partition("Source: ")
    source = re.split(r"\.\s+(?=[A-Z])", source)[0].rstrip(".")  # "eq. 2" is no end of a sentence
    lines = [METHODS[name].line, f"options: {written(_options(kind))}", f"source: {source}"]
    return "\n".join(
        [name, *(textwrap.fill(line, 116, initial_indent="  ", subsequent_indent="    ") for line in lines)]
    )


def _options(kind: type[Method]) -> dict[str, inspect.Parameter]:
    """The options without the seed, which follows from the run's."""
    return {name: option for name, option in options_of(kind).items() if name != "seed"}
