"""Runs one of the study's experiments: `python -m studies.grokking.suite rewarm`."""

from studies.grokking.__main__ import settings
from studies.grokking.suites import SUITES
from studies.suite import Study, SuiteConfig

STUDY = Study("studies.grokking", settings, SUITES, SuiteConfig(root="run/grokking"))

if __name__ == "__main__":
    raise SystemExit(STUDY.main())
