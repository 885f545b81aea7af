"""The command of the figures."""

from __future__ import annotations

from collections.abc import Sequence

from studies import figures
from studies.warm_start.figures import draw_folder, draw_run


def main(argv: Sequence[str] | None = None) -> int:
    return figures.main(argv, prog="python -m studies.warm_start.figures", draw_run=draw_run, draw_folder=draw_folder)


if __name__ == "__main__":
    raise SystemExit(main())
