"""The command line of a flat config, sorted and explained by tyro; `config.parse_cli` is what programs call.

Tyro sees each option as one that takes any number of arguments, so tyro refuses nothing. Every mistake is then reported
in one line, by the same `coerce` that reads the config files.
"""

import ast
import dataclasses
import inspect
import itertools
import os
import shlex
import textwrap
import typing
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Any, Literal, NoReturn

from experiment.values import ConfigError, members, suggest

Fields = Mapping[str, tuple[Any, dataclasses.Field]]  # name: (type, field)
_ALL = "--help-all"
_HELP = ("-h", "--help", _ALL)


class _Words(list[str]):
    """The arguments that followed an option."""


def asks_help(argv: Sequence[str]) -> bool:
    """Whether the command line asks for the help."""
    return any(arg in _HELP for arg in argv)


def flag(name: str) -> str:
    """Returns the option of a field: `num_envs` is `--num-envs`."""
    return "--" + name.replace("_", "-")


def shell(*argv: object) -> str:
    """The arguments quoted for a POSIX shell, so that a printed command can be pasted."""
    return " ".join(map(_quoted, map(str, argv)))


def _quoted(arg: str) -> str:
    """One argument quoted. A name that is no UTF-8 is written byte by byte, as bash and zsh read it: $'run/\\xff'."""
    try:
        arg.encode()
    except UnicodeEncodeError:
        spelt = (f"\\x{byte:02x}" if byte > 126 or byte in b"\\'" else chr(byte) for byte in os.fsencode(arg))
        return f"$'{''.join(spelt)}'"
    return shlex.quote(arg)


def split(fields: Fields, argv: Sequence[str]) -> dict[str, Any]:
    """Sorts the arguments by field: text for each option that was given, a bool for each switch, and "config", a file
    of settings, unless a field has that name.

    A list that may be given without its flag holds paths: its arguments keep their spaces and commas.

    Raises:
        ConfigError: an unknown option (with the near match), an option without its value, or an argument too many.
    """
    import tyro

    named = [arg.partition("=") for arg in argv if arg.startswith("--")]
    for name, equals, _ in named:
        if equals and _switched(name, fields):
            raise ConfigError(f"{name} takes no value: write {flag(_switched(name, fields))} or its --no- form")
    shadow = _shadow([*_config_option(fields, [], {}), *_options(fields, {}, {})])
    asked = [arg for arg in argv if arg not in _HELP]
    parsed, loose = tyro.cli(shadow, args=asked, return_unknown_args=True, add_help=False)
    switched = {_switched(name, fields) for name, _, _ in named}
    given = {}
    for name, value in vars(parsed).items():
        if value is not None and (not isinstance(value, bool) or name in switched):
            given[name] = value if isinstance(value, bool) else _take(name, value, loose, fields)
    given |= _take_positional(fields, given, loose)
    _refuse(fields, loose)
    return given


def _is_switch(kind: Any) -> bool:
    """Whether a field is set by `--name` and `--no-name`: bool, also one that may be None."""
    return bool in members(kind)


def _switched(arg: str, fields: Fields) -> str:
    """The switch that `--nap` or `--no-nap` sets, or ""."""
    name = arg.removeprefix("--").replace("-", "_")
    for candidate in (name, name.removeprefix("no_")):
        if candidate in fields and _is_switch(fields[candidate][0]):
            return candidate
    return ""


def _take(name: str, argv: Sequence[str], loose: list[str], fields: Fields) -> str | list[str]:
    """Takes an option's value out of the arguments after it, and adds the others to `loose`."""
    end = next((i for i, arg in enumerate(argv) if arg.startswith("--")), len(argv))
    if end == 0:
        raise ConfigError(f"{flag(name)} needs a value")
    used = end if _takes_many(name, fields) else 1
    loose.extend(argv[used:])
    return list(argv[:used]) if holds_paths(name, fields) else ",".join(argv[:used])


def holds_paths(name: str, fields: Fields) -> bool:
    """Whether a field is a list that may be given without its flag. Its entries are not split."""
    return _takes_many(name, fields) and bool(fields[name][1].metadata.get("positional"))


def _takes_many(name: str, fields: Fields) -> bool:
    return name in fields and any(typing.get_origin(kind) is tuple for kind in members(fields[name][0]))


def _take_positional(fields: Fields, given: Mapping[str, Any], loose: list[str]) -> dict[str, Any]:
    taken: dict[str, Any] = {}
    for name, (_, field) in fields.items():
        plain = [arg for arg in loose if not arg.startswith("-")]
        if field.metadata.get("positional") and name not in given and plain:
            taken[name] = plain if _takes_many(name, fields) else plain[0]
            for arg in plain if _takes_many(name, fields) else plain[:1]:
                loose.remove(arg)
    return taken


def _refuse(fields: Fields, loose: Sequence[str]) -> None:
    options = [flag(name) for name in fields] + [
        flag(f"no_{name}") for name, (kind, _) in fields.items() if _is_switch(kind)
    ]
    for arg in loose:
        if arg.startswith("-"):
            name = arg.partition("=")[0]
            raise ConfigError(f"unknown option {name!r}{suggest(name, [*options, '--config', '--help'])}")
        raise ConfigError(f"unexpected argument {arg!r}")


def print_help(
    cls: type,
    fields: Fields,
    defaults: Mapping[str, Any],
    presets: Sequence[str],
    prog: str,
    description: str,
    argv: Sequence[str],
) -> NoReturn:
    """Prints options by group with their help and defaults, and exits with 0.

    Where a config marks common options, only --help-all shows the others.
    """
    import tyro

    shown = {name: value if isinstance(value, bool) else _shown(value) for name, value in defaults.items()}
    common = {name: entry for name, entry in fields.items() if entry[1].metadata.get("common")}
    if common and _ALL not in argv:
        description += f"\n\nThese are the {len(common)} options that are used most; {_ALL} shows all {len(fields)}."
        fields = common
    grouped: dict[str, dict[str, Any]] = {}
    for name, entry in fields.items():
        grouped.setdefault(entry[1].metadata.get("group", ""), {})[name] = entry
    docs = _field_docs(cls)
    parts = {title: _options(own, docs, shown) for title, own in grouped.items()}
    first = next(iter(parts))
    parts = {"": _config_option(fields, presets, shown) + parts.pop(first)} | parts
    page = dataclasses.make_dataclass("Page", [_group(title, _shadow(options)) for title, options in parts.items()])
    tyro.cli(page, prog=prog, description=description, args=["--help"], config=(tyro.conf.OmitArgPrefixes,))
    raise SystemExit(0)


def _group(title: str, options: Any) -> Any:
    """The field of the page that shows a group of options under its title."""
    import tyro

    name = title.replace(" ", "_") or "options"
    named = options if title else Annotated[options, tyro.conf.arg(name="")]
    return name, named, dataclasses.field(default_factory=options)


def _shadow(options: list[Any]) -> Any:
    """Makes a dataclass that tyro sees."""
    return dataclasses.make_dataclass("Options", options)


def _config_option(fields: Fields, presets: Sequence[str], shown: Mapping[str, Any]) -> list[Any]:
    """The option --config, unless the config has a field of that name."""
    name, kinds = ("PRESET|FILE", "Preset or YAML file") if presets else ("FILE", "YAML file")
    text = f"{kinds} of settings; the other options override it."
    text += f" Presets: {', '.join(presets)}." if presets else ""
    return [] if "config" in fields else [("config", _option(name, text), shown.get("config"))]


def _options(fields: Fields, docs: Mapping[str, str], shown: Mapping[str, Any]) -> list[Any]:
    """An option for each field: name, annotation for tyro, and the default that is shown."""
    import tyro

    options: list[Any] = []
    for name, (kind, field) in fields.items():
        if _is_switch(kind):
            value = shown.get(name, False)
            hint = None if isinstance(value, bool) else f"(default: {value})"  # tyro's switches have no third value
            argument = tyro.conf.arg(help=docs.get(name, ""), help_behavior_hint=hint)
            options.append((name, Annotated[bool, argument], value is True))
            continue
        annotation = _option(field.metadata.get("metavar") or _metavar(kind), docs.get(name, ""), shown.get(name))
        if field.metadata.get("positional") and shown:  # when parsing, the loose arguments are sorted afterwards
            annotation = Annotated[annotation, tyro.conf.Positional]
        options.append((name, annotation, shown.get(name)))
    return options


def _option(metavar: str, doc: str, default: Any = None) -> Any:
    import tyro

    spec = tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar=metavar,
        instance_from_str=_Words,
        is_instance=lambda value: True,
        str_from_instance=lambda value: [str(value)],
    )
    hint = "" if default == "" else None  # the empty text is no value that helps
    return Annotated[Any, spec, tyro.conf.arg(help=doc, help_behavior_hint=hint)]


def _metavar(kind: Any) -> str:
    first = members(kind)[0]
    if typing.get_origin(first) is Literal:
        return "{" + ",".join(map(str, typing.get_args(first))) + "}"
    return {int: "INT", float: "NUMBER", str: "TEXT", Fraction: "RATIONAL"}.get(first, "NAME,...")


def _shown(value: Any) -> str:
    if value is None or value == ():
        return "none"
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _field_docs(cls: type) -> dict[str, str]:
    """Reads the string under each field, in the class and in those it inherits from."""
    docs: dict[str, str] = {}
    for base in filter(dataclasses.is_dataclass, reversed(cls.__mro__)):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body  # type: ignore[attr-defined]
        for field, doc in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant):
                docs[ast.unparse(field.target)] = " ".join(str(doc.value.value).split())
    return docs


def gather(argv: Sequence[str], option: str) -> list[str]:
    """The arguments with all uses of a repeated option joined: `--x a --y 1 --x b` is `--y 1 --x a b`."""
    others: list[str] = []
    values: list[str] = []
    into = others
    for arg in argv:
        name, equals, value = arg.partition("=")
        if arg.startswith("--"):
            into = values if name == option else others
        if name != option:
            into.append(arg)
        elif equals:
            values.append(value)
    return [*others, option, *values] if values else list(argv)
