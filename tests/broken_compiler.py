"""A C++ compiler that fails, in the place of the real one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch._inductor.config as inductor


@contextmanager
def broken_compiler(folder: Path, script: str) -> Iterator[None]:
    """torch.compile calls a shell script in `folder` for its C++ compiler."""
    program = folder / "broken-c++"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    with inductor.patch({"cpp.cxx": (str(program),)}):
        yield
