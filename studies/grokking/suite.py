"""Runs one of the study's experiments: `python -m studies.grokking.suite rewarm`."""

from __future__ import annotations

from functools import partial

from studies import suite
from studies.grokking.__main__ import settings
from studies.grokking.config import GrokkingConfig
from studies.grokking.suites import SUITES
from studies.suite import StudyRuns, StudySweep, SuiteSettings


class GrokkingRuns(StudyRuns[GrokkingConfig]):
    """Runs of `python -m studies.grokking`."""

    program, command, report = "studies.grokking", "studies.grokking.suite", "studies.grokking.figures"
    config_class, suites, task, lengths = GrokkingConfig, SUITES, "operation", frozenset({"updates"})
    parse = staticmethod(settings)

    def length(self, config: GrokkingConfig, updates: int) -> list[str]:
        return ["--updates", str(updates)]


class GrokkingSweep(StudySweep):
    """A suite of the study."""

    kind = GrokkingRuns()


DEFAULTS = SuiteSettings(root="run/grokking")
main = partial(suite.main, GrokkingSweep, DEFAULTS)

if __name__ == "__main__":
    raise SystemExit(main())
