"""Runs many games and seeds of one or several arms, each a run directory: `python -m benchmarks.atari`.

What is finished is never run again, what was interrupted goes on, and what failed is retried and named at the end.
"""

from __future__ import annotations

from collections.abc import Sequence

from agents.config import DQNConfig
from benchmarks.sweep.command import Command
from benchmarks.sweep.runs import KIND
from benchmarks.sweep.suites import arms, entries, games
from experiment.config import exit_on_bad_input
from experiment.interrupt import cli_session
from experiment.sweeps.command import Sweep, carry_out
from experiment.sweeps.manifest import Entry


class AgentSweep(Sweep):
    """The sweep of a command: every arm plays every game of the suite with every seed."""

    kind = KIND

    def __init__(self, command: Command) -> None:
        settings = command.settings
        self.arms = {arm.name: arm for arm in arms(settings.agent, command.preset, command.arms, command.common)}
        self.games, self.seeds = games(settings.suite), settings.seeds
        super().__init__(settings, command.folder())

    def entries(self) -> tuple[Entry, ...]:
        return entries(self.arms.values(), self.games, self.seeds, self.root, self.device)

    def wanted(self, entry: Entry) -> DQNConfig | None:
        return self.arms[entry.arm].config(entry.task) if entry.arm in self.arms else None


@cli_session()
def main(argv: Sequence[str] | None = None) -> int:
    """Parse, and carry out; the exit code. Bad input ends in one line and code 2, and writes nothing."""
    with exit_on_bad_input():
        command = Command.parse(argv)
    return carry_out(command.settings, KIND, lambda: AgentSweep(command))


if __name__ == "__main__":
    raise SystemExit(main())
