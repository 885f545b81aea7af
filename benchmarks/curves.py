"""Learning curves of runs, and the measures of their probes: `python -m benchmarks.curves RUNS... --out FIGURE`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from experiment.config import ConfigError, exit_on_bad_input, parse_cli
from experiment.interrupt import cli_session
from experiment.storage.files import write_atomic

POINTS = 20


@dataclass(frozen=True)
class CurvesConfig:
    """What to draw."""

    runs: tuple[str, ...] = field(default=(), metadata={"positional": True, "metavar": "RUNS"})
    """Run directories, folders of them and sweeps, finished or not; and CSV tables of learning curves."""
    each: bool = False
    """Draw one line for each run. Default: one line for runs that differ only in the seed, with single lines or an
    interval."""
    plasticity: bool = False
    """Below each game's curves: ELR, dormant units, ranks and fits of random targets of the same runs."""
    out: str = "curves.svg"
    """File of the figure; its ending sets the format."""
    table: str | None = None
    """Also write the curves and measures, at 20 steps of each run, to this CSV file, which this command draws too."""


def draw(config: CurvesConfig) -> None:
    """Reads the runs and writes the figure. Raises ConfigError, in one line, for bad input."""
    from benchmarks.report.curve_figure import draw_learning
    from benchmarks.report.curve_tables import thinned
    from benchmarks.report.runs import check_arms, read_runs, trace_of
    from experiment.plot import plotting, save

    pyplot, out = plotting(), Path(config.out)
    formats = pyplot.figure().canvas.get_supported_filetypes()
    pyplot.close("all")
    if out.suffix[1:] not in formats:
        raise ConfigError(f"--out {config.out!r}: its ending sets the format, one of {', '.join(sorted(formats))}")
    runs = read_runs(config.runs)
    if not config.each:
        check_arms(runs)
    figure = draw_learning(pyplot, runs, config.each, config.plasticity)
    try:
        save(figure, out)
        if config.table is not None:
            traces = [(str(run.seed), trace) for run in runs if (trace := trace_of(run)) is not None]
            write_atomic(Path(config.table), thinned(traces, POINTS))
    except OSError as error:
        raise ConfigError(f"cannot write {error.filename or config.out!r}: {error.strerror}") from None


@cli_session()
def main(argv: Sequence[str] | None = None) -> int:
    with exit_on_bad_input():
        config = parse_cli(CurvesConfig, argv, prog="python -m benchmarks.curves", description="Draw learning curves.")
        if not config.runs:
            raise ConfigError("name at least one run directory, or a folder of them")
        draw(config)
        print(config.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
