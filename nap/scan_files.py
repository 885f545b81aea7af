"""Where a scan's report is written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

SUFFIXES = (".json", ".html")


def report_files(out: Path) -> list[Path]:
    """scan.json and scan.html in a folder, or the one file. Raises ValueError for a place where they cannot be."""
    is_file = out.suffix in SUFFIXES
    if out.is_dir() == is_file and (is_file or out.suffix or out.exists()):
        raise ValueError(f"--out {str(out)!r}: name a folder, or a file that ends in .json or .html")
    folder = out if out.is_dir() else out.parent
    if not folder.is_dir():
        raise ValueError(f"--out {str(out)!r}: there is no folder {str(folder)!r}")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"--out {str(out)!r}: nothing can be written in folder {str(folder)!r}")
    return [out] if is_file else [out / f"scan{suffix}" for suffix in SUFFIXES]


def save_all(texts: Mapping[Path, str]) -> list[Path]:
    """Writes the files, which are in one folder, next to the old ones and then renames them."""
    folder = next(iter(texts)).parent
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".scan-") as new:
        for file, text in texts.items():
            (Path(new) / file.name).write_text(text, encoding="utf-8")
        for file in texts:
            os.replace(Path(new) / file.name, file)
    return list(texts)
