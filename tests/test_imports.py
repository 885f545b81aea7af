"""What may import what. Imports point one way:

examples -> {benchmarks -> agents, studies} -> {plasticity, replay, envs} -> nap, experiment. nap stands on torch alone.
experiment knows nothing of RL.
"""

import ast
import importlib
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PARTS = {"nap", "plasticity", "replay", "envs", "experiment"}
ALLOWED = {
    "nap": set(),
    "plasticity": {"nap", "experiment"},
    "replay": set(),
    "envs": {"experiment"},
    "experiment": set(),
    "agents": PARTS,
    "studies": {"nap", "plasticity", "experiment"},
    "benchmarks": PARTS | {"agents"},
    "examples": PARTS | {"agents", "studies"},
}
PUBLIC = {"nap", "nap.graph", "nap.metrics", "nap.schedules"}
AGENT_COMMANDS = {"agents.der", "agents.dqn", "agents.rainbow"}
"""Each is the class of an agent and its command: the command imports what runs it only when it is run."""


def name_of(file: Path) -> str:
    """The name that a file is imported by."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(file): file for package in ALLOWED for file in sorted((ROOT / package).rglob("*.py"))}


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def is_command_part(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "__name__ == '__main__'" in ast.unparse(node.test)


def is_typing_part(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def import_nodes(node: ast.AST, lazy: bool = True) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports of a module that run: with `lazy` those inside functions and of its `__main__` part too."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif is_typing_part(child):
            continue
        elif lazy or not (is_command_part(child) or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)):
            yield from import_nodes(child, lazy)


def imports(file: Path, lazy: bool = True) -> Iterator[tuple[str, str]]:
    """(module, name taken from it) of each import; no name for `import module`. A module taken by name is a module."""
    for node in import_nodes(tree(file), lazy):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        else:
            assert node.level == 0, f"{file}: relative import"
            whole = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            yield from ((full, "") if full in MODULES else (str(node.module), name) for name, full in whole.items())


def imported(name: str, lazy: bool = True) -> set[str]:
    """Our modules that a module of ours imports."""
    return {module for module, _ in imports(MODULES[name], lazy)} & MODULES.keys()


def has_command(name: str) -> bool:
    return name.endswith("__main__") or any(is_command_part(node) for node in tree(MODULES[name]).body)


@pytest.mark.parametrize("package", ALLOWED)
def test_a_package_imports_only_what_lies_below_it(package):
    names = [name for name in MODULES if name.split(".")[0] == package]
    assert names
    for name in names:
        ours = {module.split(".")[0] for module, _ in imports(MODULES[name])} & set(ALLOWED)
        assert ours <= ALLOWED[package] | {package}, f"{name} imports {ours}"


def test_other_packages_import_of_nap_what_is_public():
    others = [file for name, file in MODULES.items() if name.split(".")[0] != "nap"]
    others += [file for file in (ROOT / "tests").rglob("*.py") if file.parent.name != "nap"]
    taken = [(file, module, name) for file in others for module, name in imports(file) if module.split(".")[0] == "nap"]
    assert taken
    for file, module, name in taken:
        assert module in PUBLIC, f"{file} imports {module}"
        assert not name or name in importlib.import_module(module).__all__, f"{file}: {module} does not list {name}"


def test_no_library_module_imports_a_command():
    """A command is a module with a `__main__` part; the agents' are also the classes that others build upon."""
    commands = {name for name in MODULES if has_command(name)} - AGENT_COMMANDS
    assert {"agents.evaluate", "benchmarks.atari", "studies.warm_start.__main__"} <= commands
    found = {name: wrong for name in MODULES if not has_command(name) and (wrong := imported(name) & commands)}
    assert not found


def test_benchmarks_import_no_study():
    imports_of = {name: imported(name) for name in MODULES if name.split(".")[0] == "benchmarks"}
    assert not {name: found for name, found in imports_of.items() if any(m.startswith("studies") for m in found)}


def test_no_modules_import_one_another_in_a_circle():
    reached = {name: imported(name, lazy=name not in AGENT_COMMANDS) for name in MODULES}
    for middle in MODULES:  # Warshall: what is reached through `middle` too
        for name in MODULES:
            if middle in reached[name]:
                reached[name] |= reached[middle]
    assert not sorted(name for name in MODULES if name in reached[name])


def test_every_package_is_in_the_distribution():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {file.parent.relative_to(ROOT) for file in MODULES.values()}
    assert {".".join(folder.parts) for folder in folders} - {"examples"} <= set(listed)
