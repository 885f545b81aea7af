"""Updates a second of many seeds as a fleet, against as many processes of one thread: `python -m benchmarks.fleet`.

    python -m benchmarks.fleet --seeds 0-9 -- --config minatar --nap --utd 8

One process of one thread on each core stands for any number of them, one core after another. Both are measured in
turn, several times in one run, so that a busy machine slows both. Arguments after -- are those of the agent's command.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from agents.cli import settings
from experiment.config import exit_on_bad_input, parse_cli
from experiment.interrupt import cli_session
from experiment.processor import available_cores
from experiment.seeds import parse_seeds

EARLY = ["--update-start", "500", "--epsilon-steps", "500", "--replay-capacity", "20000"]
"""Updates begin at once: what comes before them is not measured."""


@dataclass(frozen=True)
class FleetConfig:
    """What to measure; arguments of the agent follow after --."""

    agent: str = "dqn"
    """dqn, rainbow or der."""
    seeds: str = "0-9"
    """Seeds of the fleet."""
    seconds: float = 20.0
    """Length of a measurement."""
    rounds: int = 3
    """Measurements of each."""


def run(config: FleetConfig, rest: Sequence[str]) -> None:
    """Measures processes of one thread and a fleet in turn, and prints both."""
    cores, seeds = available_cores(), parse_seeds(config.seeds)
    started = {
        "alone": [start(config, seeds[:1], rest) for _ in range(cores)],
        "fleet": [start(config, seeds, rest)],
    }
    rates: dict[str, list[float]] = {name: [] for name in started}
    for _ in range(config.rounds):
        for name, processes in started.items():
            rates[name].append(measure(processes))
    for process in (process for processes in started.values() for process in processes):
        process.communicate("\n")
    alone, fleet = (statistics.median(rates[name]) for name in started)
    for name, text in (("alone", f"{cores} processes of one thread"), ("fleet", f"a fleet of {len(seeds)}")):
        print(f"{text}: {', '.join(f'{rate:,.0f}' for rate in rates[name])} updates/s")
    print(f"the fleet makes {fleet / alone:.2f} times as many updates (medians: {fleet:,.0f} and {alone:,.0f})")


@cli_session()
def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    own, rest = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    with exit_on_bad_input():
        config = parse_cli(FleetConfig, own, prog="python -m benchmarks.fleet", description=__doc__ or "")
        settings(config.agent, rest)
        run(config, rest)
    return 0


def start(config: FleetConfig, seeds: Sequence[int], rest: Sequence[str]) -> subprocess.Popen[str]:
    """A process that has made its first updates and waits."""
    code = f"from benchmarks.fleet import part; part({config.agent!r}, {list(seeds)}, {list(rest)}, {config.seconds})"
    command = [sys.executable, "-c", code]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    while (line := process.stdout.readline()) and line != "ready\n":
        print(line, end="")
    return process


def measure(processes: Sequence[subprocess.Popen[str]]) -> float:
    """Updates a second of processes that work at once."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return sum(float(process.stdout.readline()) for process in processes if process.stdout is not None)


def part(agent: str, seeds: Sequence[int], argv: Sequence[str], seconds: float) -> None:
    """One process: trains, and measures as long as lines come in."""
    import numpy as np

    from agents.fleet.run import on_one_thread
    from agents.fleet.trainer import FleetTrainer
    from agents.run import build_trainer
    from agents.training.trainer import Trainer

    threads = min(available_cores(), len(seeds))
    config = replace(settings(agent, [*EARLY, *argv]), compile="true", threads=threads)
    on_one_thread()
    works: list[tuple[FleetTrainer | Trainer, int]] = []
    for places in np.array_split(np.array(seeds), threads):
        trainers = [build_trainer(replace(config, seed=int(seed))) for seed in places]
        for trainer in trainers:
            trainer.open()
        single = len(seeds) == 1
        works.append((trainers[0] if single else FleetTrainer(trainers, [True] * len(trainers)), len(trainers)))

    def step(work: FleetTrainer | Trainer) -> int:
        work.step()
        if isinstance(work, Trainer):
            return work.updates
        for number in range(len(work.trainers)):
            work.rows(number)
        return work.first.updates

    def train(work: FleetTrainer | Trainer, end: float) -> int:
        first = updates = step(work)
        while time.monotonic() < end:
            updates = step(work)
        return updates - first

    with ThreadPoolExecutor(threads, initializer=on_one_thread) as pool:
        for work, _ in works:
            while pool.submit(step, work).result() < 50:
                pass
        print("ready", flush=True)
        while sys.stdin.readline().strip():
            end = time.monotonic() + seconds
            made = [(pool.submit(train, work, end), count) for work, count in works]
            print(sum(updates.result() * count for updates, count in made) / seconds, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
