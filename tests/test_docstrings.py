"""Names in backticks in a docstring exist: dotted names of ours and torch's, and classes."""

import ast
import importlib
import re
from functools import reduce
from pathlib import Path

import pytest

from envs.games import reference_scores

ROOT = Path(__file__).parent.parent
PACKAGES = ["nap", "plasticity", "replay", "envs", "agents", "experiment", "studies", "benchmarks"]
DOTTED = re.compile(rf"`((?:{'|'.join(PACKAGES)}|torch|nn)(?:\.\w+)+)(?:\(\))?`")
CLASS = re.compile(r"`([A-Z]\w*[a-z]\w*)(?:\(\))?`")
TORCH = ["torch", "torch.nn", "torch.optim", "torch.optim.lr_scheduler"]


def trees(package):
    return [(path, ast.parse(path.read_text())) for path in sorted((ROOT / package).rglob("*.py"))]


def docstrings(tree):
    """Those of modules, classes and functions, and the strings that follow an assignment."""
    return [
        node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]


def exists(name):
    """Whether a dotted name can be reached: the longest module in it that is one, then attributes."""
    parts = name.split(".") if name[:3] != "nn." else ["torch", *name.split(".")]
    for length in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:length]))
            reduce(getattr, parts[length:], module)
        except (ImportError, AttributeError):
            continue
        return True
    return False


@pytest.fixture(scope="module")
def classes():
    ours = {
        node.name
        for package in PACKAGES
        for _, tree in trees(package)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    return ours.union(reference_scores(), *(vars(importlib.import_module(module)) for module in TORCH))


@pytest.mark.parametrize("package", PACKAGES)
def test_names_in_backticks_exist(package, classes):
    found = [(path, text) for path, tree in trees(package) for text in docstrings(tree)]
    assert found
    for path, text in found:
        for name in DOTTED.findall(text):
            assert exists(name), f"{path.relative_to(ROOT)}: `{name}`"
        for name in CLASS.findall(text):
            assert name in classes, f"{path.relative_to(ROOT)}: `{name}`"
