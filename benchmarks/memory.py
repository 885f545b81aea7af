"""How much memory a run takes once its replay is full: `python -m benchmarks.memory`.

Each preset is built as its command builds it, in a process of its own; its replay is filled, whatever its capacity, and
it makes updates. The figure is the process's peak resident memory.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from experiment.config import ConfigError, exit_on_bad_input, parse_cli
from experiment.interrupt import cli_session

RUNS = ("der:der", "der:small", "dqn:atari100k", "dqn:200m")
UPDATES = 64


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    runs: tuple[str, ...] = RUNS
    """Agent and preset of each run. The 1M steps of dqn:200m take 7 GB."""
    compile: bool = True
    """Compile the loss, which takes memory too."""

    def check(self) -> None:
        """Raise ConfigError for a run that is no agent and preset."""
        from agents.cli import settings

        for run in self.runs:
            agent, separator, preset = run.partition(":")
            if not separator:
                raise ConfigError(f"--runs: {run!r} is no AGENT:PRESET, such as {RUNS[0]}")
            settings(agent, ["--config", preset])


def peak_gigabytes(agent: str, preset: str, compile: bool) -> float:
    """Build, fill, update; the peak resident memory of this process in GB."""
    import resource

    from agents.cli import settings
    from agents.run import build_trainer
    from benchmarks.speed.replays import add_run
    from experiment.determinism import configure

    words = ["--config", preset, "--env=Pong", "--threads=1", f"--compile={str(compile).lower()}", "--update-start=0"]
    config = settings(agent, words)
    configure(config.threads, config.seed)
    trainer = build_trainer(config)
    add_run(trainer.replay)(trainer.replay.max_rows)
    trainer.open()
    while trainer.agent.updates < UPDATES:
        trainer.step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


@cli_session()
def main(argv: Sequence[str] | None = None) -> int:
    """Parse, measure in fresh processes and print; the exit code."""
    with exit_on_bad_input():
        settings = parse_cli(
            Settings, argv, prog="python -m benchmarks.memory", description="Measure memory.", presets={}
        )
        settings.check()
        if settings.compile:
            from experiment.compiler import check_compiler

            check_compiler("cpu")
    for run in settings.runs:
        agent, _, preset = run.partition(":")
        arguments = f"{agent!r}, {preset!r}, {settings.compile}"
        call = f"from benchmarks.memory import peak_gigabytes; print(peak_gigabytes({arguments}))"
        done = subprocess.run([sys.executable, "-c", call], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            print(f"{run}: failed with exit code {done.returncode}")
            return 1
        print(f"{run}: {float(done.stdout.split()[-1]):.2f} GB at its peak", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
