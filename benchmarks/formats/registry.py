"""The formats that `benchmarks.convert` reads, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.formats import arrays, bbf, btr, dopamine, events, long_table, mrq, openrlbenchmark, sb3
from benchmarks.formats.point import EVALUATION, TRAINING, Given, Table
from experiment.config import ConfigError


@dataclass(frozen=True)
class Format:
    """How one kind of file is read.

    Attributes:
        kinds: the kinds of returns in its files; the first is read unless --kind says otherwise.
        takes: options that state what the file does not.
        last: training points that the score is the mean of unless --last says otherwise.
    """

    reader: Callable[[Path, Given], Table]
    kinds: tuple[str, ...]
    takes: tuple[str, ...] = ()
    last: int = 1

    def read(self, path: Path, given: Given) -> Table:
        """The table of a file; ConfigError for one without scores."""
        table = self.reader(path, given)
        if not table.points:
            raise ConfigError(f"{path}: it holds no scores")
        return table


ONE_RUN = ("agent", "game", "run")
FORMATS = {
    "sb3-monitor": Format(sb3.read_monitor, (TRAINING,), (*ONE_RUN, "monitor_frames"), last=100),
    "sb3-evaluations": Format(sb3.read_evaluations, (EVALUATION,), ONE_RUN),
    "cleanrl": Format(events.read_cleanrl, (TRAINING, EVALUATION), ONE_RUN, last=100),
    "tianshou": Format(events.read_tianshou, (EVALUATION, TRAINING), ONE_RUN),
    "dopamine": Format(dopamine.read_dopamine, (TRAINING,), ("game",)),
    "mrq": Format(mrq.read_mrq, (EVALUATION,), ("agent",)),
    "bbf": Format(bbf.read_bbf, (EVALUATION,), ("agent",)),
    "btr": Format(btr.read_btr, (EVALUATION,), ("agent", "run")),
    "openrlbenchmark": Format(openrlbenchmark.read_openrlbenchmark, (TRAINING,)),
    "scores": Format(arrays.read_scores, (EVALUATION,), ("agent", "game")),
    "curves": Format(long_table.read_curves, (EVALUATION, TRAINING)),
}
