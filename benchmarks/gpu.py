"""All that has to be known of a GPU in one run of under eight minutes: `python -m benchmarks.gpu`.

Correctness against the CPU, updates captured in CUDA graphs, waits of the host, memory, a whole run by its own command,
and updates a second. It keeps to its time: each section runs in a process of its own, which ends when its time is over.
A report is printed at the end and written to gpu.json.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from envs.registry import resolve_game
from experiment.config import ConfigError, exit_on_bad_input, parse_cli, suggest
from experiment.interrupt import cli_session
from experiment.storage.files import to_json, write_atomic

SECTIONS = {"correctness": 60, "graph": 60, "waits": 40, "memory": 30, "run": 220, "speed": 1_000}
"""Most seconds of each, in their order; the last takes what is left."""
SERVE = "import sys; from benchmarks.speed.gpu_sections import serve; serve(*sys.argv[1:])"
MARKS = {True: "ok", False: "FAILED", None: ""}
Finding = tuple[str, str, bool | None]
Started = tuple[subprocess.Popen[str], threading.Event]


@dataclass(frozen=True)
class Settings:
    """What is checked and measured."""

    minutes: float = 7.5
    """Time for everything; updates a second get what the rest leaves."""
    device: str = "cuda"
    """Device to check: cuda, cuda:1 ..."""
    only: tuple[str, ...] = tuple(SECTIONS)
    """Sections: correctness, graph, waits, memory, run, speed."""
    game: str = "Breakout"
    """Game of the run."""
    steps: int = 20_000
    """Agent steps of the run."""
    out: str = "run/gpu"
    """Folder for gpu.json, the run and what the sections print."""

    def check(self) -> None:
        """Raise ConfigError for what cannot be checked here, a device that is not there among it."""
        if not self.minutes > 0:
            raise ConfigError(f"--minutes is {self.minutes}: it has to be above 0")
        if self.steps < 2_000:
            raise ConfigError(f"--steps is {self.steps}: a run that learns takes at least 2000")
        for name in self.only:
            if name not in SECTIONS:
                raise ConfigError(f"--only: {name!r} is none of {', '.join(SECTIONS)}{suggest(name, list(SECTIONS))}")
        resolve_game(self.game)
        from experiment.determinism import device_of

        device_of(self.device)

    def run_command(self, name: str) -> list[str]:
        """The command of the run."""
        words = ["--env", self.game, "--device", self.device, "--steps", str(self.steps), "--nap", "--utd", "1"]
        words += ["--eval-episodes", "10", "--root", self.out, "--name", name]
        return [sys.executable, "-m", "agents.dqn", *words]


def section(settings: Settings, name: str, seconds: float) -> Iterator[Finding]:
    """The findings of a section, each as soon as it is made; an end before the last is a finding too."""
    run = settings.run_command(f"run-{time.strftime('%Y%m%d-%H%M%S')}") if name == "run" else []
    command = [sys.executable, "-c", SERVE, name, settings.device, str(0.95 * seconds), *run]
    log = Path(settings.out) / f"{name}.log"
    last: Finding | None = None
    with log.open("w") as errors, _process(command, errors, seconds) as (process, late):
        for printed in process.stdout or ():
            last = _finding(printed)
            yield last
        code = process.wait()
    if late.is_set():
        yield "time", f"ended after its {seconds:.0f} s, before it was through", False
    elif code and (last is None or last[0] != "error"):
        ending = log.read_text(errors="replace").strip().splitlines()[-1:]
        yield "error", f"exit code {code}: {' '.join(ending)}", False


def _finding(printed: str) -> Finding:
    name, text, passed = json.loads(printed)
    return name, text, passed


@contextmanager
def _process(command: Sequence[str], errors: Any, seconds: float) -> Iterator[Started]:
    """A process and its children, all of which end with this context, or when the seconds are over (the event)."""
    late = threading.Event()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True)

    def end() -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def end_late() -> None:
        late.set()
        end()

    timer = threading.Timer(seconds, end_late)
    timer.start()
    try:
        yield process, late
    finally:
        timer.cancel()
        end()
        process.wait()


def check(settings: Settings) -> dict[str, list[Finding]]:
    """All sections within their time, each finding printed as it comes."""
    end, found = time.monotonic() + 60 * settings.minutes, dict[str, list[Finding]]()
    for name in (name for name in SECTIONS if name in settings.only):
        seconds = min(SECTIONS[name], end - time.monotonic())
        if seconds < 1:
            found[name] = [("time", "left out: no time", None)]
            continue
        print(f"{name} (at most {seconds:.0f} s)", flush=True)
        found[name] = []
        for finding in section(settings, name, seconds):
            found[name].append(finding)
            print(f"  {line(finding)}", flush=True)
    return found


def line(finding: Finding) -> str:
    """A finding as the report has it."""
    name, text, passed = finding
    return f"{MARKS[passed]:6}  {name}: {text}".rstrip()


def summary(found: dict[str, list[Finding]]) -> str:
    """How many checks passed, and those that did not."""
    judged = [(name, finding) for name, findings in found.items() for finding in findings if finding[2] is not None]
    failed = [f"  {name}: {line(finding)}" for name, finding in judged if not finding[2]]
    return "\n".join([f"{len(judged) - len(failed)} of {len(judged)} checks passed", *failed])


@cli_session()
def main(argv: Sequence[str] | None = None) -> int:
    """Parse, check, print and write; the exit code: 1 if a check failed."""
    with exit_on_bad_input():
        settings = parse_cli(
            Settings,
            argv,
            prog="python -m benchmarks.gpu",
            description="Check this project on a GPU and measure it there, in under eight minutes.",
            presets={},
        )
        settings.check()
        Path(settings.out).mkdir(parents=True, exist_ok=True)
    from experiment.determinism import environment

    began, machine, path = time.monotonic(), environment(), Path(settings.out) / "gpu.json"
    print(f"{machine['gpu'] or machine['cpu']}, torch {machine['torch']}")
    found = check(settings)
    report = {"settings": asdict(settings), "environment": machine, "seconds": time.monotonic() - began}
    sections = {
        name: [dict(zip(("name", "text", "passed"), f, strict=True)) for f in each] for name, each in found.items()
    }
    write_atomic(path, to_json(report | {"sections": sections}))
    print(f"\n{summary(found)}\nreport, in {report['seconds']:.0f} s: {path}")
    return 0 if all(finding[2] is not False for findings in found.values() for finding in findings) else 1


if __name__ == "__main__":
    raise SystemExit(main())
