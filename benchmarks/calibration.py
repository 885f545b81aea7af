"""What a sweep will cost, foretold from a few hundred updates of each arm."""

from __future__ import annotations

import json
import math
import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from agents.config import STACK, DQNConfig
from benchmarks.manifest import Entry
from benchmarks.suites import settings_of
from experiment.processes import ENVIRONMENT, child_setup, exit_on_signals

UPDATES = 200
"""Updates of a calibration; the second half of them is timed."""


def calibrate(entry: Entry, place: Mapping[str, str]) -> float:
    """Seconds that a run like this one trains, without its evaluation, from a short one in a temporary folder.

    `place`: environment variables that say where it runs. RuntimeError says why it could not be measured.
    """
    config = settings_of(entry)
    part = part_length(config)
    short = {
        "steps": 4 * part, "frames": "none", "update-start": 2 * part, "log-interval": part, "schedule": "constant",
        "probe-interval": 0, "checkpoint-interval": 0, "eval-episodes": 0, "name": "calibration",
    }  # fmt: skip
    with exit_on_signals(), tempfile.TemporaryDirectory() as folder:
        options = [word for name, value in (short | {"root": folder}).items() for word in (f"--{name}", str(value))]
        words = [*entry.command, *options]
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            env={**os.environ, **ENVIRONMENT, **place},
            timeout=3600,
            preexec_fn=child_setup(),  # it must not outlive this process
        )
        if done.returncode:
            raise RuntimeError((done.stderr.strip() or "it printed nothing").splitlines()[-1])
        rows = map(json.loads, (Path(folder) / "calibration" / "metrics.jsonl").read_text().splitlines())
        return extrapolated(config, {row["agent_step"]: row["seconds"] for row in rows if "seconds" in row})


def part_length(config: DQNConfig) -> int:
    """Agent steps in each quarter of a calibration: two of play alone, and two that share the updates."""
    window = max(config.n_step, config.n_step_final or 0) + STACK + 1
    rows = math.ceil(UPDATES / 2 / config.utd / config.num_envs)
    ready = math.ceil((window + math.ceil(config.batch_size / config.num_envs)) / 2)
    return config.num_envs * max(rows, ready)


def extrapolated(config: DQNConfig, seconds: dict[int, float]) -> float:
    """Seconds of the whole run, from those at the ends of the quarters; the first updates compile and do not count."""
    one, two, three, four = sorted(seconds)
    play, learn = (seconds[two] - seconds[one]) / (two - one), (seconds[four] - seconds[three]) / (four - three)
    return play * min(config.update_start, config.budget) + learn * max(config.budget - config.update_start, 0)


def cost(entries: Iterable[Entry], processes: int | None, place: Mapping[str, str]) -> Iterator[str]:
    """Lines that say what a run of each arm takes, and how long all of these runs do; each arm is calibrated once.

    `processes`: runs side by side, None if that is not known. `place`: see `calibrate`.
    """
    arms: dict[str, list[Entry]] = {}
    for entry in entries:
        arms.setdefault(entry.config_hash, []).append(entry)
    seconds, longest, failed = [0.0], 0.0, False
    for runs in arms.values():
        try:
            each = calibrate(runs[0], place)
        except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
            failed = True
            yield f"arm {runs[0].arm}: could not be calibrated: {error}"
            continue
        seconds.append(each * len(runs))
        longest = max(longest, each)
        yield f"arm {runs[0].arm}: {each:,.0f} s a run, by {UPDATES} updates on {runs[0].game}; {len(runs)} to do"
    if len(seconds) == 1:
        yield "cost: unknown"
        return
    hours = max(math.fsum(seconds) / (processes or 1), longest) / 3600
    less = ", without the arms that failed" if failed else ""
    side = (
        "one after the other (--processes says how many at a time)"
        if processes is None
        else f"with {processes} at a time"
    )
    yield f"cost: {hours:,.2f} hours {side}{less}; games of the evaluations come on top"
