"""Strict configs: flat dataclasses that are read from YAML files and from the command line, and written back.

A field is bool, int, float, str, Fraction, Literal[...], tuple[str, ...] or one of them `| None`, and has a default.
The string under it is its help. Its metadata may hold "metavar" and "positional" (True: it may be given without its
flag; a list then holds paths, and no text is cut at spaces and commas). In a field that may be None, the text "none" is
None.
"""

import contextlib
import dataclasses
import functools
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import yaml

from experiment import command_line
from experiment.values import ConfigError as ConfigError
from experiment.values import coerce, one_line
from experiment.values import suggest as suggest

C = TypeVar("C")


def _read_fields(cls: Any) -> dict[str, tuple[Any, dataclasses.Field]]:
    """The fields of a config by name, each with its resolved type."""
    hints = typing.get_type_hints(cls)
    return {field.name: (hints[field.name], field) for field in dataclasses.fields(cls) if field.init}


_fields: Callable[[Any], dict[str, tuple[Any, dataclasses.Field]]] = functools.cache(_read_fields)


def _coerce_field(cls: type, key: str, value: Any, where: str) -> Any:
    kind, _ = _fields(cls)[key]
    if isinstance(value, str) and command_line.holds_paths(key, _fields(cls)):
        value = [value]
    try:
        return coerce(value, kind)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _coerce_all(cls: type, entries: Iterable[tuple[str, Any, str]]) -> dict[str, Any]:
    """Checks (key, value, where) entries against the fields of `cls`."""
    values: dict[str, Any] = {}
    for key, value, where in entries:
        if key not in _fields(cls):
            raise ConfigError(f"{where}: unknown key {key!r}{suggest(str(key), _fields(cls))}")
        if key in values:
            raise ConfigError(f"{where}: key {key!r} stands twice")
        values[key] = _coerce_field(cls, key, value, f"{where}: {key}")
    return values


def _build(cls: Any, values: Mapping[str, Any], base: C | None) -> C:
    return cls(**values) if base is None else dataclasses.replace(base, **values)  # type: ignore[type-var]


def from_mapping(cls: type[C], mapping: Mapping[str, Any], where: str, base: C | None = None) -> C:
    """Builds a config from a mapping. Keys that it leaves out have the values of `base`, or the defaults.

    Raises:
        ConfigError: an unknown key (with the near match) or a value of the wrong type; `where` opens the line.
    """
    return _build(cls, _coerce_all(cls, ((key, value, where) for key, value in mapping.items())), base)


def load_yaml(cls: type[C], path: Path | str, base: C | None = None) -> C:
    """Reads a config from a YAML file of one `key: value` a line.

    Raises:
        ConfigError: the file cannot be read, is no such YAML, or holds a wrong key or value; with the line number.
    """
    return _build(cls, _coerce_all(cls, _yaml_entries(Path(path))), base)


def _yaml_entries(path: Path) -> Iterator[tuple[str, Any, str]]:
    node = _compose(path)
    if node is None:
        return
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path}: expected lines of 'key: value'")
    for key, value in node.value:
        where = f"{path} line {key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigError(f"{where}: expected a name before the colon")
        yield key.value, _plain(value, f"{where}: {key.value}"), where


def _compose(path: Path) -> yaml.Node | None:
    """Parses without YAML 1.1's guesses at types: every scalar stays the text that was written."""
    try:
        return yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except OSError as error:
        raise ConfigError(f"cannot read config {str(path)!r}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"cannot read config {str(path)!r}: it is not UTF-8 text") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from None


def _plain(node: yaml.Node, where: str) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return None if node.value == "" and node.style is None else node.value
    if isinstance(node, yaml.SequenceNode) and all(isinstance(item, yaml.ScalarNode) for item in node.value):
        return [item.value for item in node.value]
    raise ConfigError(f"{where}: expected one value or a list of names")


def as_plain(config: Any) -> dict[str, Any]:
    """Every field of a config, in values that YAML and JSON have; `from_mapping` gives back an equal one."""
    return {name: _plain_value(getattr(config, name)) for name in _fields(type(config))}


def dump_yaml(config: Any) -> str:
    """Writes every field of a config, so that `load_yaml` gives back an equal one."""
    # unicode is escaped: PyYAML writes U+0085 in a form that it reads back as a space
    return yaml.safe_dump(as_plain(config), sort_keys=False, allow_unicode=False, width=2**31)


def _plain_value(value: Any) -> Any:
    if isinstance(value, Fraction):
        return value.numerator if value.denominator == 1 else str(value)
    return list(value) if isinstance(value, tuple) else value


def parse_cli(
    cls: type[C],
    argv: Sequence[str] | None = None,
    *,
    prog: str,
    description: str,
    presets: Mapping[str, Path] = MappingProxyType({}),
    default_preset: str | None = None,
    base: C | None = None,
) -> C:
    """Reads a config from the command line: `--config PRESET|FILE` first, and every other option overrides it.

    If the config has a field `config`, --config is that field's option and reads no preset.
    `base`, for example the settings of a resumed run, replaces the defaults; `default_preset` is then not read.

    Raises:
        ConfigError: any mistake, in one line. `--help` prints and raises SystemExit(0).
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    fields = _fields(cls)
    given = command_line.split(fields, argv)
    default_source = default_preset if base is None else None
    source = default_source if "config" in fields else given.pop("config", default_source)
    values = {} if source is None else _coerce_all(cls, _yaml_entries(_config_path(source, presets)))
    if command_line.asks_help(argv):
        defaults = {name: _default(field, base) for name, (_, field) in fields.items()} | values
        command_line.print_help(cls, fields, {"config": source} | defaults, list(presets), prog, description, argv)
    values |= {name: _coerce_field(cls, name, value, command_line.flag(name)) for name, value in given.items()}
    return _build(cls, values, base)


def _config_path(source: str, presets: Mapping[str, Path]) -> Path:
    if source in presets:
        return presets[source]
    if "/" in source or source.endswith((".yaml", ".yml")) or Path(source).is_file():
        return Path(source)
    names = f" (presets: {', '.join(presets)})" if presets else ""
    raise ConfigError(f"--config: no preset or file is named {source!r}{names}{suggest(source, presets)}")


def _default(field: dataclasses.Field, base: Any) -> Any:
    if base is not None:
        return getattr(base, field.name)
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


@contextlib.contextmanager
def exit_on_bad_input() -> Iterator[None]:
    """Turns a mistake of the user into one line on stderr and exit code 2.

    Catches ValueError (ConfigError is one) and OSError, so it belongs around the set-up of a run, not around training.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        text = str(error)
        if isinstance(error, OSError) and error.strerror:
            text = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
        print("error:", one_line(text), file=sys.stderr)
        raise SystemExit(2) from None
