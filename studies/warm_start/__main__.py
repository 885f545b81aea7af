"""The warm-start study (arXiv 2507.20057, section 5): `python -m studies.warm_start`."""

from __future__ import annotations

from collections.abc import Sequence

from experiment.fork_settings import Planned
from studies import cli
from studies.warm_start.config import WarmStartConfig


def settings(argv: Sequence[str] | None, planned: Planned | None = None) -> WarmStartConfig:
    """The resolved settings of a command line; `planned` as in `fork_settings`."""
    description = "Train on a part of the data, then on all of it: what does the warm start cost, and what helps?"
    return cli.settings(WarmStartConfig, argv, planned, prog="python -m studies.warm_start", description=description)


def make_run(config: WarmStartConfig) -> cli.Trainable:
    from studies.warm_start.run import Run

    return Run(config)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, prepare and train; the exit code."""
    return cli.main(settings, make_run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
