"""Runs many games and seeds of one or several arms, each a run directory: `python -m benchmarks.atari`.

A finished run is never repeated. An interrupted run is resumed. A failed run is retried, and named at the end.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.sweep.command import AgentSweep, Settings, parse
from benchmarks.sweep.runs import KIND
from experiment.config import exit_on_bad_input
from experiment.interrupt import cli_session
from experiment.sweeps.command import carry_out


@cli_session()
def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run the sweep; returns the exit code. Bad input ends in one line and code 2, and writes nothing."""
    with exit_on_bad_input():
        settings, common = parse(argv, Settings)
    return carry_out(settings, KIND, lambda: AgentSweep(settings, common))


if __name__ == "__main__":
    raise SystemExit(main())
