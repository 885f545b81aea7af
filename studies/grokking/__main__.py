"""The grokking study (arXiv 2507.20057, section 4): `python -m studies.grokking`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from experiment.config import ConfigError, exit_on_bad_input, load_yaml, parse_cli
from experiment.run_dir import RunDir
from studies.grokking.config import GrokkingConfig


def settings(argv: Sequence[str] | None) -> GrokkingConfig:
    """The resolved settings of a command line; with `--resume RUN` those of the run. A mistake raises ConfigError."""
    parse: Callable[..., GrokkingConfig] = partial(
        parse_cli,
        GrokkingConfig,
        argv,
        prog="python -m studies.grokking",
        description="Memorise modular addition, re-warm the effective learning rate, generalise.",
        presets={},
    )
    config = parse()
    if config.resume is not None:
        stored = load_yaml(GrokkingConfig, RunDir.open(config.resume).config)
        if replace(parse(base=stored), resume=None) != stored:
            raise ConfigError(f"--resume {config.resume} keeps the settings of that run: give no others")
        return replace(stored, resume=config.resume)
    return config.resolved()


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, prepare and train; the exit code. Bad input ends in one line and code 2."""
    with exit_on_bad_input():
        config = settings(argv)
        from studies.grokking.run import Run

        run = Run(config)
    return run.train()


if __name__ == "__main__":
    raise SystemExit(main())
