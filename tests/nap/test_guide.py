"""The guide's code runs, from top to bottom; and the distribution of nap alone asks for the same torch as the whole."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(("page", "least"), [("docs/nap.md", 7), ("docs/hyperball.md", 1)])
def test_the_code_of_the_guide_runs(tmp_path, monkeypatch, page, least):
    text = (ROOT / page).read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    assert len(blocks) >= least
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "guide"}
    for block in blocks:
        before = text[: text.index(block)].count("\n")  # so that an error names the guide's own line
        exec(compile("\n" * before + block, page, "exec"), namespace)


def test_both_distributions_pin_the_same_torch_and_python():
    whole, alone = (tomllib.loads((ROOT / path / "pyproject.toml").read_text())["project"] for path in ("", "nap"))
    assert alone["requires-python"] == whole["requires-python"]
    assert alone["dependencies"] == [name for name in whole["dependencies"] if name.startswith("torch>")]
