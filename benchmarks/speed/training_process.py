"""A training loop in a process of its own, of the checkout that it is started in, old or new.

`main(agent, *options)` builds the run, makes the first updates, and then reads numbers of updates from its input, one a
line. For each it answers with the updates made, their seconds and the peak of its memory so far. `against` hands this
file's text to an interpreter in the other checkout, so only names that every version has are imported.
"""

import json
import sys
import time
from contextlib import redirect_stdout
from dataclasses import replace

FIRST = 64
"""Updates before the first measurement: they compile."""


def main(agent: str, *argv: str) -> None:
    """Serve until the input ends."""
    from agents.cli import settings
    from agents.run import build_trainer
    from experiment.determinism import configure

    config = settings(agent, argv)
    config = replace(config, compile="true" if config.compile == "auto" else config.compile)
    configure(config.threads, config.seed)
    began = time.perf_counter()
    trainer = build_trainer(config)
    trainer.open()
    with redirect_stdout(sys.stderr):
        train(trainer, FIRST)
    answer(0, time.perf_counter() - began)
    for line in sys.stdin:
        answer(*train(trainer, int(line)))


def train(trainer, updates: int) -> tuple[int, float]:
    """Step until so many updates more are made; how many they were, and their seconds."""
    before, began = trainer.agent.updates, time.perf_counter()
    while trainer.agent.updates < before + updates:
        trainer.step()
    return trainer.agent.updates - before, time.perf_counter() - began


def answer(updates: int, seconds: float) -> None:
    with open("/proc/self/status") as status:  # rusage would keep the peak of the process that started this one
        peak = 1024 * int(status.read().partition("VmHWM:")[2].split()[0])
    print(json.dumps({"updates": updates, "seconds": seconds, "peak_bytes": peak}), flush=True)
