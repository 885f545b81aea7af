"""Imports point one way: benchmarks, examples -> agents, studies -> {plasticity, replay, envs} -> {nap, experiment}.

nap stands on torch alone. experiment knows nothing of RL.
"""

import ast
import tomllib
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
    "benchmarks": PARTS | {"agents", "studies"},
    "examples": PARTS | {"agents", "studies"},
}


def imported(path: Path) -> set[str]:
    """First names of all absolute imports of a file, those inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", ALLOWED)
def test_a_package_imports_only_what_lies_below_it(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        ours = imported(file) & set(ALLOWED)
        assert ours <= ALLOWED[package] | {package}, f"{file.relative_to(ROOT)} imports {ours}"


def test_every_package_is_in_the_distribution():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(ROOT) for package in ALLOWED for path in (ROOT / package).rglob("*.py")}
    assert {".".join(folder.parts) for folder in folders} - {"examples"} <= set(listed)
