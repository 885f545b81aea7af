"""Builds the API reference from the docstrings: python docs/api/build.py FOLDER. A warning of pdoc is an error."""

import inspect
import pkgutil
import re
import sys
import warnings
from pathlib import Path

from torch import nn
from torch.optim.lr_scheduler import LRScheduler

try:
    from pdoc import pdoc, render, render_helpers
except ModuleNotFoundError:
    raise SystemExit("error: pdoc is not installed: pip install -e '.[docs]'") from None

ROOT = Path(__file__).parents[2]
SPECS = [
    *("nap", "nap.graph", "nap.schedules", "nap.metrics", "plasticity", "replay", "envs", "agents"),
    *(f"{name}.{module.name}" for name in ("replay", "envs") for module in pkgutil.iter_modules([str(ROOT / name)])),
    *("experiment", "studies", "benchmarks"),
    *("!benchmarks.formats", "!benchmarks.report", "!benchmarks.speed", "!benchmarks.sweep"),  # the commands alone
]
"""Packages with `__all__`, whose modules pdoc would not show."""
INHERITED = {inspect.getdoc(member) for base in (nn.Module, LRScheduler) for member in vars(base).values()}


def to_markdown(docstring: str) -> str:
    """Turns lines `name: meaning` into a list, starts a paragraph at sources and errors, removes torch's hook docs."""
    if docstring in INHERITED:
        return ""
    listed = re.sub(r"^(?!Source|Raises)((?:\w+, )*[a-z]\w*): ", r"- **\1**: ", docstring, flags=re.MULTILINE)
    return re.sub(r"^(?=Source: |Raises |Nothing )", "\n", listed, flags=re.MULTILINE)


def main(folder: str) -> None:
    sys.path.insert(0, str(ROOT))
    warnings.filterwarnings("error", category=UserWarning, module="pdoc")
    # The constructor of a derived dataclass has its base's annotations, whose names pdoc seeks in the wrong module.
    warnings.filterwarnings("ignore", r"Error parsing type annotation .*\.__init__\.")
    convert = render_helpers.to_markdown
    render_helpers.to_markdown = lambda text, module, style: convert(to_markdown(text), module, style)
    render.configure(docformat="google", template_directory=Path(__file__).parent)
    pdoc(*SPECS, output_directory=Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
