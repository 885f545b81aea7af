"""Runs one of the study's experiments: `python -m studies.warm_start.suite headline`."""

from __future__ import annotations

from studies.suite import Study, SuiteConfig
from studies.warm_start.__main__ import settings
from studies.warm_start.suites import SUITES

STUDY = Study("studies.warm_start", settings, SUITES, SuiteConfig(root="run/warm-start", log_interval=500))

if __name__ == "__main__":
    raise SystemExit(STUDY.main())
