"""Speed of learner, replay, environment and training loop, against their peers and the machine's limits.

`python -m benchmarks.throughput` measures everything in one process and in strict alternation, prints a table with
ratios, and writes throughput.json.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.speed.settings import Settings
from experiment.config import exit_on_bad_input, parse_cli
from experiment.interrupt import cli_session
from experiment.processor import processor
from experiment.values import counted


@cli_session()
def main(argv: Sequence[str] | None = None) -> int:
    """Parse, measure, print and write; the exit code."""
    with exit_on_bad_input():
        settings = parse_cli(
            Settings,
            argv,
            prog="python -m benchmarks.throughput",
            description="Measure learner, replay, environment and loop against peers and the machine's limits.",
        ).resolved()
        from benchmarks.speed.measurement import measure
        from experiment.compiler import check_compiler
        from experiment.determinism import device_of

        device = device_of(settings.device)
        if settings.compile:
            check_compiler(device)
        if settings.against is not None:
            from benchmarks.speed.against import compare

            print(f"{processor()}, {counted(settings.threads, 'thread')}: this checkout and {settings.against}")
            for line in compare(settings):
                print(line, flush=True)
            return 0
    from benchmarks.speed.output import show, write

    results = measure(settings)
    show(results)
    write(results, settings.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
