"""A part of a run that the user names: `name`, or the import path `module:Class`, either with `:option=value,...`.

Imports no torch, so that a command line can check names at once.
"""

from __future__ import annotations

import importlib
import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from experiment.values import suggest


@dataclass(frozen=True)
class Part:
    """A registered name or an import path, and its options as text."""

    name: str
    options: dict[str, str] = field(default_factory=dict)

    @property
    def is_path(self) -> bool:
        """Whether it is module:Class."""
        return ":" in self.name


def parse(text: str, known: Collection[str], what: str) -> Part:
    """Reads `name[:key=value,...]` or `module:Class[:key=value,...]`; ValueError for an unknown name or form.

    what: the kind of part in words, for the message.
    """
    first, *rest = text.split(":")
    if first not in known:
        if not rest or "=" in rest[0]:
            raise ValueError(f"{first!r} is no known {what}{suggest(first, known, list_all=True)}")
        first, rest = f"{first}:{rest[0]}", rest[1:]
    return Part(first, _options(text, ":".join(rest)))


def join_options(words: Iterable[str]) -> tuple[str, ...]:
    """Parts that were split at their commas, whole again: "redo:period=9", "tau=0" is "redo:period=9,tau=0"."""
    parts: list[str] = []
    for word in words:
        if parts and "=" in word and ":" not in word.partition("=")[0]:
            parts[-1] += f",{word}"
        else:
            parts.append(word)
    return tuple(parts)


def load(path: str, base: type) -> type[Any]:
    """The class at module:Class; ValueError, in one line, unless it can be imported and is a subclass of `base`."""
    module_name, _, class_name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, SyntaxError, TypeError, ValueError) as error:
        raise ValueError(f"{path!r} cannot be imported: {error}") from None
    kind = getattr(module, class_name, None)
    if isinstance(kind, type) and issubclass(kind, base):
        return kind
    found = [name for name, value in vars(module).items() if isinstance(value, type) and issubclass(value, base)]
    hint = suggest(class_name, [name for name in found if name != base.__name__], list_all=True)
    raise ValueError(f"{module_name} has no {base.__module__}.{base.__name__} {class_name!r}{hint}")


def options_of(kind: type, base: type, given_by_us: Collection[str] = ()) -> dict[str, inspect.Parameter]:
    """The named arguments of a class's constructor that `base` does not have itself.

    given_by_us: names of those that are no options, since the program gives them.
    """
    found: dict[str, inspect.Parameter] = {}
    for each in kind.__mro__[: kind.__mro__.index(base)]:
        if "__init__" not in vars(each):
            continue
        for name, parameter in inspect.signature(vars(each)["__init__"]).parameters.items():
            named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            if named and name != "self" and name not in given_by_us:
                found.setdefault(name, parameter)
    return found


def arguments(part: Part, kind: type, known: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """The options as values of the types that the constructor states; ValueError for an unknown or a wrong one."""
    values = {}
    for key, text in part.options.items():
        if key not in known:
            raise ValueError(f"{part.name} has no option {key!r}{suggest(key, known, list_all=True)}")
        values[key] = _read(f"{part.name}: {key}={text}", text, _hint(kind, key))
    return values


def _hint(kind: type, name: str) -> Any:
    """The type that a class, or one that it inherits from, states for an argument; text where none does."""
    for each in kind.__mro__:
        initialise: Callable[..., Any] | None = vars(each).get("__init__")
        if isinstance(initialise, types.FunctionType) and name in (hints := typing.get_type_hints(initialise)):
            return hints[name]
    return str


def _options(spec: str, text: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not (key and equals and value) or key in options:
            raise ValueError(f"{spec!r}: options are written key=value,key=value, each once")
        options[key] = value
    return options


def _read(where: str, text: str, kind: Any) -> Any:
    """The text as a value of an option's type."""
    origin, members = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if text == "none" and types.NoneType in members:
            return None
        return _read(where, text, next(member for member in members if member is not types.NoneType))
    if origin is Literal:
        if text not in members:
            raise ValueError(f"{where}{suggest(text, members, list_all=True)}")
        return text
    if origin is tuple:
        return tuple(text.split("+"))
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{where}: it has to be true or false")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{where}: it has to be {'a whole number' if kind is int else 'a number'}") from None
