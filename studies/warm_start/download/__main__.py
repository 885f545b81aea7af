"""The command of the download."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from experiment.config import exit_on_bad_input, parse_cli
from experiment.interrupt import cli_session
from studies.warm_start.download import download


@dataclass(frozen=True)
class DownloadConfig:
    """What to download, and to which folder."""

    data: Literal["cifar10", "fashion-mnist"] = field(default="cifar10", metadata={"positional": True})
    """Data set."""
    data_dir: str | None = None
    """Folder of the data sets; none: $REWARM_DATA, else ~/.cache/rewarm."""


@cli_session()
def main(argv: Sequence[str] | None = None) -> int:
    """Parse and download; the exit code. A fault ends in one line and code 2."""
    with exit_on_bad_input():
        config = parse_cli(
            DownloadConfig, argv, prog="python -m studies.warm_start.download", description="Download data."
        )
        print(f"in {download(config.data, config.data_dir)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
