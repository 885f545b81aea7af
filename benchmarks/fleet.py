"""Updates a second of many seeds as a fleet, against as many processes of one thread: `python -m benchmarks.fleet`.

    python -m benchmarks.fleet --seeds 0-9 -- --config minatar --nap --utd 8

One process of one thread on each core stands for any number of them, one core after another. Both are measured in
turn, several times in one run, so that a busy machine slows both. Arguments after -- are those of the agent's command.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from agents.cli import settings
from agents.fleet.seeds import parse_seeds
from experiment.config import exit_on_bad_input
from experiment.processor import available_cores

EARLY = ["--update-start", "500", "--epsilon-steps", "500", "--replay-capacity", "20000"]
"""Updates begin at once: what comes before them is not measured."""


def main(argv: Sequence[str]) -> int:
    own, rest = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=__doc__)
    parser.add_argument("--seeds", default="0-9", help="seeds of the fleet")
    parser.add_argument("--agent", default="dqn", help="dqn, rainbow or der")
    parser.add_argument("--seconds", type=float, default=20, help="length of a measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each")
    parser.add_argument("--part", choices=("alone", "fleet"), help=argparse.SUPPRESS)
    options = parser.parse_args(own)
    with exit_on_bad_input():
        seeds = parse_seeds(options.seeds)
        settings(options.agent, rest)
    if options.part is not None:
        return part(options.agent, seeds if options.part == "fleet" else seeds[:1], rest, options.seconds)
    cores = available_cores()
    started = {"alone": [start("alone", own, rest) for _ in range(cores)], "fleet": [start("fleet", own, rest)]}
    rates: dict[str, list[float]] = {name: [] for name in started}
    for _ in range(options.rounds):
        for name, processes in started.items():
            rates[name].append(measure(processes))
    for process in (process for processes in started.values() for process in processes):
        process.communicate("\n")
    alone, fleet = (statistics.median(rates[name]) for name in started)
    for name, text in (("alone", f"{cores} processes of one thread"), ("fleet", f"a fleet of {len(seeds)}")):
        print(f"{text}: {', '.join(f'{rate:,.0f}' for rate in rates[name])} updates/s")
    print(f"the fleet makes {fleet / alone:.2f} times as many updates (medians: {fleet:,.0f} and {alone:,.0f})")
    return 0


def start(name: str, own: Sequence[str], rest: Sequence[str]) -> subprocess.Popen[str]:
    """A process that has made its first updates and waits."""
    command = [sys.executable, "-m", "benchmarks.fleet", *own, "--part", name, "--", *rest]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
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


def part(agent: str, seeds: Sequence[int], argv: Sequence[str], seconds: float) -> int:
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
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    raise SystemExit(main(sys.argv[1:]))
