"""A part of a run that the user names: `name`, or the import path `module:Class`, either with `:option=value,...`.

Agents, methods, networks and schedules are such parts. Imports no torch, so that a command line can check names at
once.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import traceback
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from experiment.values import ConfigError, one_line, suggest


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

    what: the name of this kind of part, for the message.
    """
    first, *rest = text.split(":")
    if first not in known:
        if not rest or "=" in rest[0]:
            raise ValueError(f"{first!r} is no known {what}{suggest(first, known, list_all=True)}")
        first, rest = f"{first}:{rest[0]}", rest[1:]
    return Part(first, _options(text, ":".join(rest)))


def join_options(texts: Iterable[str]) -> tuple[str, ...]:
    """Joins parts that were split at their commas: "redo:period=9", "tau=0" becomes "redo:period=9,tau=0"."""
    parts: list[str] = []
    for text in texts:
        if parts and "=" in text and ":" not in text.partition("=")[0]:
            parts[-1] += f",{text}"
        else:
            parts.append(text)
    return tuple(parts)


def load(path: str, base: type) -> type[Any]:
    """The class at module:Class.

    Raises ValueError, in one line, unless it can be imported, is a subclass of `base`, and defines all of its methods.
    """
    module_name, _, class_name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module raises
        raise ValueError(f"{path!r} cannot be imported: {one_line(error)}") from None
    kind = getattr(module, class_name, None)
    if isinstance(kind, type) and issubclass(kind, base):
        if missing := sorted(getattr(kind, "__abstractmethods__", ())):
            raise ValueError(f"{path}: it does not define {', '.join(missing)}")
        return kind
    found = [name for name, value in vars(module).items() if isinstance(value, type) and issubclass(value, base)]
    hint = suggest(class_name, [name for name in found if name != base.__name__], list_all=True)
    raise ValueError(f"{module_name} has no {base.__module__}.{base.__name__} {class_name!r}{hint}")


def options_of(kind: type, base: type, given: int = 0) -> dict[str, inspect.Parameter]:
    """The named arguments of a class's constructor that `base` does not have itself.

    given: how many arguments come first and are no options, since the program gives them.
    """
    found: dict[str, inspect.Parameter] = {}
    for each in kind.__mro__[: kind.__mro__.index(base)]:
        if "__init__" not in vars(each):
            continue
        positional = given + 1  # and self
        for name, parameter in inspect.signature(vars(each)["__init__"]).parameters.items():
            positional -= parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
            option = parameter.kind is parameter.POSITIONAL_OR_KEYWORD and positional < 0
            if option or parameter.kind is parameter.KEYWORD_ONLY:
                found.setdefault(name, parameter)
    return found


def arguments(part: Part, kind: type, known: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """The options as values of the types that the constructor states; ValueError for an unknown or a wrong one."""
    check_known(part.name, part.options, known)
    return {key: _read(f"{part.name}: {key}={text}", text, _hint(kind, key)) for key, text in part.options.items()}


def check_known(name: str, options: Iterable[str], known: Collection[str]) -> None:
    """Raises ValueError, with the near match, for an option that the part of this name does not have."""
    for option in options:
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}{suggest(option, known, list_all=True)}")


def check_part(option: str, given: str, known: Collection[str], options: bool = False) -> None:
    """Raises ConfigError unless the part is a known name, or has the form of an import path.

    options: whether known names take options too. Which they have, `own_part` checks.
    """
    try:
        part = parse(given, known, option)
    except ValueError as error:
        raise ConfigError(f"--{option}: {error}") from None
    if part.options and not part.is_path and not options:
        raise ConfigError(f"--{option} {given}: only an import path takes options here")


def short_name(given: str) -> str:
    """A part's name without its options, of an import path the class alone."""
    first, *rest = given.split(":")
    return rest[0] if rest and "=" not in rest[0] else first


def own_part(
    option: str, path: str, base: type, given: int = 0, known: Mapping[str, str] | None = None
) -> tuple[type[Any], dict[str, Any]]:
    """The class that a user names by module:Class[:option=value,...], a subclass of `base`, and its options.

    given: how many arguments of its constructor the program gives. known: names that stand for import paths. Raises
    ConfigError, in one line, for an import path that leads to no such class, and for an unknown option.
    """
    names = known or {}
    try:
        part = parse(path, names, option)
        kind = load(names.get(part.name, part.name), base)
        return kind, arguments(part, kind, options_of(kind, base, given))
    except ValueError as error:
        raise ConfigError(f"--{option}: {error}") from None


def build_part(
    option: str, path: str, base: type, *given: Any, known: Mapping[str, str] | None = None, **named: Any
) -> Any:
    """An object of `own_part`.

    given, named: what the program gives its constructor. known: as in `own_part`. Raises ConfigError, in one line, as
    `own_part` and for whatever the constructor raises.
    """
    kind, options = own_part(option, path, base, len(given), known)
    with as_mistake(f"--{option} {path}"):
        return kind(*given, **named, **options)


@contextlib.contextmanager
def as_mistake(where: str) -> Iterator[None]:
    """Turns an error of the user's code into a ConfigError of one line that begins with `where`.

    A part refuses arguments with ValueError or TypeError. For any other error the message names the type and the line
    that raised it, the last one outside of installed packages. A ConfigError passes: its message is whole.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{where}: {described(error)}") from None


def described(error: Exception) -> str:
    """What the user's code raised, in one line.

    ValueError and TypeError are what a part refuses with. Any other error is named with the line that raised it, the
    last one outside of installed packages.
    """
    if isinstance(error, TypeError | ValueError):
        return one_line(error)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename]
    return f"{type(error).__name__}: {one_line(error)} ({frames[-1].filename} line {frames[-1].lineno})"


def check_signal(signal: str | None, known: Collection[str], reader: str) -> None:
    """Raises ConfigError for a schedule that listens to a signal that `reader`, a training loop, does not have."""
    if signal is not None and signal not in known:
        raise ConfigError(f"--schedule listens to the signal {signal!r}, and {reader} has {', '.join(known)}")


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
        words = [word for member in members for word in typing.get_args(member)]  # of a Literal
        if text in words:
            return text
        first = next(member for member in members if member is not types.NoneType)
        try:
            return _read(where, text, first)
        except ValueError as error:
            raise ValueError(" or ".join([str(error), *words])) from None
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
