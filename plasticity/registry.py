"""The methods by name, and what a user writes to choose them: `redo`, `redo:period=1000,tau=0.1`, `my.file:MyMethod`.

Imports no torch, so that a command line can list and check names at once.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import types
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal

from plasticity.pairs import check_pairs

if TYPE_CHECKING:
    from plasticity.method import Method


@dataclass(frozen=True)
class Entry:
    """Where a method's class is, and a line on what it does."""

    path: str
    line: str


METHODS: dict[str, Entry] = {
    "nap": Entry("plasticity.nap:NaP", "norms, and weights at their initial norm"),
    "reset": Entry("plasticity.reset:Reset", "draw the last layers anew periodically"),
    "shrink-perturb": Entry("plasticity.shrink_perturb:ShrinkPerturb", "move weights towards freshly drawn ones"),
    "redo": Entry("plasticity.redo:ReDo", "recycle dormant units periodically"),
    "cbp": Entry("plasticity.cbp:ContinualBackprop", "continual backprop: replace little-used units"),
    "l2-init": Entry("plasticity.l2_init:L2Init", "penalise the distance from the initial weights"),
    "crelu": Entry("plasticity.crelu:CReLU", "concatenated relu(x) and relu(-x)"),
    "injection": Entry("plasticity.injection:PlasticityInjection", "freeze the head once, learn a fresh one beside it"),
    "hare-tortoise": Entry("plasticity.hare_tortoise:HareTortoise", "reset fast weights to their slow average"),
    "spectral": Entry("plasticity.spectral:SpectralRegularization", "penalise spectral norms away from 1"),
    "weight-clipping": Entry("plasticity.weight_clipping:WeightClipping", "clip weights to their initial range"),
    "dash": Entry("plasticity.dash:DASH", "shrink weights by their alignment with gradients"),
    "weight-decay": Entry("plasticity.weight_decay:WeightDecay", "L2 penalty or decoupled decay (AdamW)"),
}


NAMES = {entry.path: name for name, entry in METHODS.items()}


@dataclass(frozen=True)
class Spec:
    """A chosen method: its name or import path, and its options as text."""

    name: str
    options: dict[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """module:Class."""
        return METHODS[self.name].path if self.name in METHODS else self.name


def listing() -> str:
    """One line for each method."""
    width = max(map(len, METHODS))
    return "\n".join(f"  {name:{width}}  {entry.line}" for name, entry in METHODS.items())


def join_options(words: Iterable[str]) -> tuple[str, ...]:
    """Specs that were split at their commas, whole again: "redo:period=9", "tau=0" is "redo:period=9,tau=0"."""
    specs: list[str] = []
    for word in words:
        if specs and "=" in word and ":" not in word.partition("=")[0]:
            specs[-1] += f",{word}"
        else:
            specs.append(word)
    return tuple(specs)


def parse(spec: str) -> Spec:
    """Reads `name[:key=value,...]` or `module:Class[:key=value,...]`; ValueError for an unknown name or form."""
    first, *rest = spec.split(":")
    if first not in METHODS:
        if not rest or "=" in rest[0]:
            raise ValueError(f"{first!r} is no known method{near(first, METHODS)}")
        first, rest = f"{first}:{rest[0]}", rest[1:]
    return Spec(NAMES.get(first, first), _options(spec, ":".join(rest)))


def parse_all(specs: Sequence[str]) -> list[Spec]:
    """Reads each spec; ValueError for a method that is named twice."""
    parsed = [parse(spec) for spec in specs]
    names = [spec.name for spec in parsed]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{twice[0]} is named twice: give each method once, with all its options")
    return parsed


def make(specs: Sequence[str], seed: int = 0) -> list[Method]:
    """The methods of the specs, in their order but nap last; each draws from a seed made of `seed` and its name.

    Raises ValueError, in one line, for an unknown method or option, for a value that the method refuses, and for two
    methods at work that do not go together.
    """
    parsed = sorted(parse_all(specs), key=lambda spec: spec.name == "nap")
    methods = [_make(spec, seed) for spec in parsed]
    check_pairs([spec.name for spec, method in zip(parsed, methods, strict=True) if not method.is_off])
    return methods


def near(word: str, known: Iterable[str]) -> str:
    """The end of an error message: the close match, else all that is known."""
    names = list(known)
    match = get_close_matches(word, names, n=1)
    return f"; did you mean {match[0]!r}?" if match else f"; known: {', '.join(names) or 'none'}"


def _options(spec: str, text: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not (key and equals and value) or key in options:
            raise ValueError(f"{spec!r}: options are written key=value,key=value, each once")
        options[key] = value
    return options


def _make(spec: Spec, seed: int) -> Method:
    kind = _load(spec)
    known = {name: p for name, p in inspect.signature(kind).parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD}
    hints = typing.get_type_hints(kind.__init__)
    values: dict[str, Any] = {}
    for key, text in spec.options.items():
        if key not in known:
            raise ValueError(f"{spec.name} has no option {key!r}{near(key, known)}")
        values[key] = _read(f"{spec.name}: {key}={text}", text, hints.get(key, str))
    if "seed" in known:
        values.setdefault("seed", _seed(seed, spec.name))
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{spec.name}: {error}") from None


def _load(spec: Spec) -> type[Method]:
    from plasticity.method import Method

    module_name, _, class_name = spec.path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, SyntaxError, TypeError, ValueError) as error:
        raise ValueError(f"{spec.name!r} cannot be imported: {error}") from None
    kind = getattr(module, class_name, None)
    if not (isinstance(kind, type) and issubclass(kind, Method)):
        found = [name for name, value in vars(module).items() if isinstance(value, type) and issubclass(value, Method)]
        hint = near(class_name, [name for name in found if name != "Method"])
        raise ValueError(f"{module_name} has no plasticity.method.Method {class_name!r}{hint}")
    return kind


def _seed(seed: int, name: str) -> int:
    """A seed in 0..2³¹−1 that depends on the run's seed and the method's name alone."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:4]) >> 1


def _read(where: str, text: str, kind: Any) -> Any:
    """The text as a value of an option's type."""
    origin, members = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if text == "none" and types.NoneType in members:
            return None
        return _read(where, text, next(member for member in members if member is not types.NoneType))
    if origin is Literal:
        if text not in members:
            raise ValueError(f"{where}{near(text, members)}")
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
