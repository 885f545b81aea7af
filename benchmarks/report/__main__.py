"""Tables and figures of any set of runs: `python -m benchmarks.report RUNS... --out FOLDER`.

RUNS are run directories, sweeps, CSV files with the columns agent,game,run,score (docs/csv.md), and folders of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.report.writer import PAGE, ReportConfig, replace_report
from experiment.config import ConfigError, exit_on_bad_input, parse_cli
from experiment.interrupt import cli_session


def main(argv: Sequence[str] | None = None) -> int:
    with cli_session(), exit_on_bad_input():
        config = parse_cli(ReportConfig, argv, prog="python -m benchmarks.report", description="Report on runs.")
        if not config.runs:
            raise ConfigError("name run directories, folders of them, sweeps, or CSV files of scores")
        replace_report(config)
        print(Path(config.out) / PAGE)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
