"""The grokking study (arXiv 2507.20057, section 4): `python -m studies.grokking`."""

from __future__ import annotations

from collections.abc import Sequence

from experiment.fork_settings import Planned
from studies import cli
from studies.grokking.config import GrokkingConfig


def settings(argv: Sequence[str] | None, planned: Planned | None = None) -> GrokkingConfig:
    """The resolved settings of a command line; with `--resume RUN` those of the run. A mistake raises ConfigError."""
    return cli.settings(
        GrokkingConfig,
        argv,
        planned,
        prog="python -m studies.grokking",
        description="Memorise modular addition, re-warm the effective learning rate, generalise.",
    )


def make_run(config: GrokkingConfig) -> cli.Trainable:
    from studies.grokking.run import Run

    return Run(config)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, prepare and train; the exit code. Bad input ends in one line and code 2."""
    return cli.main(settings, make_run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
