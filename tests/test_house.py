"""The house: no long files, no logic written twice."""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("agents", "benchmarks", "envs", "examples", "experiment", "nap", "plasticity", "replay", "studies")
FILES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
LINES = 350
WINDOW = 6


def name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def test_a_file_is_short():
    long = {name(file) for file in FILES if len(file.read_text().splitlines()) >= LINES}
    assert not long


def logic(tree: ast.AST) -> list[str]:
    """The lines of a module as Python would write them, without imports, docstrings, comments and blank lines."""

    class Bare(ast.NodeTransformer):
        def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
            return None if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) else node

        def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
            return None

        visit_ImportFrom = visit_Import

    return [line.strip() for line in ast.unparse(Bare().visit(tree)).splitlines() if line.strip()]


def repeated(modules: dict[str, list[str]]) -> list[str]:
    """The blocks of lines that stand in two packages: where, and their first line."""
    places: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for module, lines in modules.items():
        for i in range(len(lines) - WINDOW + 1):
            places[tuple(lines[i : i + WINDOW])].add(module)
    twice = {block: where for block, where in places.items() if len({each.split("/")[0] for each in where}) > 1}
    return [f"{', '.join(sorted(where))}: {block[0]}" for block, where in twice.items()]


def test_no_block_of_six_lines_stands_in_two_packages():
    assert repeated({name(file): logic(ast.parse(file.read_text())) for file in FILES}) == []


def test_a_copied_block_is_found_whatever_its_spaces_and_comments():
    body = "\n".join(f"    x = x + {i}  # {i}" for i in range(WINDOW))
    one, two = f"def f(x):\n{body}\n", f'def g(x):\n    """Other."""\n{body.replace("    x", "    x ")}\n'
    found = repeated({"agents/a.py": logic(ast.parse(one)), "envs/b.py": logic(ast.parse(two))})
    assert found == ["agents/a.py, envs/b.py: x = x + 0"]
    assert repeated({"agents/a.py": logic(ast.parse(one)), "agents/b.py": logic(ast.parse(two))}) == []
